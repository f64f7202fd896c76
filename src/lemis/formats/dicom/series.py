"""Which DICOM files make up one scan, and its grid.

Order, slice distance and tilt come from the positions that the files state, never from names or numbers. A series
with a gap, with two slices in one place, or with another series in its folder is refused: we do not guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats.dicom import choice, grid, regular
from lemis.formats.dicom.folders import candidates, readable_header
from lemis.formats.dicom.frames import frames_of
from lemis.formats.dicom.stacks import Stack, stacks_of
from lemis.formats.dicom.stored import Slice, refuse_claims, refuse_segmentation, slice_of, value_type
from lemis.formats.dicom.tags import Header, read_header
from lemis.formats.notes import Note


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


def find_slice(path: Path, pick: str | None = None) -> Series:
    """One file that is an image of its own: an X-ray, a single slice, or an enhanced file of many frames.

    Args:
        path: The file.
        pick: As of ``find_series``.

    Raises:
        DataFault: It is damaged, a SEG object, or of frames that do not make up one stack, or its pixels are no
            intensities.
    """
    header = read_header(path)
    if pick is not None and not choice.is_meant(header, choice.divided(pick)[0]):
        raise _several(path, [[header]], f"series {pick}, which none is, among ")
    return _of_series(path, [header], pick, ())


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
        pick: What names the one that is meant, where it holds several (``choice``).

    Raises:
        DataFault: No or several series, several stacks in it, a missing or doubled slice, slices that differ in size,
            spacing or direction, a DICOM SEG object; with the values seen.
    """
    files = list(candidates(path))
    if not files:
        raise DataFault(
            f"{path} is a folder without DICOM files",
            allowed="a folder of one DICOM series",
            next="give a scan's file",
        )
    headers, notes = _one_series(path, [read_header(file) for file in files], pick)
    return _of_series(path, headers, pick, notes)


def _of_series(path: Path, headers: Sequence[Header], pick: str | None, notes: tuple[Note, ...]) -> Series:
    """The one stack of a series that is meant."""
    refuse_segmentation(headers[0])
    frames = [frame for header in headers for frame in frames_of(header)]
    named, part = choice.divided(pick or "")
    found = stacks_of(frames) if len(frames) > 1 else [Stack("", frames)]
    chosen = choice.stack_meant(found, part) if part else found
    if len(chosen) != 1:
        name = named or choice.name_of(headers, [headers])
        first = f"{path}#series={name}:{found[0].name}" if found[0].name else f"{path}#series={name}"
        what = f"the stack {part}, which none is, among " if part else ""
        raise DataFault(
            f"{path}: {choice.title_of(headers[0])} holds {what}{len(found)} stacks of slices: "
            f"{choice.shown_stacks(found)}",
            allowed="one stack for a scan",
            next=f"name the one that you mean after the folder that you give: lemis check '{first}'; or list scans in "
            f"a CSV (image: {path.name}{first.removeprefix(str(path))})",
        )
    ((_, slices),) = chosen
    return _arrange(path, slices, notes) if len(slices) > 1 else _single(slices[0], notes)


def _one_series(folder: Path, headers: list[Header], pick: str | None) -> tuple[list[Header], tuple[Note, ...]]:
    groups = choice.series_of(headers)
    if pick is not None:
        chosen = choice.meant(groups, choice.divided(pick)[0])
        if len(chosen) == 1:
            return chosen[0], ()
        raise _several(folder, groups, f"series {pick}, which {'several are' if chosen else 'none is'}, among ")
    # Reports and contours are stored beside images, and a scout before them: none of them is the scan.
    scans = [group for group in groups if not group[0].no_scan]
    if len(scans) == 1 and len(groups) > 1:
        others = "; ".join(choice.shown(group) for group in groups if group is not scans[0])
        seen = f"read {choice.shown(scans[0])}; left aside {others}"
        return scans[0], (Note("other DICOM objects in the folder", seen, "move them out if that is not meant"),)
    if len(groups) > 1:
        raise _several(folder, groups, "")
    return headers, ()


def _several(path: Path, groups: list[list[Header]], what: str) -> DataFault:
    scans = [group for group in groups if not group[0].no_scan] or groups
    name = next(filter(None, (choice.name_of(group, groups) for group in scans)), "")
    return DataFault(
        f"{path} holds {what}{len(groups)} DICOM series: {'; '.join(map(choice.shown, groups))}",
        allowed="one series for a scan, named by its number, UID or description (* stands for any part)",
        next=f"name the one that you mean after the folder that you give: lemis check '{path}#series={name}'; or list "
        f"scans in a CSV (image: {path.name}#series={name})"
        if name
        else "move each series into a folder of its own: these cannot be told apart by number or UID",
    )


def _arrange(folder: Path, headers: list[Header], notes: tuple[Note, ...]) -> Series:
    slices = [slice_of(header) for header in headers]
    refuse_claims(folder, slices)
    orientations = [grid.orientation(header) for header in headers]
    positions = [grid.position(header) for header in headers]
    regular.refuse_mixture(headers, slices, orientations)
    if not orientations[0] or not all(positions):
        raise DataFault(
            f"{folder} has slices that do not state their position or direction",
            allowed="Image Position (0020,0032) and Image Orientation (0020,0037) in every file",
            next="export the series again without removing these tags",
        )
    pixel_mm, guess = regular.common_spacing(headers)
    regular.refuse_unlike(headers)
    orientation = np.array(orientations[0])
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.argsort([position @ normal for position in map(np.array, positions)], kind="stable")
    place = np.array([positions[i] for i in order])  # (slices, 3) mm LPS
    texts = [headers[i].text("ImagePositionPatient") for i in order]
    rounding_mm = regular.rounding_mm(texts, normal)
    names = [regular.name_of(headers[i]) for i in order]
    uneven = regular.refuse_gaps(folder, [headers[i] for i in order], place @ normal, rounding_mm)
    regular.refuse_bends(folder, names, place, min(pixel_mm), regular.rounding_mm(texts, np.ones(3)))
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
        notes=(*notes, *guess, *uneven, *regular.kinds(headers), *_pixel_notes(ordered)),
    )


def _pixel_notes(slices: Sequence[Slice]) -> tuple[Note, ...]:
    white = [one for one in slices if one.photometric == "MONOCHROME1"]
    if not white:
        return ()
    seen = f"{white[0].file.name}{' and others' * (len(white) > 1)}: MONOCHROME1, in which small values are bright"
    taken = "turned over, so that bright is large" if white[0].turned_over else "values are kept, as CT and PET measure"
    return (Note("bright is small", f"{seen}: {taken}", "compare one with the other images"),)
