"""Scans in and label maps out: every format becomes one array in RAS+ order, and goes back on its own grid.

Canonical order is a permutation and flips of the stored axes, no resampling: axis 0 runs to the patient's
Right, 1 to Anterior, 2 to Superior, as nearly as the stored axes allow; or along the three directions that the reader
is given, so that scans of a data set lie alike (``datasets/frame.py``). World coordinates are mm, RAS.

Which format a file is of, and which part of it is meant, its path says (``paths.py``). Each format has its reader and
its writer: ``nifti.py`` (FreeSurfer too), ``itk.py`` (NRRD, MetaImage), ``pictures.py``, and ``slice_files.py`` for
DICOM, whose label maps are written as NIfTI. DICOM SEG objects (``dicom/segmentation.py``, ``segmentation_out.py``) are
label maps, for ``read_label`` alone. What a header claims is checked against the file before anything is allocated, and
a packed file is read to its check sum (``headers.py``, ``packed.py``).

A fourth axis, or vector voxels, are channels, however many there are; an axis of length 1 is dropped. Stored
values with slope and intercept are scaled in float64; others keep their type.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis import files
from lemis.errors import LemisError, UsageError
from lemis.formats import itk, nifti, pictures, segments, slice_files
from lemis.formats.dicom import segmentation, segmentation_out
from lemis.formats.dicom.segmentation_out import Maker, Segment
from lemis.formats.dicom.series import Series, find_slice
from lemis.formats.directions import Axes
from lemis.formats.grids import corner_distance_mm, spacing_of
from lemis.formats.paths import LABEL_SUFFIXES, PART, file_of, format_of, may_be_dicom, series_of, suffix_of
from lemis.formats.source import Source

Array = npt.NDArray[Any]
Reader = Callable[[Path, bool], tuple[Source, Array | None]]


_WRITING = ".writing-"  # begins the names of folders that are written to before anything takes its place
# A written grid may differ from the wanted one by the rounding of a float32 affine, far below any voxel.
_AFFINE_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan in memory."""

    array: Array  # (X, Y, Z) or (X, Y, Z, C), in canonical order
    affine: npt.NDArray[np.float64]  # (4, 4), voxel of ``array`` -> mm RAS
    source: Source

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the axes of ``array``."""
        return spacing_of(self.affine)


def read(path: Path, along: Axes = ()) -> Volume:
    """Read a file, or a folder that holds one DICOM series.

    Args:
        path: The file or folder, or a part of it.
        along: Directions that the canonical axes run along; (): the body axes, RAS+.

    Raises:
        UsageError: There is no such file, or we do not read its format.
        DataFault: The file is damaged, is no image (DICOM SEG), or holds no intensities (complex numbers).
    """
    path = Path(path)
    source, stored = _reader(path)(path, True)
    return _canonical(replace(source, along=along), stored)


def read_label(path: Path, along: Axes = ()) -> Volume:
    """A label map: what ``read`` reads, and DICOM SEG objects, which it refuses as images. Raises like ``read``."""
    segmentation_file = segmentation.find(path) if file_of(path) == path and may_be_dicom(path) else None
    if segmentation_file is None:
        return read(path, along)
    source, stored = segmentation.read(segmentation_file, True)
    return _canonical(replace(source, path=Path(path), along=along), stored)


def read_dicom_slice(path: Path) -> Volume:
    """One file of a series as an image of its own, where ``read`` takes the whole series. Raises like ``read``."""
    source, stored = slice_files.read_series(path, find_slice(path), True)
    return _canonical(source, stored)


def read_header(path: Path) -> Source:
    """What the file says of its grid, without its voxels. Raises like ``read``."""
    path = Path(path)
    source, _ = _reader(path)(path, False)
    return source


def _reader(path: Path) -> Reader:
    readers: dict[str, Reader] = {
        "nifti": nifti.read,
        "mgh": nifti.read,
        "nrrd": itk.read,
        "meta": itk.read,
        "dicom": slice_files.read_dicom,
        "picture": pictures.read,
    }
    kind, match = format_of(path), PART.match(str(path))
    if match is None:
        return readers[kind]
    if match["frame"] and readers[kind] is nifti.read:
        return partial(nifti.read, frame=int(match["frame"]))
    if match["grid"] and kind == "dicom":
        return partial(slice_files.read_pictures, grid=match["grid"])
    if match["series"] and kind == "dicom":
        return partial(slice_files.read_dicom, series=match["series"])
    if match["grey"] and kind == "picture":
        return partial(pictures.read, grey=True)
    raise UsageError(
        f"{path}",
        allowed="#frame=7 of NIfTI and FreeSurfer files, #grey of pictures, #grid=FOLDER of folders of pictures, "
        "#series=4 of folders of DICOM files",
        next=f"give {file_of(path)}",
    )


def _canonical(source: Source, stored: Array | None) -> Volume:
    from nibabel.orientations import apply_orientation

    assert stored is not None
    array = apply_orientation(_native(stored), source.orientation)
    return Volume(array=array, affine=source.canonical_affine, source=source)


def _native(array: Array) -> Array:
    """The same values in this machine's byte order, in a type that NumPy computes with everywhere."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write_labels(labels: Array, like: Source, path: Path) -> Path:
    """Write a label map on the grid of the file that ``like`` describes, in that file's format.

    Args:
        labels: (X, Y, Z) integers in canonical order. The smallest integer type that holds them is stored.
        like: ``read(...).source`` or ``read_header(...)`` of the scan.
        path: Where to; its suffix is one of ``LABEL_SUFFIXES`` of the scan's format (see ``label_suffix``).

    Raises:
        UsageError: A suffix of another format, or values that the format cannot hold.
        LemisError: What was written is not on the scan's grid (nothing is left at ``path``).
    """
    path = Path(path)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != like.canonical_shape:
        raise ValueError(f"labels {labels.dtype} {labels.shape} for a scan of shape {like.canonical_shape}")
    allowed = LABEL_SUFFIXES[like.format]
    if suffix_of(path) not in allowed:
        raise UsageError(
            f"label map {path.name} for {like.path.name}",
            allowed=f"labels of this scan are written as {' or '.join(allowed)}",
            next=f"name it {path.name.split('.')[0]}{allowed[0]}",
        )
    stored = _as_stored(labels, like).astype(_label_type(labels, like.format, path))
    write = {
        "nifti": nifti.write_labels,
        "mgh": nifti.write_labels,
        "dicom": nifti.write_labels,
        "picture": pictures.write_labels,
    }.get(like.format, itk.write_labels)
    with _replacing(path) as temporary:
        write(stored, like, temporary)
        _same_grid(read_header(temporary), like)
    return path


