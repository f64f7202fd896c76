"""Peak memory, of the process or on the GPU."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import torch

_CLEAR_PEAK = "5"  # proc(5): sets VmHWM to what is held now


def reset_peak_memory() -> bool:
    """From here on ``peak_memory_gb`` counts anew; whether it does, which only Linux can, where nobody forbids it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform != "linux":
        return False
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # or what an earlier cell has freed would count
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory_gb() -> float | None:
    """The most held since ``reset_peak_memory``, or since the process began: on the GPU where it used one, else in all.

    Returns:
        10^9 bytes; None on Windows, which does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # getrusage also counts what the parent held when it started this process
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        peak = next((line for line in lines if line.startswith("VmHWM:")), None)
        return None if peak is None else round(int(peak.split()[1]) * 1024 / 1e9, 2)
    import resource  # here, as Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
