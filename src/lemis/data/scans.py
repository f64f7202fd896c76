"""One scan of an index, read: all its channels on one grid, and its label on the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.data import index as index_file
from lemis.data import volume
from lemis.data.index import Index, Scan
from lemis.data.volume import Volume
from lemis.errors import DataFault

# Half a voxel would move a thin wall onto its neighbour; a tenth is rounding of headers.
GRID_TOLERANCE = 0.1
ROUNDING = 1e-3


def file_stamps(index: Index, scan: Scan) -> list[tuple[str, str]]:
    """Path and ``volume.stamp`` of each image of a scan, and of its label where it has one.

    Raises:
        FileNotFoundError: One is gone; ``filename`` is its path.
    """
    files = [index_file.locate(index, file) for file in (*scan.images, *([scan.label] if scan.label else []))]
    return [(str(file), volume.stamp(file)) for file in files]


def read_image(index: Index, scan: Scan) -> Volume:
    """All channels of a scan, (X, Y, Z, C); the grid is that of the first file.

    Raises:
        DataFault: Channels on different grids, or another number of them than the data set has.
    """
    volumes = [volume.read(index_file.locate(index, file)) for file in scan.images]
    first = volumes[0]
    for other, file in zip(volumes[1:], scan.images[1:], strict=True):
        _expect_grid(other, file, first, scan.images[0])
    arrays = [one.array if one.array.ndim == 4 else one.array[..., None] for one in volumes]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=3)
    if array.shape[3] != len(index.channels):
        raise DataFault(
            f"{array.shape[3]} channels",
            allowed=f"the {len(index.channels)} of the data set: {', '.join(index.channels)}",
            next="leave the scan out, or export it with all channels",
        )
    return dataclasses.replace(first, array=array)


def read_label(index: Index, scan: Scan, image: Volume) -> NDArray[Any]:
    """The label of a scan, (X, Y, Z), on the grid of ``image``; values within 1e-3 of an integer are rounded.

    Raises:
        DataFault: A label on another grid, or with values that are no integers.
    """
    assert scan.label is not None
    label = volume.read(index_file.locate(index, scan.label))
    _expect_grid(label, scan.label, image, scan.images[0])
    rounded = np.rint(label.array)
    off = np.abs(label.array - rounded).max(initial=0)
    if off > ROUNDING:
        raise DataFault(
            f"{scan.label} holds values up to {off:.3g} from an integer",
            allowed=f"integers, or values within {ROUNDING:g} of one",
            next="export the label map again without interpolation or smoothing",
        )
    return rounded if label.array.dtype.kind == "f" else label.array


def _expect_grid(one: Volume, file: str, other: Volume, other_file: str) -> None:
    shape = other.source.canonical_shape
    if one.source.canonical_shape != shape:
        raise DataFault(
            f"{file} has shape {one.source.canonical_shape}, {other_file} has {shape}",
            allowed="one grid for all files of a scan",
            next="resample one onto the other's grid, or leave the scan out",
        )
    apart = volume.corner_distance_mm(one.affine, other.affine, shape)
    if apart > GRID_TOLERANCE * min(other.spacing_mm):
        raise DataFault(
            f"{file} and {other_file} lie {apart:.2f} mm apart",
            allowed=f"one grid for all files of a scan, to {GRID_TOLERANCE:g} of a voxel",
            next="resample one onto the other's grid, or correct the header",
        )
