"""DICOM SEG objects of a folder as labels of its series: what each says it is of decides, not names or folders.

A SEG names its series (Referenced Series Sequence); one that names none belongs to the only scan in its Frame of
Reference. Those that belong to no scan, or to one that has a label of another format, are left out, by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.datasets.listing import Case, Found, LeftOut, Tree, folders_of, shown
from lemis.errors import UsageError
from lemis.formats.dicom import choice, segmentation
from lemis.formats.dicom import folders as dicom
from lemis.formats.dicom.segmentation import Reference
from lemis.formats.dicom.tags import Header
from lemis.formats.paths import file_of, may_be_dicom, series_of

_WHAT = "a DICOM SEG object"


class _Place(NamedTuple):
    """UIDs of a scan's first image."""

    series: str
    frame_of_reference: str


def with_segmentations(tree: Tree, found: Found) -> Found:
    """The scans of a folder with the SEG objects below it as their labels.

    Args:
        tree: The folder.
        found: What its layout made of it.

    Raises:
        UsageError: Several SEG objects are of one scan.
    """
    if not tree.root.is_dir():
        return found
    files = [file for folder, _ in folders_of(tree.root) for file in dicom.segmentations(folder)]
    if not files:
        return found
    places = [_place(case) for case in found.cases]
    owned: dict[int, list[Path]] = {}
    left_out = []
    for file in files:
        of = segmentation.reference(file)
        owner = None if of is None else _owner(of, places)
        if owner is None:
            left_out.append(LeftOut(shown(tree.root, file), _nobodys(of)))
        elif found.cases[owner].label is not None:
            other = shown(tree.root, found.cases[owner].label or file)
            left_out.append(LeftOut(shown(tree.root, file), f"{_WHAT} of a scan that has a label: {other}"))
        else:
            owned.setdefault(owner, []).append(file)
    cases = [case._replace(label=_only(tree, case, owned[at])) if at in owned else case
             for at, case in enumerate(found.cases)]  # fmt: skip
    return dataclasses.replace(found, cases=cases, left_out=(*found.left_out, *left_out))


def _place(case: Case) -> _Place:
    image = case.images[0]
    file = file_of(image)
    if file.is_dir():
        headers = (dicom.readable_header(one) for one in dicom.candidates(file))
        wanted, _ = choice.divided(series_of(image))
        header = next((one for one in headers if one is not None and _is_of(one, wanted)), None)
    else:
        header = dicom.readable_header(file) if may_be_dicom(file) else None
    if header is None:
        return _Place("", "")
    return _Place(header.text("SeriesInstanceUID"), header.text("FrameOfReferenceUID"))


def _is_of(header: Header, wanted: str) -> bool:
    """Whether a header is of the series that a path means; "" means the only one."""
    return not header.no_scan and (not wanted or choice.is_meant(header, wanted))


def _owner(of: Reference, places: Sequence[_Place]) -> int | None:
    """The scan that a SEG is of, by its place in the list."""
    if of.series:
        return next((at for at, place in enumerate(places) if place.series in of.series), None)
    same = [at for at, place in enumerate(places) if place.frame_of_reference == of.frame_of_reference != ""]
    return same[0] if len(same) == 1 else None


def _only(tree: Tree, case: Case, files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise UsageError(
            f"{case.id} has {len(files)} DICOM SEG objects: {', '.join(shown(tree.root, file) for file in files)}",
            allowed="one label for a scan",
            next="move the others away, or list the files that you mean in a CSV (image, label, subject)",
        )
    return files[0]


def _nobodys(of: Reference | None) -> str:
    if of is None:
        return f"{_WHAT} that cannot be read"
    if of.series:
        return f"{_WHAT} of a series that is not here ({of.series[0]})"
    return f"{_WHAT} that names no series, and whose Frame of Reference is not that of one scan alone"