def write_segmentation(
    labels: Array, like: Source, structures: Mapping[str, int], colours: Mapping[str, str], path: Path
) -> Path:
    """Write a label map as a segmentation of 3D Slicer, on the grid of the file that ``like`` describes.

    Args:
        labels: (X, Y, Z) integers in canonical order.
        like: As of ``write_labels``; the file may be of any format with a place in the body.
        structures: Name to value; one that occurs nowhere is declared too.
        colours: Name to ``#rrggbb``.
        path: Where to, a ``.seg.nrrd``.

    Raises:
        LemisError: What was written is not on the scan's grid (nothing is left at ``path``).
    """
    stored = _as_stored(labels, like).astype(_label_type(labels, "nrrd", path))
    with _replacing(path) as temporary:
        itk.write_segmentation(stored, like, segments.header(structures, colours, stored.shape), temporary)
        _same_grid(read_header(temporary), like)
    return path


def write_dicom_segmentation(
    labels: Array, like: Source, structures: Sequence[Segment], maker: Maker, kind: str, path: Path
) -> tuple[Segment, ...]:
    """Write a label map as a DICOM SEG object of the series that ``like`` describes.

    Args:
        labels: (X, Y, Z) integers in canonical order.
        like: As of ``write_labels``, of a DICOM series.
        structures: All that ``labels`` may hold.
        maker: Of the label map.
        kind: As of ``segmentation_out.write``, which this raises like.
        path: Where to.

    Returns:
        The structures that are marked; where none is, there is no file at ``path``.
    """
    series = _series_at(like.path)
    with _replacing(path) as temporary:
        written = segmentation_out.write(_as_stored(labels, like), series, structures, maker, kind, temporary)
    if not written:
        path.unlink(missing_ok=True)
    return written


def refuse_no_dicom_segmentation_of(path: Path) -> None:
    """Refuse a DICOM series that ``write_dicom_segmentation`` can write no object of, by its headers alone.

    Raises:
        DataFault: It does not say what an object of it must state.
    """
    segmentation_out.refuse_incomplete(_series_at(path))


def _series_at(path: Path) -> Series:
    return slice_files.series_at(path, series_of(path) or None)


def _as_stored(labels: Array, like: Source) -> Array:
    """(X, Y, Z) in canonical order, in the order of the file's axes."""
    from nibabel.orientations import apply_orientation, ornt_transform

    back = ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), like.orientation)
    return np.ascontiguousarray(apply_orientation(labels, back))


def write_volume(array: Array, affine: npt.NDArray[np.float64], path: Path) -> Path:
    """Write ``array``, (X, Y, Z) or (X, Y, Z, C), as NIfTI with the (4, 4) affine voxel -> mm RAS."""
    path = Path(path)
    if suffix_of(path) not in LABEL_SUFFIXES["nifti"]:
        raise UsageError(f"{path}", allowed="write_volume writes .nii and .nii.gz", next=f"{path.stem}.nii.gz")
    with _replacing(path) as temporary:
        nifti.write_volume(array, affine, temporary)
    return path


def _label_type(labels: Array, kind: str, path: Path) -> npt.DTypeLike:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    types: dict[str, tuple[npt.DTypeLike, ...]] = {
        "mgh": (np.uint8, np.int16, np.int32),
        "picture": (np.uint8, np.uint16),
    }
    for dtype in types.get(kind, (np.uint8, np.uint16, np.int16, np.int32)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:  # type: ignore[arg-type]
            return dtype
    raise UsageError(
        f"label values {low} to {high} in {path.name}",
        allowed="what the format holds: 0 to 65535 in pictures, 32-bit integers elsewhere",
        next="renumber the labels",
    )


def _same_grid(written: Source, like: Source) -> None:
    off = corner_distance_mm(written.affine, like.affine, like.shape)
    if written.shape != like.shape or off > _AFFINE_TOLERANCE_MM:
        raise LemisError(
            f"a label map for {like.path} came out on another grid: shape {written.shape} for {like.shape}, "
            f"{off:.4g} mm apart. It was not kept; please report this file's header."
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path of that name in a hidden folder beside it; what lies there moves over ``path`` on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.naming(path, written=path.parent / _WRITING),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=_WRITING) as folder,
    ):
        temporary = Path(folder) / path.name
        yield temporary
        # An .mhd names its data file: that one moves first.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == temporary):
            os.replace(file, path.parent / file.name)
