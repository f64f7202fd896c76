"""The index: one row per scan, written by ``check`` and read by every other verb. Human-readable JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lemis import files
from lemis.data.directions import Axes
from lemis.errors import UsageError

VERSION = 2
_READ = (1, VERSION)  # 1: before data sets had a frame; its scans are in RAS+ order


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan. Shape, spacing and slice axis are those of the canonical array: in the order of ``axes``."""

    id: str
    subject: str
    images: tuple[str, ...]  # one file or DICOM folder per channel, relative to the root where inside it
    label: str | None = None
    shape: tuple[int, ...] = ()  # (X, Y, Z)
    spacing_mm: tuple[float, ...] = ()
    slice_axis: int = 2
    label_values: tuple[int, ...] = ()  # values that occur in the label, sorted
    axes: Axes = ()  # where the axes of the canonical array run; () in an index of before: to the nearest body axes


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a folder of scans holds."""

    version: int = VERSION
    root: str
    layout: str
    channels: tuple[str, ...]
    labels: dict[str, int]  # name -> value in the files, background 0 included
    scans: tuple[Scan, ...]
    ignored: tuple[int, ...] = ()  # further values in the files that count as background
    frame: Axes | None = None  # what the axes of all scans are near to (frame.py); None: each by its nearest body axes


def slice_axis(spacing_mm: tuple[float, ...]) -> int:
    """The axis across the slices: the one of the largest spacing; where equal (to 1 %), the last of them."""
    largest = max(spacing_mm)
    return max(axis for axis, spacing in enumerate(spacing_mm) if spacing > largest * 0.99)


def locate(index: Index, file: str) -> Path:
    """Where a file of the index lies."""
    return Path(index.root) / file  # an absolute ``file`` stands for itself


def save(index: Index, path: Path) -> Path:
    """Write the index; an interrupted write leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = dataclasses.asdict(index)
    scans = facts.pop("scans")
    lines = ",\n".join("    " + json.dumps(scan, ensure_ascii=False) for scan in scans)
    head = json.dumps(facts, indent=2, ensure_ascii=False)[:-2]
    files.write(path, f'{head},\n  "scans": [\n{lines}\n  ]\n}}\n')
    return path


def load(path: Path) -> Index:
    """Read an index.

    Raises:
        UsageError: There is none, it is of another version, or it was damaged.
    """
    again = f"lemis check SCANS -o {path.parent}"
    if not path.is_file():
        raise UsageError(f"{path} does not exist", allowed="an index that `lemis check` wrote", next=again)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("version") not in _READ:
            seen = facts.get("version") if isinstance(facts, dict) else None
            raise UsageError(
                f"{path} is of version {seen}", allowed=f"version {' or '.join(map(str, _READ))}", next=again
            )
        return TypeAdapter(Index).validate_python(facts)
    except (json.JSONDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is damaged: {reason}", allowed="an unedited index", next=again) from error
