"""``lemis doctor``: what this machine has, which versions, and one fix per line for what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import json as json_format
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import Version
from rich.text import Text

from lemis import children, terminal

State = Literal["good", "note", "fix"]
Installed = Callable[[str], str | None]

MEMORY_GB = 8.0  # below this, 3D data sets and the parallel `prepare` get tight
DISK_GB = 5.0  # a prepared data set of a hundred scans and a few runs


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis; ``fix`` is what to type or do where the state is not good."""

    name: str
    seen: str
    state: State = "good"
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything ``doctor`` found."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Nothing must be fixed; notes are allowed."""
        return all(finding.state != "fix" for finding in self.findings)


def doctor(*, output: Path = Path(), device: str = "auto", json: bool = False) -> Diagnosis:
    """Print and return the state of this machine and installation.

    Args:
        output: Where results are to be written: checked for access and free disk.
        device: ``"cuda"`` makes a missing GPU a fault.
        json: Print JSON instead of lines.
    """
    diagnosis = Diagnosis(findings=(*machine(), *torch_facts(device), *versions(), *known_bad(), *disk(output)))
    if json:
        print(
            json_format.dumps(
                {"healthy": diagnosis.healthy, "findings": [asdict(f) for f in diagnosis.findings]}, indent=1
            )
        )
    else:
        _print(diagnosis)
    return diagnosis


def machine() -> Iterator[Finding]:
    """System, cores and memory."""
    yield Finding(name="system", seen=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    yield Finding(name="cores", seen=str(children.cores()))
    little = "use `lemis prepare WORK --jobs 1` and a smaller batch_size if a step runs out of memory"
    yield _amount("memory", memory_bytes() / 1e9, MEMORY_GB, "note", little)


def _amount(name: str, there_gb: float, wanted_gb: float, state: State, fix: str) -> Finding:
    """So many GB, with ``state`` and ``fix`` where they are fewer than wanted."""
    seen = f"{there_gb:.1f} GB"
    return (
        Finding(name=name, seen=seen, state=state, fix=fix) if there_gb < wanted_gb else Finding(name=name, seen=seen)
    )


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> float:
    """Memory of the machine, or of its container where that is less; infinite where nothing tells."""
    try:
        physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        physical = float("inf")
    try:
        limit = float(cgroup.read_text(encoding="utf-8").strip().replace("max", "inf"))
    except (OSError, ValueError):
        limit = float("inf")
    return min(physical, limit)


def torch_facts(device: str) -> Iterator[Finding]:
    """PyTorch, the GPU, and whether bfloat16 is computed in hardware."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(
            name="torch",
            seen=f"cannot be imported: {error}",
            state="fix",
            fix="pip install --force-reinstall torch",
        )
        return
    from lemis.runs.device import has_bfloat16  # here, as it imports PyTorch

    if torch.cuda.is_available():
        yield from _gpus(torch, has_bfloat16)
    elif device == "cuda":
        yield Finding(
            name="GPU",
            seen=f"none that torch {torch.__version__} can use",
            state="fix",
            fix="use --device cpu, or install the GPU driver and a CUDA build of torch (https://pytorch.org/get-started)",
        )
    else:
        yield Finding(name="GPU", seen=f"none that torch {torch.__version__} can use; the CPU is used")
    yield Finding(name="bfloat16 on the CPU", seen="in hardware" if has_bfloat16("cpu") else "no; float32 is used")


def _gpus(torch: Any, has_bfloat16: Callable[[str], bool]) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bfloat16 = "in hardware" if has_bfloat16("cuda") else "no"
        seen = f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}, bfloat16 {bfloat16}"
        yield Finding(name=f"GPU {index}", seen=seen)


def installed_version(package: str) -> str | None:
    """Version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(requirements: Iterable[str] | None = None, installed: Installed = installed_version) -> Iterator[Finding]:
    """Each package that Lemis needs: its version against the range that Lemis asks for."""
    yield Finding(name="lemis", seen=installed("lemis") or "not installed")
    for text in importlib.metadata.requires("lemis") or () if requirements is None else requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed(wanted.name)
        if version is not None and wanted.specifier.contains(version, prereleases=True):
            yield Finding(name=wanted.name, seen=version)
        else:
            seen = f"{version or 'not installed'}, but {wanted.specifier or 'any version'} is needed"
            yield Finding(
                name=wanted.name,
                seen=seen + _why(wanted, version),
                state="fix",
                fix=f'{_pip()} install "{wanted.name}{wanted.specifier}"',
            )


def _why(wanted: Requirement, version: str | None) -> str:
    if wanted.name == "torch" and version is not None and Version(version).release[:2] == (2, 9):
        return ": 3D convolutions in mixed precision are four times slower on a GPU (pytorch issue 166122)"
    return ""


def known_bad(installed: Installed = installed_version) -> Iterator[Finding]:
    """Packages that are known to break each other."""
    torch, torchvision = installed("torch"), installed("torchvision")
    if torch and torchvision and torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        yield Finding(
            name="torchvision",
            seen=f"{torchvision} does not match torch {torch}; importing it breaks other packages",
            state="fix",
            fix=f"{_pip()} uninstall torchvision  (Lemis does not need it)",
        )
    if installed("opencv-python") and installed("opencv-python-headless"):
        yield Finding(
            name="opencv",
            seen="opencv-python and opencv-python-headless overwrite each other's files",
            state="fix",
            fix=f"{_pip()} uninstall opencv-python; "
            f"{_pip()} install --force-reinstall --no-deps opencv-python-headless",
        )


def disk(folder: Path) -> Iterator[Finding]:
    """Whether results can be written to a folder, which need not exist yet, and how much fits there."""
    present = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        yield Finding(
            name="write access",
            seen=f"{present} is not a folder that you may write to",
            state="fix",
            fix="choose another folder with -o",
        )
        return
    yield Finding(name="write access", seen=str(present))
    full = "free some space, or choose another disk with -o"
    yield _amount("free disk", shutil.disk_usage(present).free / 1e9, DISK_GB, "fix", full)


def _pip() -> str:
    return f"{Path(sys.executable).name} -m pip"


def _print(diagnosis: Diagnosis) -> None:
    console = terminal.console()
    width = max(len(finding.name) for finding in diagnosis.findings)
    style = {"good": "green", "note": "yellow", "fix": "bold red"}
    for finding in diagnosis.findings:
        state = (f"{finding.state:4}", style[finding.state])
        console.print(Text.assemble(state, f"  {finding.name:{width}}  ", terminal.visible(finding.seen)))
        if finding.fix:
            console.print(f"      {'':{width}}  -> {finding.fix}")
    broken = sum(finding.state == "fix" for finding in diagnosis.findings)
    console.print("\nAll is well." if diagnosis.healthy else f"\n{broken} to fix, each with its line above.")
