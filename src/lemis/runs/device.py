"""The device that a run computes on."""

from __future__ import annotations

from pathlib import Path

import torch

from lemis.errors import UsageError


def chosen_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` -> ``cpu`` or ``cuda``.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", allowed="auto or cpu: PyTorch sees no CUDA device", next="lemis doctor")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def has_bfloat16(device: str) -> bool:
    """Whether ``cpu`` or ``cuda`` computes in bfloat16 itself.

    PyTorch also says yes of devices that only imitate it: processors with AVX-512 alone, on which a convolution in
    bfloat16 takes twice as long as in float32, and GPUs older than Ampere.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not (cpu_has_bfloat16() and torch.backends.mkldnn.is_available()):  # a build without oneDNN cannot be asked
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor lists bfloat16 instructions; False where the system does not tell."""
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
