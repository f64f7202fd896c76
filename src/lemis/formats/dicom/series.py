"""Which DICOM files make up one scan, and its grid.

Order, slice distance and tilt come from the positions that the files state, never from names or numbers. A series
with a gap, with two slices in one place, or with another series in its folder is refused: we do not guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats.dicom import grid
from lemis.formats.dicom.folders import candidates, readable_header
from lemis.formats.dicom.pixels import Slice, refuse_claims, slice_of, value_type
from lemis.formats.dicom.tags import LENGTHS_MM, Header, read_header
from lemis.formats.notes import Note

# A missing slice is off by a whole step; scanners round positions to about 0.001 mm, some exports to 0.01 or 0.1.
_STEP_TOLERANCE = 0.02
_MOST_ROUNDED = 0.5


@dataclass(frozen=True, eq=False)
class Series:
    """A complete series, or one image."""

    slices: tuple[Slice, ...]  # along the normal
    shape: tuple[int, int, int]  # columns, rows, slices
    channels: int
    affine_lps: npt.NDArray[np.float64]  # (4, 4), voxel -> mm LPS
    dtype: str
    notes: tuple[Note, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files along the normal."""
        return tuple(one.file for one in self.slices)


def find_slice(path: Path) -> Series:
    """One file that is an image of its own: an X-ray, or a single slice.

    Raises:
        DataFault: It is damaged, a SEG object or of several frames, or its pixels are no intensities.
    """
    return _single(read_header(path))


def _single(header: Header, notes: tuple[Note, ...] = ()) -> Series:
    one = slice_of(header)
    refuse_claims(header.file, [one])
    orientation, position = grid.orientation(header), grid.position(header)
    placed = bool(orientation and position)
    pixel_mm, scale = grid.pixel_spacing(header, placed=placed)
    thickness_mm, guess = grid.thickness(header, pixel_mm) if placed else (1.0, grid.unplaced(header))
    affine = grid.affine_in_plane(orientation or (1, 0, 0, 0, 1, 0), position or (0, 0, 0), pixel_mm)
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) / (pixel_mm[0] * pixel_mm[1]) * thickness_mm
    return Series(
        slices=(one,),
        shape=(one.columns, one.rows, 1),
        channels=one.samples,
        affine_lps=affine,
        dtype=value_type([one]).name,
        notes=(*notes, *scale, *guess, *_pixel_notes([one])),
    )


def refuse_part_of_series(path: Path) -> None:
    """Refuse a file whose neighbour by name is of the same series: the whole series was meant.

    Raises:
        DataFault: It is; with the folder to give instead.
    """
    header = read_header(path)
    files = list(candidates(path.parent))
    if not header.text("ImagePositionPatient") or path not in files:
        return
    place = files.index(path)
    neighbours = (readable_header(file) for file in files[max(place - 1, 0) : place + 2] if file != path)
    if any(other and other.text("SeriesInstanceUID") == header.text("SeriesInstanceUID") for other in neighbours):
        raise DataFault(
            f"{path} is one file of a DICOM series",
            allowed="the folder that holds the series",
            next=f"give {path.parent}",
        )


def find_series(path: Path, pick: str | None = None) -> Series:
    """The series in a folder.

    Args:
        path: The folder.
        pick: Series Number or UID of the one that is meant, where it holds several.

    Raises:
        DataFault: No or several series, a missing or doubled slice, slices that differ in size, spacing or direction,
            a DICOM SEG object; with the values seen.
    """
    files = list(candidates(path))
    if not files:
        raise DataFault(
            f"{path} is a folder without DICOM files",
            allowed="a folder of one DICOM series",
            next="give a scan's file",
        )
    headers, notes = _one_series(path, [read_header(file) for file in files], pick)
    return _arrange(path, headers, notes) if len(headers) > 1 else _single(headers[0], notes)


def _one_series(folder: Path, headers: list[Header], pick: str | None) -> tuple[list[Header], tuple[Note, ...]]:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    if pick is not None:
        chosen = [group for uid, group in groups.items() if pick in (uid, group[0].text("SeriesNumber"))]
        if len(chosen) == 1:
            return chosen[0], ()
        raise _several(
            folder, list(groups.values()), f"series {pick}, which {'several are' if chosen else 'none is'}, among "
        )
    # Reports and contours are stored beside images, and a scout before them: none of them is the scan.
    scans = [group for group in groups.values() if group[0].has_image and not group[0].is_localiser]
    if len(scans) == 1 and len(groups) > 1:
        others = "; ".join(_shown(group) for group in groups.values() if group is not scans[0])
        seen = f"read {_shown(scans[0])}; left aside {others}"
        return scans[0], (Note("other DICOM objects in the folder", seen, "move them out if that is not meant"),)
    if len(groups) > 1:
        raise _several(folder, list(groups.values()), "")
    return headers, ()


def _several(folder: Path, groups: list[list[Header]], what: str) -> DataFault:
    numbers = [group[0].text("SeriesNumber") for group in groups]
    one = next(
        (number for number in numbers if number and numbers.count(number) == 1), groups[0][0].text("SeriesInstanceUID")
    )
    return DataFault(
        f"{folder} holds {what}{len(groups)} DICOM series: {'; '.join(map(_shown, groups))}",
        allowed="one series per folder",
        next="move each series into a folder of its own, or list those that you mean in a CSV "
        f"(image: {folder.name}#series={one})",
    )


