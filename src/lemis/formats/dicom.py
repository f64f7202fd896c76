"""DICOM: which files are, which of them make up one scan, and its grid. Tags and pixels are read in files beside this.

Order, slice distance and tilt come from the positions that the files state, never from names or numbers. A series
with a gap, a doubled slice or company in its folder is refused: we do not guess what fills a gap. Nor is a length
made up: what a file does not state is refused, or taken from elsewhere in it, which a ``Note`` then says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats.dicom_pixels import Slice, plane_of, refuse_claims, slice_of, value_type
from lemis.formats.dicom_tags import LENGTHS_MM, Header, read_header
from lemis.formats.notes import Note

Array = npt.NDArray[Any]

_SUFFIXES = (".dcm", ".dicom", ".ima")
# Files that lie beside slices and are opened for their content otherwise.
_OTHERS = (
    *(".gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw", ".png", ".tif", ".tiff"),
    *(".jpg", ".jpeg", ".bmp", ".csv", ".tsv", ".json", ".txt", ".md", ".xml", ".yaml", ".pdf", ".zip", ".tar"),
)
_SLICED = ("CT", "MR", "PT", "NM")  # what lies in the body, where an X-ray looks through it
# A missing slice is off by a whole step; scanners round positions to about 0.001 mm, some exports to 0.01 or 0.1.
_STEP_TOLERANCE = 0.02
_MOST_ROUNDED = 0.5
_DIRECTION_TOLERANCE = 1e-2
_MOST_SPARE_BYTES = 1  # pixels are padded to an even number of bytes

# What is written in place of a patient's number.
_NOBODY = re.compile(r"^(?:0+|none|na|n/a|unknown|patient|test)$|anon|de-?ident|removed", re.IGNORECASE)


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


# ---------------------------------------------------------------- which files


def is_dicom(file: Path) -> bool:
    """True for a file whose content begins as DICOM does, whatever its name; a DICOMDIR is none."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:  # nothing says that it is one
        return False
    return start[128:] == b"DICM" or _begins_with_a_group(start)


def is_series_folder(folder: Path) -> bool:
    """True where the folder itself (not its sub-folders) holds DICOM files."""
    return any(True for _ in _candidates(folder))


def series_folders(folder: Path) -> list[Path]:
    """All folders below one that hold DICOM files themselves, however deep: patient, study, series."""
    return [below for below in _folders_below(folder, {folder.resolve()}) if is_series_folder(below)]


def _folders_below(folder: Path, walked: set[Path]) -> Iterator[Path]:
    """Each folder once, whatever links lead back up."""
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.name.startswith(".") and part.resolve() not in walked:
            walked.add(part.resolve())
            yield part
            yield from _folders_below(part, walked)


def single_images(folder: Path) -> list[Path]:
    """The files of a folder where each is an image by itself: X-rays, or single slices of several series.

    Empty where it holds a series, or one image only. A file that cannot be read is one of them: it is named when it is.
    """
    found: list[Path] = []
    series: set[str] = set()
    for file in _candidates(folder):
        header = _readable(file)
        if header is None:
            found.append(file)
            continue
        if not header.has_image:
            continue
        sliced = bool(header.text("ImagePositionPatient")) or header.text("Modality") in _SLICED
        if sliced and header.text("SeriesInstanceUID") in series:
            return []
        series.add(header.text("SeriesInstanceUID"))
        found.append(file)
    return found if len(found) > 1 else []


