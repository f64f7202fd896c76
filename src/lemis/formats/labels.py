"""Label maps: from what files hold to one whole number per voxel, on the scan's grid, numbered as the data set is.

- A picture in colour whose channels are equal is a grey one. One whose transparency varies is refused: the mask may
  be what is transparent.
- A segmentation of 3D Slicer, or a DICOM SEG object, may cover a part of the scan only, on the same lattice; around it
  lies background.
- Files that name their structures may number them differently; the name decides (``numbering``, ``renumbered``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.errors import DataFault
from lemis.formats import volume
from lemis.formats.directions import Axes
from lemis.formats.faults import reading
from lemis.formats.grids import corner_distance_mm
from lemis.formats.pictures import TRANSPARENT, open_picture
from lemis.formats.segments import key_of
from lemis.formats.source import Source
from lemis.formats.volume import Volume

Array = NDArray[Any]

# Labels that went through float arithmetic are off by about 1e-6; resampled ones by tenths.
INTEGER_TOLERANCE = 1e-3
# A lattice is the same where voxels lie on voxels, up to the rounding of headers.
_LATTICE_TOLERANCE_VOXELS = 0.05
_MOST_VOXELS = 2**30  # of a scan
SMALLEST, LARGEST = -(2**31), 2**31 - 1  # what a label map can hold
_WIDEST_LABELS = 100  # of numbers that count structures; black to white is 255


def read(path: Path, along: Axes = (), image: Source | None = None, labels: Mapping[str, int] | None = None) -> Volume:
    """Read a label map.

    Args:
        path: Its file.
        along: As of ``volume.read``.
        image: The scan on whose grid it lies, where it may cover a part of it.
        labels: Names and values of the data set, where the file may number them differently.

    Returns:
        ``array`` (X, Y, Z) of an integer type.

    Raises:
        DataFault: As ``volume.read_label``; several values per voxel, values that are no whole numbers of 32 bits, or
            that the data set uses for something else.
    """
    label = single(volume.read_label(path, along))
    label = dataclasses.replace(label, array=whole(label.array, path))
    if image is not None:
        label = placed(label, image)
    return label if labels is None else renumbered(label, labels)


# ---------------------------------------------------------------- one whole number per voxel


def single(label: Volume) -> Volume:
    """A label map with one value per voxel, (X, Y, Z); a grey picture may be saved in colour.

    Raises:
        DataFault: Several values per voxel, or a picture whose transparency varies.
    """
    path, array = label.source.path, label.array
    if any(note.kind == TRANSPARENT for note in label.source.notes):
        raise DataFault(
            f"{path} is transparent in part: the mask may be in its colours or in its transparency",
            allowed="a mask in grey values without transparency",
            next="save it as greyscale, one value for each structure",
        )
    if array.ndim == 3:
        return label
    if label.source.format == "picture" and (array == array[..., :1]).all():
        return dataclasses.replace(label, array=array[..., 0], source=dataclasses.replace(label.source, channels=1))
    raise DataFault(
        f"{path} holds {label.source.channels} values per voxel",
        allowed="a label map, which holds one",
        next="save one integer per voxel (merge overlapping segments, replace colours by numbers)",
    )


def whole(array: Array, path: Path) -> Array:
    """The same values as integers; values within 1e-3 of an integer are rounded.

    Raises:
        DataFault: Values that are no numbers, lie between integers, or are beyond 32 bits.
    """
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= SMALLEST and high <= LARGEST):  # also where one is NaN
        raise DataFault(
            f"{path} holds values from {low:.6g} to {high:.6g}",
            allowed="integers that 32 bits hold",
            next="replace what is no label by 0 (background)",
        )
    if array.dtype.kind != "f":
        return array
    rounded = np.rint(array)
    off = float(np.abs(array - rounded).max(initial=0))
    if off > INTEGER_TOLERANCE:
        raise DataFault(
            f"{path} holds values up to {off:.3g} from an integer",
            allowed=f"integers, or values within {INTEGER_TOLERANCE:g} of one",
            next="export the label map again without interpolation or smoothing",
        )
    return rounded.astype(np.int32)


def soft_values(array: Array, *, lossy: bool = False) -> tuple[int, ...]:
    """Grey values of a mask that lie along edges only, as those of softened edges do, and few structures do.

    Args:
        array: (X, Y, Z) integers of a picture.
        lossy: Whether the file's format (JPEG) changes values, so that all but the outermost are suspect.

    Returns:
        Those that nowhere fill a square of 3 x 3 pixels; none where the values span no more than structures that are
        counted would.
    """
    values = np.unique(array)
    if len(values) < 3 or int(values[-1]) - int(values[0]) < _WIDEST_LABELS:
        return ()
    if lossy:
        return tuple(int(value) for value in values[1:-1])
    from scipy.ndimage import maximum_filter, minimum_filter

    inside = maximum_filter(array, size=(3, 3, 1)) == minimum_filter(array, size=(3, 3, 1))
    return tuple(int(value) for value in np.setdiff1d(values[1:-1], array[inside]))


def palette(label: Source, values: Iterable[int]) -> dict[int, str]:
    """The colours (``#ff0000``) that a palette picture gives these values; empty for other files."""
    if label.dtype not in ("P", "PA"):
        return {}
    with open_picture(label.path) as picture, reading(label.path):
        colours = picture.getpalette("RGB")
    return {value: "#" + bytes(colours[3 * value : 3 * value + 3]).hex() for value in values}


# ---------------------------------------------------------------- on the scan's grid


def placed(label: Volume, image: Source) -> Volume:
    """A segmentation that covers part of the image's grid, extended to the whole grid; anything else unchanged."""
    if not label.source.segments or label.source.canonical_shape == image.canonical_shape:
        return label
    to_image: Array = np.linalg.solve(image.canonical_affine, label.affine)  # voxel of the label -> of the image
    first = np.rint(to_image[:3, 3]).astype(int)
    lattice = np.eye(4)
    lattice[:3, 3] = first
    corners = corner_distance_mm(to_image, lattice, label.source.canonical_shape)  # here in voxels
    last = first + label.array.shape
    if corners > _LATTICE_TOLERANCE_VOXELS or (first < 0).any() or (last > image.canonical_shape).any():
        return label
    array = np.zeros(image.canonical_shape, label.array.dtype)
    array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = label.array
    source = dataclasses.replace(label.source, shape=image.shape, affine=image.affine, along=image.along)
    return Volume(array=array, affine=image.canonical_affine, source=source)


def together(one: Volume, other: Volume) -> tuple[Volume, Volume]:
    """Two label maps of one scan, their axes alike: segmentations that cover parts of it, on the smallest grid that
    holds both; anything else unchanged.
    """
    shapes = np.array([label.source.canonical_shape for label in (one, other)])
    first = np.rint(np.linalg.solve(one.affine, other.affine)[:3, 3]).astype(int)
    low, high = np.minimum(0, first), np.maximum(shapes[0], first + shapes[1])
    if np.prod(high - low, dtype=float) > _MOST_VOXELS:  # so far apart that they are not of one scan
        return one, other
    corner = np.eye(4)
    corner[:3, 3] = low
    x, y, z = (int(size) for size in high - low)
    grid = dataclasses.replace(one.source, shape=(x, y, z), affine=one.affine @ corner, along=one.source.axes)
    both = placed(one, grid), placed(other, grid)
    return both if both[0].array.shape == both[1].array.shape else (one, other)


# ---------------------------------------------------------------- numbered as the data set is


def numbering(files: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """One value for each structure that files name: its value in the first file that names it, or the next free one.

    Args:
        files: Names and values inside each file.
    """
    found: dict[str, int] = {}
    keys: set[str] = set()
    for name, value in (item for names in files for item in names.items()):
        if key_of(name) not in keys:
            keys.add(key_of(name))
            taken = {0, *found.values()}
            found[name] = value if value not in taken else next(n for n in range(1, len(taken) + 1) if n not in taken)
    return found


def moved(segments: Mapping[str, int], labels: Mapping[str, int]) -> dict[int, int]:
    """The value in the data set of each value that a file names, where the data set knows the name."""
    known = {key_of(name): value for name, value in labels.items()}
    return {value: known[key_of(name)] for name, value in segments.items() if key_of(name) in known}


def named_otherwise(segments: Mapping[str, int], labels: Mapping[str, int]) -> list[str]:
    """In words, the values that a file and the data set name differently: there the value counts, not the name.

    Args:
        segments: Names and values inside the file.
        labels: Of the data set; a made-up name, ``label 2``, contradicts none.
    """
    moves, ours = moved(segments, labels), {value: name for name, value in labels.items() if name != f"label {value}"}
    return [
        f"{value} is {name} in the file and {ours[value]} in the data set"
        for name, value in segments.items()
        if value not in moves and value in ours
    ]


def clashing(values: Iterable[int], moves: Mapping[int, int]) -> list[int]:
    """Values of a file without a known name that would be mixed up with what its other values become."""
    if all(old == new for old, new in moves.items()):
        return []
    return sorted((set(values) - {0, *moves}) & set(moves.values()))


def renumbered(label: Volume, labels: Mapping[str, int]) -> Volume:
    """A label map whose file names its structures, renumbered as the data set numbers these names.

    Raises:
        DataFault: The file also holds values without a known name, and cannot be told apart from others then.
    """
    moves = moved(label.source.segments, labels)
    if all(old == new for old, new in moves.items()):
        return label
    if clash := clashing(np.unique(label.array).tolist(), moves):
        raise DataFault(
            f"{label.source.path} holds the value {clash[0]}, which is none of "
            f"{', '.join(f'{value} ({name})' for name, value in label.source.segments.items())} in it that we know",
            allowed="values that the file or the data set names",
            next="name all segments alike in every file",
        )
    array = label.array.astype(np.result_type(label.array, *map(np.min_scalar_type, moves.values())))
    for old, new in moves.items():
        array[label.array == old] = new
    return dataclasses.replace(label, array=array)