def _shown(group: Sequence[Header]) -> str:
    """``5 of lung (a.dcm, ...), series 4``."""
    first = group[0]
    name = first.text("SeriesDescription") or first.text("SeriesInstanceUID") or "a nameless series"
    kind = " (localiser)" if first.is_localiser else "" if first.has_image else f" ({first.text('Modality')}, no image)"
    number = f", series {first.text('SeriesNumber')}" if first.text("SeriesNumber") else ""
    return f"{len(group)} of {name[:64]}{kind} ({first.file.name}{', ...' * (len(group) > 1)}){number}"


def _arrange(folder: Path, headers: list[Header], notes: tuple[Note, ...]) -> Series:
    slices = [slice_of(header) for header in headers]
    refuse_claims(folder, slices)
    orientations = [grid.orientation(header) for header in headers]
    positions = [grid.position(header) for header in headers]
    _refuse_mixture(headers, slices, orientations)
    if not orientations[0] or not all(positions):
        raise DataFault(
            f"{folder} has slices that do not state their position or direction",
            allowed="Image Position (0020,0032) and Image Orientation (0020,0037) in every file",
            next="export the series again without removing these tags",
        )
    pixel_mm, guess = _common_spacing(headers)
    orientation = np.array(orientations[0])
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.argsort([position @ normal for position in map(np.array, positions)], kind="stable")
    place = np.array([positions[i] for i in order])  # (slices, 3) mm LPS
    rounding_mm = _rounding_mm([headers[i].text("ImagePositionPatient") for i in order], normal)
    uneven = _refuse_gaps(folder, [headers[i].file for i in order], place @ normal, rounding_mm)
    affine = grid.affine_in_plane(orientations[0], place[0], pixel_mm)
    # The step between positions, not the normal: so a tilted gantry stays the shear that it is.
    affine[:3, 2] = (place[-1] - place[0]) / (len(place) - 1)
    ordered = tuple(slices[i] for i in order)
    return Series(
        slices=ordered,
        shape=(ordered[0].columns, ordered[0].rows, len(ordered)),
        channels=ordered[0].samples,
        affine_lps=affine,
        dtype=value_type(ordered).name,
        notes=(*notes, *guess, *uneven, *_pixel_notes(ordered)),
    )


def _refuse_mixture(
    headers: Sequence[Header], slices: Sequence[Slice], orientations: Sequence[tuple[float, ...]]
) -> None:
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
                f"{header.file} is {kind[:2]} pixels of {kind[2]} value(s) in direction {list(orientation)}, "
                f"{headers[example].file.name} is {usual[:2]} of {usual[2]} in direction {wanted.tolist()}",
                allowed="slices of one size and one direction",
                next="move localisers and other images out of the folder",
            )


def _common_spacing(headers: Sequence[Header]) -> tuple[tuple[float, float], tuple[Note, ...]]:
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


def _rounding_mm(texts: Sequence[str], normal: npt.NDArray[np.float64]) -> float:
    """How far the rounding of positions, as they are written, can move a step along the normal."""
    total = 0.0
    for weight, column in zip(np.abs(normal), zip(*(text.split("\\") for text in texts), strict=True), strict=True):
        if len(set(column)) > 1:
            exponents = (int(Decimal(text.strip()).as_tuple().exponent) for text in column)
            total += float(weight) * 10.0 ** min(0, *exponents)
    return total


def _refuse_gaps(
    folder: Path, files: list[Path], heights_mm: npt.NDArray[np.float64], rounding_mm: float
) -> tuple[Note, ...]:
    """Refuse slices that are not evenly spaced; ``heights_mm`` are sorted positions along the normal."""
    steps = np.diff(heights_mm)
    usual = float(np.median(steps))
    even = max(_STEP_TOLERANCE * usual, 0.01)
    allowed = max(even, min(rounding_mm, _MOST_ROUNDED * usual)) + 1e-6
    for before, step in enumerate(steps):
        here, there = f"{heights_mm[before]:.2f}", f"{heights_mm[before + 1]:.2f}"
        if step < 1e-3:
            raise DataFault(
                f"{folder}: {files[before].name} and {files[before + 1].name} are both at {here} mm",
                allowed="one slice per position",
                next="move repeated phases or exports into folders of their own",
            )
        if abs(step - usual) > allowed:
            raise DataFault(
                f"{folder}: a gap of {step:.2f} mm between the slices at {here} mm ({files[before].name}) "
                f"and {there} mm ({files[before + 1].name}); the others are {usual:.2f} mm apart",
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


def _pixel_notes(slices: Sequence[Slice]) -> tuple[Note, ...]:
    white = [one for one in slices if one.photometric == "MONOCHROME1"]
    if not white:
        return ()
    seen = f"{white[0].file.name}{' and others' * (len(white) > 1)}: MONOCHROME1, in which small values are bright"
    taken = "turned over, so that bright is large" if white[0].turned_over else "values are kept, as CT and PET measure"
    return (Note("bright is small", f"{seen}: {taken}", "compare one with the other images"),)