def studies(folders: Sequence[Path]) -> list[list[Path]]:
    """Folders of series, those of one study together."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        header = _first(folder)
        found.setdefault(header.text("StudyInstanceUID") if header else "", []).append(folder)
    return list(found.values())


def no_scan(folder: Path) -> str:
    """Why the DICOM files of a folder are none of the scans beside it; "" where they may be one."""
    header = _first(folder)
    if header is None:
        return ""
    if header.is_localiser:
        return "a localiser"
    if header.text("Modality") == "SEG":
        return "a DICOM SEG object (a segmentation); convert it to .nii.gz to use it as a label"
    return "" if header.has_image else f"DICOM without an image ({header.text('Modality') or 'of no modality'})"


def description(folder: Path) -> str:
    """What the first file of a folder calls its series; "" where it does not."""
    header = _first(folder)
    return header.text("SeriesDescription") if header else ""


def patient(path: Path) -> str:
    """The Patient ID of a file, or of the first file of a folder; "" where it says none, or that it was taken out."""
    header = _first(path) if path.is_dir() else _readable(path)
    name = header.text("PatientID") if header else ""
    return "" if _NOBODY.search(name) else name


def _first(folder: Path) -> Header | None:
    return next((_readable(file) for file in _candidates(folder)), None)


def _readable(file: Path) -> Header | None:
    """None of a file that cannot be read, where something else is asked: it is named when it is read for itself."""
    try:
        return read_header(file)
    except DataFault:
        return None


def _candidates(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        suffix = file.suffix.lower()
        if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or suffix in _OTHERS:
            continue
        if file.is_file() and (suffix in _SUFFIXES or is_dicom(file)):
            yield file


def _begins_with_a_group(start: bytes) -> bool:
    """Whether bytes are the first element of group 0002 or 0008: files of before 1993 have no preamble."""
    if len(start) < 12:
        return False
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    explicit = start[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"OB", b"SH", b"LO", b"PN", b"ST")
    short = int.from_bytes(start[4:8], "little") <= 64
    return (group == 2 and element <= 0x16 and explicit) or (group == 8 and element <= 0x1F and (explicit or short))


# ---------------------------------------------------------------- one file


def find_slice(path: Path) -> Series:
    """One file that is an image by itself: an X-ray, or a single slice.

    Raises:
        DataFault: It is damaged, a SEG object or of several frames, or its pixels are no intensities.
    """
    return _single(read_header(path))


def _single(header: Header, notes: tuple[Note, ...] = ()) -> Series:
    one = slice_of(header)
    refuse_claims(header.file, [one])
    orientation, position = _orientation(header), _position(header)
    placed = bool(orientation and position)
    pixel_mm, scale = _pixel_spacing(header, placed=placed)
    thickness_mm, guess = _thickness(header, pixel_mm) if placed else (1.0, _nowhere(header))
    affine = _affine(orientation or (1, 0, 0, 0, 1, 0), position or (0, 0, 0), pixel_mm)
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
    """Refuse one file where its neighbour by name is of the same series: the whole was meant.

    Raises:
        DataFault: It is; with the folder to give instead.
    """
    header = read_header(path)
    files = list(_candidates(path.parent))
    if not header.text("ImagePositionPatient") or path not in files:
        return
    place = files.index(path)
    neighbours = (_readable(file) for file in files[max(place - 1, 0) : place + 2] if file != path)
    if any(other and other.text("SeriesInstanceUID") == header.text("SeriesInstanceUID") for other in neighbours):
        raise DataFault(
            f"{path} is one file of a DICOM series",
            allowed="the folder that holds the series",
            next=f"give {path.parent}",
        )


def _position(header: Header) -> tuple[float, ...]:
    return header.numbers("ImagePositionPatient", 3)


def _orientation(header: Header) -> tuple[float, ...]:
    """Direction of a row and of a column; none where the tag is empty or not there."""
    found = header.numbers("ImageOrientationPatient", 6)
    if found:
        row, column = np.array(found[:3]), np.array(found[3:])
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or abs(row @ column) > _DIRECTION_TOLERANCE:
            raise header.fault(
                "ImageOrientationPatient",
                f"is {header.text('ImageOrientationPatient')[:90]!r}",
                "two directions of length 1 at right angles",
            )
    return found


def _pixel_spacing(header: Header, *, placed: bool) -> tuple[tuple[float, float], tuple[Note, ...]]:
    """Across a row and down a column, mm.

    Raises:
        DataFault: A slice of the body that does not state it.
    """
    if stated := header.lengths("PixelSpacing", 2):
        return (stated[1], stated[0]), ()
    name = header.file.name
    if imager := header.lengths("ImagerPixelSpacing", 2):
        seen = f"{name} states no Pixel Spacing; {imager[1]:g} x {imager[0]:g} mm is Imager Pixel Spacing (0018,1164)"
        note = Note("pixel size at the detector", seen, "right if nothing was enlarged; calibrate it where it matters")
        return (imager[1], imager[0]), (note,)
    if placed:
        raise header.fault("PixelSpacing", "(0028,0030) is not in the file", "how large a pixel is, in mm")
    note = Note(
        "pixel size unknown",
        f"{name} states neither Pixel Spacing nor Imager Pixel Spacing: 1 mm stands for a pixel",
        "read lengths as pixels, or export the images again with their spacing",
    )
    return (1.0, 1.0), (note,)


def _thickness(header: Header, pixel_mm: tuple[float, float]) -> tuple[float, tuple[Note, ...]]:
    """Of a slice without a neighbour, mm."""
    name = header.file.name
    if stated := header.lengths("SliceThickness", 1):
        seen, thickness_mm = f"{name} is a single slice: {stated[0]:g} mm across is its Slice Thickness", stated[0]
        return thickness_mm, (Note("single slice", seen, "fine for images in 2D; a volume needs all its slices"),)
    thickness_mm = max(pixel_mm)
    seen = (
        f"{name} is a single slice without Slice Thickness: its thickness is unknown, {thickness_mm:g} mm stands for it"
    )
    return thickness_mm, (
        Note("single slice", seen, "do not use volumes in ml; export the series with all its slices"),
    )


def _nowhere(header: Header) -> tuple[Note, ...]:
    if header.text("Modality") not in _SLICED:
        return ()
    seen = f"{header.file.name} does not say where it lies in the body: it is taken for axial, as people look at it"
    return (Note("place unknown", seen, "fine for images in 2D; otherwise export it with position and orientation"),)


def _affine(orientation: Sequence[float], position: Sequence[float], pixel_mm: tuple[float, float]) -> Array:
    """(4, 4), voxel -> mm LPS, without a third column."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * pixel_mm[0]
    affine[:3, 1] = np.array(orientation[3:]) * pixel_mm[1]
    affine[:3, 3] = position
    return affine


