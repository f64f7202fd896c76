"""DICOM SEG objects as label maps: where each frame lies, which segment it shows, and what the segments are called.

Read by pydicom alone. Frames are put where their own positions say, never in the order of the file: writers leave out
frames in which nothing is marked, so that the frames of a file are no stack. The grid is as large as the frames reach;
``labels.placed`` extends it to the scan's.

- BINARY: one frame for each segment and slice. Segments that overlap are refused: a label map holds one per voxel.
- LABELMAP: one frame for each slice, which holds the numbers of segments.
- FRACTIONAL: as BINARY, marked where a value is at least half of the greatest; a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import segments
from lemis.formats.dicom import folders, grid
from lemis.formats.dicom.tags import EXPLICIT, IMPLICIT, dataset_of
from lemis.formats.faults import reading
from lemis.formats.grids import LPS_TO_RAS
from lemis.formats.notes import Note
from lemis.formats.source import Source, usable

Array = npt.NDArray[Any]

_TAGS = (
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "FrameOfReferenceUID", "ReferencedSeriesSequence"),
    *("SegmentationType", "MaximumFractionalValue", "SegmentSequence", "PixelPaddingValue"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_KINDS = ("BINARY", "LABELMAP", "FRACTIONAL")
_PLAIN = (IMPLICIT, EXPLICIT)
_LATTICE_TOLERANCE = 0.05  # of a voxel, as for other label maps (labels.py)
_DIRECTION_TOLERANCE = 1e-2
_MOST_SLICES = 4096  # no series is longer
# Masks are mostly empty and shrink far more than images; a file of some kB that claims gigabytes is damaged.
_MOST_PACKED, _FREE_BYTES = 2000, 200_000_000


@dataclass(frozen=True)
class Reference:
    """What a SEG object says it is of."""

    series: tuple[str, ...]  # UIDs; () where it names none
    frame_of_reference: str


@dataclass(frozen=True)
class _Frame:
    """Which segment it shows, and the place of its first pixel."""

    segment: int  # 0: its values say which
    position: tuple[float, ...]
    orientation: tuple[float, ...]


def find(path: Path) -> Path | None:
    """The SEG object that is meant by a file or by a folder of one; None where it is something else.

    Raises:
        DataFault: A folder of several.
    """
    if path.is_file():
        return path if folders.is_segmentation(path) else None
    if not path.is_dir() or folders.is_series_folder(path):
        return None
    found = folders.segmentations(path)
    if len(found) > 1:
        raise DataFault(
            f"{path} holds {len(found)} DICOM SEG objects: {', '.join(file.name for file in found[:5])}",
            allowed="one label for a scan",
            next=f"give the one that is meant: {found[0]}",
        )
    return found[0] if found else None


def reference(file: Path) -> Reference | None:
    """What a SEG object is of; None where it cannot be read."""
    try:
        dataset = dataset_of(file, _TAGS, pixels=False)
        with reading(file):
            named = dataset.get("ReferencedSeriesSequence") or ()
            uids = tuple(str(one.SeriesInstanceUID) for one in named if "SeriesInstanceUID" in one)
            return Reference(uids, str(dataset.get("FrameOfReferenceUID") or ""))
    except DataFault:
        return None


def read(file: Path, with_voxels: bool) -> tuple[Source, Array | None]:
    """A SEG object as a label map, (columns, rows, slices) of segment numbers.

    Raises:
        DataFault: It is damaged, of an unknown kind, does not say where its frames lie, or its segments overlap.
    """
    dataset = dataset_of(file, (*_TAGS, *(("PixelData",) if with_voxels else ())), pixels=with_voxels)
    with reading(file):
        kind = str(dataset.get("SegmentationType") or "")
    if kind not in _KINDS:
        raise _fault(file, f"is of the type {kind[:20]!a}", f"{', '.join(_KINDS)}", "export it as BINARY")
    with reading(file):
        names = _names(dataset)
        frames = _frames(dataset, kind)
        lengths = _lengths(dataset)
        shape = int(dataset.Columns), int(dataset.Rows)
    if not names:
        raise _fault(file, "describes no segment", "at least one", "export it again")
    if nameless := sorted({frame.segment for frame in frames} - {0, *names}):
        raise _fault(
            file, f"has frames of segment {nameless[0]}, which it does not describe", "its own", "export it again"
        )
    slices, affine_lps = _lattice(file, frames, lengths)
    source = usable(
        Source(
            path=file,
            format="dicom",
            shape=(*shape, max(slices) + 1),
            channels=1,
            affine=LPS_TO_RAS @ affine_lps,
            dtype="uint8" if max(names) < 256 else "uint16",
            segments=segments.told_apart([(name, number) for number, name in sorted(names.items())]),
            notes=_notes(kind),
        )
    )
    if not with_voxels:
        return source, None
    _refuse_claims(file, dataset, len(frames))
    voxels = np.zeros(source.shape, source.dtype, order="F")
    with reading(file):
        planes = _planes(dataset)
        if kind == "LABELMAP":
            for plane, place in zip(planes, slices, strict=True):
                voxels[:, :, place] = plane.T
        else:
            least = int(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 1
            overlaps = _mark(voxels, (np.greater_equal(plane.T, least) for plane in planes), frames, slices)
    if kind == "LABELMAP":
        _without_background(file, dataset, voxels, names)
    elif overlaps:
        raise _overlap(file, overlaps, names)
    return source, voxels


def _names(dataset: Any) -> dict[int, str]:
    """Segment labels by number; 0 is the background of a LABELMAP."""
    found = {int(one.SegmentNumber): str(one.get("SegmentLabel") or "") for one in dataset.get("SegmentSequence") or ()}
    tidy = {number: " ".join(name.replace("\0", " ").split()) for number, name in found.items()}
    return {number: name or f"segment {number}" for number, name in tidy.items() if number != 0}


def _frames(dataset: Any, kind: str) -> list[_Frame]:
    """In the order of the file. What all frames share stands in the first item of another sequence."""
    shared = dataset.SharedFunctionalGroupsSequence[0]

    def said(own: Any, sequence: str, tag: str) -> Any:
        for group in (own, shared):
            if items := group.get(sequence):
                return items[0].get(tag)
        return None

    return [
        _Frame(
            0 if kind == "LABELMAP" else int(said(own, "SegmentIdentificationSequence", "ReferencedSegmentNumber")),
            tuple(float(part) for part in said(own, "PlanePositionSequence", "ImagePositionPatient") or ()),
            tuple(float(part) for part in said(own, "PlaneOrientationSequence", "ImageOrientationPatient") or ()),
        )
        for own in dataset.PerFrameFunctionalGroupsSequence
    ]


def _lengths(dataset: Any) -> tuple[tuple[float, float], list[float]]:
    """Size of a pixel across a row and down a column; and what may be the step between slices, the best first. mm."""
    groups = [*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence]
    measures = next((group.PixelMeasuresSequence[0] for group in groups if group.get("PixelMeasuresSequence")), None)
    if measures is None:
        return (0.0, 0.0), []
    down, across = (float(part) for part in measures.PixelSpacing)
    steps = (measures.get("SpacingBetweenSlices"), measures.get("SliceThickness"))
    return (across, down), [abs(float(step)) for step in steps if step]


def _lattice(
    file: Path, frames: Sequence[_Frame], lengths: tuple[tuple[float, float], list[float]]
) -> tuple[list[int], Array]:
    """The slice that each frame lies in, and voxel -> mm LPS.

    Raises:
        DataFault: Frames do not say where they lie, are turned against each other, or unevenly spaced.
    """
    pixel_mm, steps = lengths
    if not frames or not all(pixel_mm) or not all(_is_placed(one) for one in frames):
        raise _fault(
            file,
            "does not say where its frames lie in the body",
            "Image Position, Image Orientation and Pixel Spacing of each frame",
            "save it as .nii.gz on the scan's grid",
        )
    orientation = np.array(frames[0].orientation)
    if np.abs(np.array([one.orientation for one in frames]) - orientation).max() > 1e-3:
        raise _fault(file, "has frames in several directions", "slices of one direction", "export it again")
    normal = np.cross(orientation[:3], orientation[3:])
    places = np.array([one.position for one in frames])  # (frames, 3) mm
    heights = places @ normal
    first, last = places[np.argmin(heights)], places[np.argmax(heights)]
    heights -= heights.min()
    apart = np.diff(np.unique(heights.round(3)))
    for step in [*steps, *([apart.min()] if apart.size else [1.0])]:
        numbers = np.rint(heights / step)
        if np.abs(heights - numbers * step).max() > _LATTICE_TOLERANCE * step or numbers.max() >= _MOST_SLICES:
            continue
        # As in a series, the step leads from slice to slice, not along the normal: a tilted gantry stays a shear.
        across = (last - first) / numbers.max() if numbers.max() else normal * step
        off = places - first - numbers[:, None] * across
        if np.linalg.norm(off, axis=1).max() <= _LATTICE_TOLERANCE * min(step, *pixel_mm):
            affine = grid.affine_in_plane(frames[0].orientation, first.tolist(), pixel_mm)
            affine[:3, 2] = across
            return numbers.astype(int).tolist(), affine
    raise _fault(
        file, "has frames at uneven distances", "evenly spaced slices", "save it as .nii.gz on the scan's grid"
    )


def _is_placed(frame: _Frame) -> bool:
    if len(frame.position) != 3 or len(frame.orientation) != 6 or not np.isfinite(frame.position).all():
        return False
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    return bool(np.abs([row @ row - 1, column @ column - 1, row @ column]).max() < _DIRECTION_TOLERANCE)


def _notes(kind: str) -> tuple[Note, ...]:
    if kind != "FRACTIONAL":
        return ()
    seen = "FRACTIONAL: a voxel belongs to a segment where the file says half of the greatest value or more"
    return (Note("fractional segmentation", seen, "fine for probabilities; otherwise threshold it yourself"),)


def _refuse_claims(file: Path, dataset: Any, frames: int) -> None:
    """Refuse more pixels than the file can hold, before anything is allocated."""
    with reading(file):
        bits = frames * int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        stated = int(dataset.get("NumberOfFrames") or 1)
    claimed, held = (bits + 7) // 8, file.stat().st_size
    if stated != frames:
        raise _fault(file, f"has {stated} frames, and describes {frames}", "as many", "export it again")
    if claimed > (held if syntax in _PLAIN else _FREE_BYTES + _MOST_PACKED * held):
        raise _fault(
            file,
            f"claims {claimed / 1e6:.4g} MB of pixels and holds {held / 1e6:.4g} MB",
            "a complete file",
            "export it again",
        )


def _planes(dataset: Any) -> Iterator[Array]:
    """Each frame, (rows, columns), as its values are stored."""
    from pydicom.pixels.utils import iter_pixels

    if int(dataset.BitsAllocated) > 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset, raw=True)
        return
    # Frames of bits follow each other without a gap, so that one may begin inside a byte; iter_pixels cuts it there.
    shape = int(dataset.Rows), int(dataset.Columns)
    size = shape[0] * shape[1]
    for start in range(0, size * int(dataset.NumberOfFrames), size):
        cells = np.frombuffer(dataset.PixelData[start // 8 : (start + size + 7) // 8], np.uint8)
        yield np.unpackbits(cells, bitorder="little")[start % 8 :][:size].reshape(shape)


def _mark(
    voxels: Array, marked: Iterator[npt.NDArray[np.bool_]], frames: Sequence[_Frame], slices: Sequence[int]
) -> dict[tuple[int, int], int]:
    """Write each frame's number where it marks; voxels that were marked as another segment before, by both numbers."""
    overlaps: dict[tuple[int, int], int] = {}
    for mask, frame, place in zip(marked, frames, slices, strict=True):
        plane = voxels[:, :, place]
        taken = plane[mask]
        for other in np.unique(taken[(taken != 0) & (taken != frame.segment)]).tolist():
            pair = (min(other, frame.segment), max(other, frame.segment))
            overlaps[pair] = overlaps.get(pair, 0) + int((taken == other).sum())
        plane[mask] = frame.segment
    return overlaps


