"""Structures that 3D Slicer names inside a segmentation (``.seg.nrrd``): ``Segment0_Name``, ``Segment0_LabelValue``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lemis.errors import DataFault

_KEY = re.compile(r"Segment(\d+)_(\w+)")
_LONGEST = 100  # of a name, in characters
_INT32 = range(-(1 << 31), 1 << 31)


def read(path: Path, pairs: Iterable[tuple[str, str]], channels: int) -> dict[str, int]:
    """Names and values of the segments of a file; empty where it is no segmentation.

    Args:
        path: The file, for messages.
        pairs: Its ``key:=value`` lines.
        channels: Layers of the array.

    Raises:
        DataFault: Segments in layers (they overlap), a value that is no whole number, or one value for two segments.
    """
    found: dict[int, dict[str, str]] = {}
    for key, value in pairs:
        if match := _KEY.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = value.strip()
    if not found:
        return {}
    if channels > 1:
        names = ", ".join(_name(number, facts) for number, facts in sorted(found.items())[:5])
        raise _fault(
            path,
            f"holds its segments in {channels} layers, as those that overlap are stored: {names}",
            "one structure per voxel",
            "in 3D Slicer, export the segments to a labelmap, or remove the overlap (Segment Editor, Mask volume)",
        )
    values = {number: _value(path, number, facts, len(found)) for number, facts in sorted(found.items())}
    for shared in values.values():
        same = [_name(number, found[number]) for number, other in values.items() if other == shared]
        if len(same) > 1:
            raise _fault(
                path,
                f"gives the value {shared} to {len(same)} segments: {', '.join(same)}",
                "a value of its own for each segment",
                "export the segmentation again",
            )
    return _told_apart([(_name(number, found[number]), value) for number, value in values.items()])


def repeated(names: Iterable[str]) -> list[str]:
    """Names that ``read`` had to number because a file gives them twice."""
    there = list(names)
    return sorted({name.rpartition(" (")[0] for name in there if name.rpartition(" (")[0] in there})


def key_of(name: str) -> str:
    """What makes two names one structure: neither case nor blanks tell them apart."""
    return " ".join(name.split()).casefold()


def _name(number: int, facts: dict[str, str]) -> str:
    name = " ".join(facts.get("Name", "").split()) or facts.get("ID", "") or f"Segment{number}"
    return name[:_LONGEST].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _value(path: Path, number: int, facts: dict[str, str], count: int) -> int:
    text = facts.get("LabelValue", "1" if count == 1 else "")
    if not re.fullmatch(r"[+-]?\d{1,10}", text) or int(text) not in _INT32 or int(text) == 0:
        raise _fault(
            path,
            f"gives the segment {_name(number, facts)} the value {text[:40]!a}",
            "a whole number other than 0 (background) in Segment*_LabelValue",
            "export the segmentation again",
        )
    return int(text)


def _told_apart(segments: Sequence[tuple[str, int]]) -> dict[str, int]:
    """By name; further segments of one name get a number, and so does one that is called background."""
    found: dict[str, int] = {}
    taken = {"background"}
    for name, value in segments:
        unique, count = name, 1
        while key_of(unique) in taken:
            count += 1
            unique = f"{name} ({count})"
        taken.add(key_of(unique))
        found[unique] = value
    return found


def _fault(path: Path, seen: str, allowed: str, repair: str) -> DataFault:
    return DataFault(f"{path} {seen}", allowed=allowed, next=repair)
