"""Faults of all label maps together: whether the same value means the same structure in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lemis.checking.faults import Fault
from lemis.checking.one_scan import Seen
from lemis.datasets.index import Index
from lemis.errors import first_of
from lemis.formats import labels
from lemis.formats.paths import is_picture, may_be_dicom
from lemis.measure.tables import count

# What programs write for "this is it" in a mask of one structure.
_WHITES = (1, 255, 65535)
_MOST_COUNTED = 100  # of structures that are counted from 1; beyond are grey values


def label_faults(declared: Index, index: Index, read: Iterable[Seen]) -> list[Fault]:
    """Values of all labels against each other, and against what ``dataset.json`` declares.

    Args:
        declared: The index as listed.
        index: With labels that are named, and values as it numbers them.
        read: What each scan turned out to be, its values as its own file numbers them.
    """
    seen = [one for one in read if one.scan.label_values]
    found = _segment_faults(index, seen) + _palette_faults(seen) + _shifted(seen)
    if not declared.labels:
        return found + _named_by_others(index, seen) + _undeclared_values(seen)
    known = {*declared.labels.values(), *declared.ignored}
    found += [
        Fault(
            "error",
            scan.id,
            scan.label or "",
            "undeclared label values",
            f"holds {', '.join(map(str, unknown))}; declared are "
            + ", ".join(f"{value} {name}" for name, value in declared.labels.items()),
            "correct the label, or declare the values in dataset.json",
        )
        for scan in index.scans
        if (unknown := sorted(set(scan.label_values) - known))
    ]
    present = {value for scan in index.scans for value in scan.label_values}
    missing = [f"{value} {name}" for name, value in declared.labels.items() if value and value not in present]
    if present and missing:
        absent = f"{', '.join(missing)}: no label contains {'it' if len(missing) == 1 else 'them'}"
        found.append(
            Fault(
                "warning",
                "",
                "dataset.json",
                "structure never labelled",
                absent,
                "fine if you do not need them; what is never labelled cannot be learned",
            )
        )
    return found


def _undeclared_values(read: Sequence[Seen]) -> list[Fault]:
    """Values whose meaning would be a guess: below 0, and the white of masks in black and white."""
    found = [
        _label_fault(
            "error",
            one,
            "negative label values",
            f"holds {', '.join(map(str, below))}; negative values mark a structure only if they are named",
            "set them to 0 if they are background, or name them in dataset.json",
        )
        for one in read
        if (below := [value for value in one.scan.label_values if value < 0])
    ]
    return found + _kinds_of_white(read) + _void(read) + _without_background(read)


def _kinds_of_white(read: Sequence[Seen]) -> list[Fault]:
    """Masks of one structure each, of which some mark it by another number than others."""
    if any(len({0, *one.scan.label_values}) > 2 for one in read):
        return []
    marked = {
        value: [one for one in read if value in one.scan.label_values]
        for one in read
        for value in one.scan.label_values
        if value
    }
    whites = [value for value in _WHITES if value in marked]
    if len(whites) > 1:
        usual, unusual = marked[whites[0]], marked[whites[1]]
        return [
            _label_fault(
                "error",
                unusual[0],
                "masks with different foreground values",
                f"foreground is {whites[1]} in {count(len(unusual), 'label')}, this one included, and {whites[0]} in "
                f"{count(len(usual), 'label')} ({usual[0].scan.label}): is it the same structure?",
                f"save all masks with the same foreground value, or name {whites[0]} and {whites[1]} in dataset.json",
            )
        ]
    if len(marked) > 1 and whites and whites[0] > 1:
        odd = next(value for value in sorted(marked) if value != whites[0])
        return [
            _label_fault(
                "warning",
                marked[odd][0],
                "masks with different values",
                f"holds {odd}, others hold {whites[0]}, none holds both: they are taken as different structures",
                "fine if they are; otherwise save all masks with the same foreground value",
            )
        ]
    return []


def _void(read: Sequence[Seen]) -> list[Fault]:
    """255 beside small numbers: in many data sets the rim of an object, or what nobody could tell."""
    one = next(
        (
            one
            for one in read
            if {1, 255} <= set(one.scan.label_values)
            and all(value == 255 or value < _MOST_COUNTED for value in one.scan.label_values)
        ),
        None,
    )
    if one is None:
        return []
    return [
        _label_fault(
            "warning",
            one,
            "255 beside small numbers",
            f"holds {first_of(one.scan.label_values, 6)}: each value, 255 too, is taken as a structure",
            "fine if that is right; otherwise set to 0 what marks nothing (255 often means: to be ignored; "
            "a stray 1 beside 255 looks black on the screen)",
        )
    ]


def _without_background(read: Sequence[Seen]) -> list[Fault]:
    """Label maps that mark every voxel: numbered from 1, or shifted by an intercept of their header."""
    marked = [one for one in read if one.scan.label_values]
    if not marked or any(0 in one.scan.label_values for one in marked):
        return []
    values = {value for one in marked for value in one.scan.label_values}
    lowest = min(values)
    return [
        _label_fault(
            "warning",
            marked[0],
            "no background",
            f"no label holds 0, the value of the background; the lowest value is {lowest}",
            f"fine if every voxel belongs to a structure; otherwise set {lowest} to 0"
            if len(values) > 1
            else "find the right label maps: these mark every voxel of every scan (the field of view?)",
        )
    ]


def _shifted(read: Sequence[Seen]) -> list[Fault]:
    """Label maps of volumes that mark every voxel, where others have a background.

    A picture may be cut from the inside of a structure.
    """
    usual = sum(0 in one.scan.label_values for one in read)
    return [
        _label_fault(
            "warning",
            one,
            "no background",
            f"holds no 0, the value of the background, as {usual} of {count(len(read), 'label')} do; it holds "
            f"{first_of(one.scan.label_values, 5)}",
            "fine if every voxel belongs to a structure; otherwise its values are shifted (by an intercept in its "
            "header?): subtract what was added",
        )
        for one in read
        if usual and 0 not in one.scan.label_values and not is_picture(Path(one.scan.label or ""))
    ]


def _segment_faults(index: Index, read: Sequence[Seen]) -> list[Fault]:
    """Files that name their structures: what has another number in other files, and what cannot be told apart."""
    found = []
    ours = {value: name for name, value in index.labels.items()}
    for one in read:
        moves = labels.moved(one.segments, index.labels)
        names = ", ".join(f"{value} {name}" for name, value in one.segments.items())
        if clash := labels.clashing(one.scan.label_values, moves):
            found.append(
                _label_fault(
                    "error",
                    one,
                    "label value without a known name",
                    f"the file names {names}, but not {', '.join(map(str, clash))}; in the data set {clash[0]} is "
                    f"{ours[clash[0]]}",
                    "use the same names and values in every file",
                )
            )
            continue
        # A SEG object counts its segments from 1 in every file: their numbers were never meant to agree.
        if any(old != new for old, new in moves.items()) and not may_be_dicom(Path(one.scan.label or "")):
            now = ", ".join(f"{new} {ours[new]}" for new in moves.values())
            found.append(
                _label_fault(
                    "warning",
                    one,
                    "structures numbered differently",
                    f"the file has {names}; matched by name, they become {now}",
                    "nothing to do if the names are right",
                )
            )
        if others := labels.named_otherwise(one.segments, index.labels):
            found.append(
                _label_fault(
                    "warning",
                    one,
                    "structures named differently",
                    f"the values count, not the names: {', '.join(others)}",
                    "use the same names as dataset.json",
                )
            )
    return found


def _named_by_others(index: Index, read: Sequence[Seen]) -> list[Fault]:
    """A label that names no structures, among others that do: their numbers need not be its own."""
    naming = next((one for one in read if one.segments), None)
    if naming is None:
        return []
    names = {value: name for name, value in index.labels.items()}
    taken = {one.scan.id: [value for value in one.scan.label_values if value] for one in read if not one.segments}
    return [
        _label_fault(
            "warning",
            one,
            "structures without names",
            f"names no structures; {', '.join(f'{value} is taken as {names[value]}' for value in values)}, as in "
            f"{naming.scan.label}",
            "fine if its values mean the same; otherwise name the structures in all files, or in dataset.json",
        )
        for one in read
        if (values := taken.get(one.scan.id))
    ]


def _palette_faults(read: Sequence[Seen]) -> list[Fault]:
    """One index of palette pictures with two colours: the same number would be two structures."""
    first: dict[int, tuple[str, str]] = {}  # colour, and the label that has it
    found = []
    for one in read:
        for value, colour in one.palette.items():
            usual, label = first.setdefault(value, (colour, one.scan.label or ""))
            if usual != colour:
                found.append(
                    _label_fault(
                        "error",
                        one,
                        "different palettes",
                        f"index {value} is {colour}, but {usual} in {label}",
                        "save all masks with the same palette, or as greyscale with one value per structure",
                    )
                )
                break
    return found


def _label_fault(severity: Literal["error", "warning"], one: Seen, kind: str, seen: str, repair: str) -> Fault:
    return Fault(severity, one.scan.id, one.scan.label or "", kind, seen, repair)