def _without_background(file: Path, dataset: Any, voxels: Array, names: dict[int, str]) -> None:
    """Set padding to 0, in place.

    Raises:
        DataFault: There are values that are no segment's.
    """
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and int(padding) not in (0, *names):
        voxels[voxels == int(padding)] = 0
    strange = sorted(set(np.unique(voxels).tolist()) - {0, *names})
    if strange:
        raise _fault(
            file,
            f"holds the value {strange[0]}, which is no segment's",
            f"0 and the numbers of its segments: {', '.join(map(str, sorted(names)[:20]))}",
            "export it again",
        )


def _overlap(file: Path, overlaps: dict[tuple[int, int], int], names: dict[int, str]) -> DataFault:
    (one, other), voxels = max(overlaps.items(), key=lambda item: item[1])
    more = f", and {len(overlaps) - 1} more pairs" if len(overlaps) > 1 else ""
    return _fault(
        file,
        f"has segments that overlap: {names.get(one, one)} and {names.get(other, other)} in {voxels} voxels{more}",
        "one structure per voxel",
        "remove the overlap where it was drawn (3D Slicer: Segment Editor, Mask volume), or save the structures that "
        "you need as one .nii.gz label map",
    )


def _fault(file: Path, seen: str, allowed: str, repair: str) -> DataFault:
    return DataFault(f"{file} {seen}", allowed=allowed, next=repair)