def _pixel_notes(slices: Sequence[Slice]) -> tuple[Note, ...]:
    white = [one for one in slices if one.photometric == "MONOCHROME1"]
    if not white:
        return ()
    seen = f"{white[0].file.name}{' and others' * (len(white) > 1)}: MONOCHROME1, in which small values are bright"
    taken = "turned over, so that bright is large" if white[0].turned_over else "values are kept, as CT and PET measure"
    return (Note("bright is small", f"{seen}: {taken}", "compare one with the other images"),)


# ---------------------------------------------------------------- one series


def find_series(path: Path, pick: str | None = None) -> Series:
    """The one series of a folder.

    Args:
        path: The folder.
        pick: Series Number or UID of the one that is meant, where it holds several.

    Raises:
        DataFault: No or several series, a missing or doubled slice, slices that differ in size, spacing or direction,
            a DICOM SEG object; with the values seen.
    """
    files = list(_candidates(path))
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
    orientations = [_orientation(header) for header in headers]
    positions = [_position(header) for header in headers]
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
    affine = _affine(orientations[0], place[0], pixel_mm)
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
    read = [_pixel_spacing(header, placed=True) for header in headers]
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


# ---------------------------------------------------------------- values


def read_voxels(series: Series) -> tuple[Array, tuple[Note, ...]]:
    """Values, (columns, rows, slices[, 3]), slope and intercept applied, and what was found among them.

    Raises:
        DataFault: A file is damaged, or holds fewer pixels than it claims.
    """
    colours = (series.channels,) if series.channels > 1 else ()
    values = np.empty((*series.shape, *colours), dtype=value_type(series.slices), order="F")
    empty: dict[int, npt.NDArray[np.bool_]] = {}
    spare: tuple[Note, ...] = ()
    for number, one in enumerate(series.slices):
        plane = plane_of(one)
        values[:, :, number] = plane.values.swapaxes(0, 1)
        if plane.padded is not None and plane.padded.any():
            empty[number] = plane.padded.T
        if plane.spare_bytes > _MOST_SPARE_BYTES and not spare:
            spare = (_spare(one, plane.spare_bytes),)
    return values, (*_without_padding(series, values, empty), *spare)


def _spare(one: Slice, spare_bytes: int) -> Note:
    seen = f"{one.file.name} claims {one.rows} rows of {one.columns} pixels, and holds {spare_bytes} bytes more"
    return Note("more pixels than claimed", seen, "look at it: if it is torn, export the series again")


def _without_padding(series: Series, values: Array, empty: Mapping[int, npt.NDArray[np.bool_]]) -> tuple[Note, ...]:
    """Set padding to the smallest real value, in place: outside of what was measured there is no intensity."""
    found = sum(int(mask.sum()) for mask in empty.values())
    if found in (0, values.size):
        return ()
    planes = (values[:, :, number] for number in range(series.shape[2]))
    real = (plane[~empty[number]] if number in empty else plane for number, plane in enumerate(planes))
    smallest = min(plane.min() for plane in real if plane.size)
    for number, mask in empty.items():
        values[:, :, number][mask] = smallest
    shares = sorted({one.padding for one in series.slices if one.padding is not None})
    stated = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in shares[:3])
    seen = (
        f"{found} of {values.size} voxels hold the Pixel Padding Value (stored {stated}), which is no measurement: "
        f"they are set to {smallest:g}, the smallest of the others"
    )
    return (
        Note("padding", seen, "fine; if they were measured, remove Pixel Padding Value (0028,0120) from the files"),
    )
