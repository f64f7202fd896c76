"""Whether slices make up one regular grid: of one size, direction and pixel size, on one line, evenly spaced.

What does not is refused with the files and the values; so is what cannot be compared from slice to slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault, first_of
from lemis.formats.dicom import grid
from lemis.formats.dicom.stacks import value_of
from lemis.formats.dicom.stored import Slice
from lemis.formats.dicom.tags import LENGTHS_MM, Header
from lemis.formats.notes import Note

# A missing slice is off by a whole step; scanners round positions to about 0.001 mm, some exports to 0.01 or 0.1.
_STEP_TOLERANCE = 0.02
_MOST_ROUNDED = 0.5
_BENT_PIXELS = 0.1


def refuse_mixture(
    headers: Sequence[Header], slices: Sequence[Slice], orientations: Sequence[tuple[float, ...]]
) -> None:
    """Refuse slices that differ in size or direction, naming the one that is not as most are."""
    kinds = [
        (one.columns, one.rows, one.samples, tuple(round(float(x), 2) + 0.0 for x in orientation))
        for one, orientation in zip(slices, orientations, strict=True)
    ]
    usual = Counter(kinds).most_common(1)[0][0]
    example = kinds.index(usual)
    wanted = np.array(orientations[example])
    for header, kind, orientation in zip(headers, kinds, orientations, strict=True):
        same = len(orientation) == len(wanted) and np.abs(np.array(orientation) - wanted).max(initial=0) <= 1e-3
        if kind[:3] != usual[:3] or not same:
            raise DataFault(
                f"{header.file.parent / name_of(header)} is {kind[:2]} pixels of {kind[2]} value(s) in direction "
                f"{list(orientation)}, "
                f"{name_of(headers[example])} is {usual[:2]} of {usual[2]} in direction {wanted.tolist()}",
                allowed="slices of one size and one direction",
                next="move localisers and other images out of the folder",
            )


def name_of(header: Header) -> str:
    """Of a file, or of a frame of it, counted from 1 as the standard does."""
    return header.file.name if header.frame is None else f"{header.file.name} frame {header.frame + 1}"


def refuse_unlike(headers: Sequence[Header]) -> None:
    """Refuse slices whose positions or values cannot be compared."""
    placed = [header for header in headers if header.text("FrameOfReferenceUID")]
    frames = {header.text("FrameOfReferenceUID") for header in placed}
    if len(frames) > 1:
        first = placed[0]
        odd = next(h for h in placed if h.text("FrameOfReferenceUID") != first.text("FrameOfReferenceUID"))
        raise DataFault(
            f"{odd.file.parent / name_of(odd)} and {name_of(first)} differ in Frame of Reference UID (0020,0052), "
            f"of which the series has {len(frames)}: the patient or the table was moved between them",
            allowed="slices of one frame of reference",
            next="move slices of each acquisition into a folder of their own, or export the series again",
        )
    for tag in ("RescaleSlope", "RescaleIntercept"):
        stated = [bool(header.text(tag)) for header in headers]
        if any(stated) and not all(stated):
            odd = headers[stated.index(False)]
            raise odd.fault(tag, "is missing, and stated in other slices of the series", "the same tags in every slice")


def refuse_bends(
    folder: Path, names: Sequence[str], place: npt.NDArray[np.float64], pixel_mm: float, rounding_mm: float
) -> None:
    """Refuse slices that are shifted against each other: an affine places them on one straight line."""
    allowed_mm = _BENT_PIXELS * pixel_mm + min(rounding_mm, _MOST_ROUNDED * pixel_mm)
    line = place[0] + np.arange(len(place))[:, None] * (place[-1] - place[0]) / (len(place) - 1)
    along = (place[-1] - place[0]) / np.linalg.norm(place[-1] - place[0])
    beside = place - line
    off_mm = np.linalg.norm(beside - (beside @ along)[:, None] * along, axis=1)
    worst = int(off_mm.argmax())
    if off_mm[worst] > allowed_mm:
        raise DataFault(
            f"{folder}: {names[worst]} lies {off_mm[worst]:.2f} mm beside the straight line from {names[0]} to "
            f"{names[-1]}",
            allowed=f"slices that lie on a straight line, within {allowed_mm:.2f} mm",
            next="resample the series to a regular grid (3D Slicer does), or leave this scan out",
        )


def kinds(headers: Sequence[Header]) -> tuple[Note, ...]:
    """A note of slices that lie at different places and were taken differently."""
    seen = []
    for tag, title in (("EchoTime", "Echo Time"), ("InversionTime", "Inversion Time"), ("DiffusionBValue", "b-value")):
        values = sorted({value_of(header, tag) for header in headers})
        if len(values) > 1:
            seen.append(f"{title} {first_of(values, 4)}")
    if not seen:
        return ()
    advice = "fine if these slices are one image; else move those of each kind into a folder of their own"
    return (Note("slices of different kinds", f"slices of one series differ in {'; '.join(seen)}", advice),)


def common_spacing(headers: Sequence[Header]) -> tuple[tuple[float, float], tuple[Note, ...]]:
    """The pixel size of all slices, mm; refuse slices that differ in it."""
    read = [grid.pixel_spacing(header, placed=True) for header in headers]
    first, notes = read[0]
    for header, (other, _) in zip(headers, read, strict=True):
        if not np.allclose(other, first, rtol=1e-3, atol=0):
            raise DataFault(
                f"{header.file} has pixels of {other[0]:g} x {other[1]:g} mm, {headers[0].file.name} of "
                f"{first[0]:g} x {first[1]:g} mm",
                allowed="slices of one pixel size",
                next="move the other images out of the folder, or resample them",
            )
    return first, notes or next((note for _, note in read if note), ())


def rounding_mm(texts: Sequence[str], normal: npt.NDArray[np.float64]) -> float:
    """How far the rounding of positions, as they are written, can move a step along the normal."""
    total = 0.0
    for weight, column in zip(np.abs(normal), zip(*(text.split("\\") for text in texts), strict=True), strict=True):
        if len(set(column)) > 1:
            exponents = (int(Decimal(text.strip()).as_tuple().exponent) for text in column)
            total += float(weight) * 10.0 ** min(0, *exponents)
    return total


def refuse_gaps(
    folder: Path, headers: Sequence[Header], heights_mm: npt.NDArray[np.float64], rounding_mm: float
) -> tuple[Note, ...]:
    """Refuse slices that are not evenly spaced; ``heights_mm`` are sorted positions along the normal."""
    files = [name_of(header) for header in headers]
    steps = np.diff(heights_mm)
    usual = float(np.median(steps))
    even = max(_STEP_TOLERANCE * usual, 0.01)
    allowed = max(even, min(rounding_mm, _MOST_ROUNDED * usual)) + 1e-6
    for before, step in enumerate(steps):
        here, there = f"{heights_mm[before]:.2f}", f"{heights_mm[before + 1]:.2f}"
        if step < 1e-3:
            raise DataFault(
                f"{folder}: {files[before]} and {files[before + 1]} are both at {here} mm"
                + (
                    ", and are copies of one image (SOP Instance UID)" if _copies(*headers[before : before + 2]) else ""
                ),
                allowed="one slice per position",
                next="remove copies; move repeated phases or exports into folders of their own",
            )
        if abs(step - usual) > allowed:
            raise DataFault(
                f"{folder}: a gap of {step:.2f} mm between the slices at {here} mm ({files[before]}) "
                f"and {there} mm ({files[before + 1]}); the others are {usual:.2f} mm apart",
                allowed="a series with every slice, evenly spaced",
                next="export the series again with the missing slice, or leave this scan out",
            )
    if usual > LENGTHS_MM[1]:
        raise DataFault(
            f"{folder}: slices are {usual:g} mm apart",
            allowed=f"up to {LENGTHS_MM[1]:g} mm",
            next="export the series again",
        )
    if np.abs(steps - usual).max() <= even + 1e-6:
        return ()
    mean = float(heights_mm[-1] - heights_mm[0]) / len(steps)
    seen = f"steps of {steps.min():.4g} to {steps.max():.4g} mm between slices are taken as even, {mean:.4g} mm"
    return (Note("rounded positions", seen, "fine if the scanner's slices are evenly spaced"),)


def _copies(one: Header, other: Header) -> bool:
    name = one.text("SOPInstanceUID")
    return bool(name) and name == other.text("SOPInstanceUID") and one.file != other.file
