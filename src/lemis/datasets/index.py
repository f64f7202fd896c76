"""The index: one row per scan, written by ``check`` and read by every other verb. Human-readable JSON.

An id becomes the name of files in the work folder, so every list of scans, found in a folder or read from an index,
goes through ``refuse_names``; what a name may be stands in ``formats/names.py``.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from lemis import files
from lemis.errors import UsageError
from lemis.formats.directions import Axes, at_right_angles_only
from lemis.formats.names import LONGEST_ID_BYTES, readable, unfit_id, unfit_text
from lemis.records import refused

VERSION = 2
_READ = (1, VERSION)  # 1: before data sets had a frame; its scans are in RAS+ order
_Size = Annotated[int, Field(gt=0)]
_Millimetres = Annotated[FiniteFloat, Field(gt=0)]
_Numbers = TypeVar("_Numbers", bound=tuple[float, ...])


def _per_axis(numbers: _Numbers) -> _Numbers:
    if len(numbers) not in (0, 3):  # none where the scan has not been read
        raise ValueError("one number per axis, of three axes")
    return numbers


def _per_scan(axes: Axes) -> Axes:
    return at_right_angles_only(axes) if axes else axes


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan. Shape, spacing and slice axis are those of the canonical array: in the order of ``axes``."""

    id: str
    subject: str
    # One file or DICOM folder per channel, relative to the root where inside it.
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    label: str | None = None
    shape: Annotated[tuple[_Size, ...], AfterValidator(_per_axis)] = ()  # (X, Y, Z)
    spacing_mm: Annotated[tuple[_Millimetres, ...], AfterValidator(_per_axis)] = ()
    slice_axis: Annotated[int, Field(ge=0, le=2)] = 2
    label_values: tuple[int, ...] = ()  # values that occur in the label, sorted
    # Where the axes of the canonical array run; () in an index older than frames: to the nearest body axes.
    axes: Annotated[Axes, AfterValidator(_per_scan)] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Images, and the label where there is one, as the index names them."""
        return self.images if self.label is None else (*self.images, self.label)


def _with_grid(scan: Scan) -> Scan:
    if scan.axes and not (scan.shape and scan.spacing_mm):
        raise ValueError("a scan with axes has a shape and a spacing too")
    return scan


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a folder of scans holds."""

    version: int = VERSION
    root: str
    layout: str
    channels: tuple[str, ...]
    labels: dict[str, int]  # name -> value in the files, background 0 included
    scans: tuple[Annotated[Scan, AfterValidator(_with_grid)], ...]
    ignored: tuple[int, ...] = ()  # further values in the files that count as background
    # What the axes of all scans are near to (frame.py); None: the body axes nearest to each.
    frame: Annotated[Axes, AfterValidator(at_right_angles_only)] | None = None


def refuse_names(scans: Sequence[Scan], *, next: str) -> None:
    """Refuse ids that occur twice or cannot be file names, and subjects and paths that cannot be shown or stored.

    Raises:
        UsageError: Names the first few.
    """
    allowed = f"ids that differ and can be file names of at most {LONGEST_ID_BYTES} bytes, in UTF-8"
    twice = [id for id, count in Counter(scan.id for scan in scans).items() if count > 1]
    if twice:
        raise UsageError(
            f"ids that occur twice: {_few(_short(readable(id)) for id in twice)}", allowed=allowed, next=next
        )
    _refuse("ids", ((scan.id, unfit_id(scan.id)) for scan in scans), allowed, next)
    _refuse("subjects", ((scan.subject, unfit_text(scan.subject)) for scan in scans), allowed, next)
    paths = (path for scan in scans for path in scan.files)
    _refuse("paths", ((path, unfit_text(path)) for path in paths), allowed, next)


def unfit_names(index: Index) -> list[str]:
    """The names of structures and channels that cannot be used, each with its reason."""
    kinds = (("structure", index.labels), ("channel", index.channels))
    return [
        f"the {kind} {_short(readable(name))!r} {reason}"
        for kind, names in kinds
        for name in names
        if (reason := unfit_text(name))
    ]


def _refuse(what: str, reasons: Iterable[tuple[str, str]], allowed: str, next: str) -> None:
    odd = [f"{_short(readable(text))} ({reason})" for text, reason in reasons if reason]
    if odd:
        raise UsageError(f"{what} that cannot be used: {_few(odd)}", allowed=allowed, next=next)


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}..."


def _few(texts: Iterable[str], most: int = 5) -> str:
    shown = list(texts)
    return ", ".join(shown[:most]) + f" and {len(shown) - most} more" * (len(shown) > most)


def slice_axis(spacing_mm: tuple[float, ...]) -> int:
    """The axis across the slices: the one of the largest spacing; where equal (to 1 %), the last of them."""
    largest = max(spacing_mm)
    return max(axis for axis, spacing in enumerate(spacing_mm) if spacing > largest * 0.99)


def by_slice_axis(scans: Iterable[Scan]) -> list[tuple[Scan, ...]]:
    """Scans whose slices run across one axis together, most first: only of those are axes alike."""
    groups: dict[int, list[Scan]] = {}
    for scan in scans:
        groups.setdefault(scan.slice_axis, []).append(scan)
    return [tuple(group) for group in sorted(groups.values(), key=len, reverse=True)]


def locate(index: Index, file: str) -> Path:
    """Where a file of the index lies."""
    return Path(index.root) / file  # an absolute ``file`` stands for itself


def save(index: Index, path: Path) -> Path:
    """Write the index, once its text was read back; an interrupted write leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = dataclasses.asdict(index)
    scans = facts.pop("scans")
    lines = ",\n".join("    " + json.dumps(scan, ensure_ascii=False) for scan in scans)
    head = json.dumps(facts, indent=2, ensure_ascii=False)[:-2]
    text = f'{head},\n  "scans": [\n{lines}\n  ]\n}}\n'
    _INDEX.validate_json(text)
    files.write(path, text)
    return path


def load(path: Path) -> Index:
    """Read an index.

    Raises:
        UsageError: There is none, it is of another version, it was damaged, or it names what cannot be a file's name.
    """
    again = f"lemis check SCANS -o {path.parent}"
    if not path.exists():
        raise UsageError(f"{path} does not exist", allowed="an index that `lemis check` wrote", next=again)
    facts = files.read_json(path, next=again)
    if not isinstance(facts, dict) or facts.get("version") not in _READ:
        seen = facts.get("version") if isinstance(facts, dict) else None
        raise UsageError(f"{path} is of version {seen}", allowed=f"version {' or '.join(map(str, _READ))}", next=again)
    try:
        index = _INDEX.validate_python(facts)
    except ValidationError as error:
        raise refused(error, where=str(path), next=again) from None
    refuse_names(index.scans, next=again)
    if unfit := unfit_names(index):
        raise UsageError(f"{path}: {_few(unfit)}", allowed="names that can be shown and stored", next=again)
    return index


_INDEX = TypeAdapter(Index)
