"""One scan of an index, read: all its channels on one grid, and its label on the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.datasets import frame
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.errors import DataFault
from lemis.formats import labels, volume
from lemis.formats.grids import corner_distance_mm
from lemis.formats.paths import file_of, stamp
from lemis.formats.source import Source
from lemis.formats.volume import Volume
from lemis.settings import plain

# Half a voxel would move a thin wall onto its neighbour; a tenth is rounding of headers.
GRID_TOLERANCE = 0.1
_LEAST_BORDER = 40  # pairs of neighbours; a square of 10 x 10 pixels has as many

_DIGEST_BYTES = 16


def file_stamps(index: Index, scan: Scan) -> list[tuple[str, str]]:
    """Path and ``stamp`` of each image of a scan, and of its label where it has one.

    Raises:
        FileNotFoundError: One is gone; ``filename`` is its path.
    """
    return [(str(file), stamp(file)) for file in (index_file.locate(index, one) for one in scan.files)]


def is_there(index: Index, scan: Scan) -> bool:
    """Whether all files of a scan are still where the index has them."""
    return all(file_of(index_file.locate(index, file)).exists() for file in scan.files)


def source_fingerprint(index: Index, scan: Scan) -> str:
    """What a scan is prepared from: time and size of each of its files, and what the index says of it.

    Args:
        index: That holds the scan.
        scan: Its slice axis the one that it is prepared along.

    Raises:
        DataFault: One of its files is gone.
    """
    try:
        stamps = file_stamps(index, scan)
    except FileNotFoundError as gone:
        raise DataFault(
            f"scan {scan.id}: {gone.filename} is gone",
            allowed="the files that the index names",
            next="put it back, or run `lemis check` again",
        ) from None
    # Directions count where they change the order in which a scan is stored, so that others are not prepared anew.
    order = [scan.axes] if frame.is_turned(scan) else []
    facts = plain(dataclasses.replace(scan, axes=()))
    del facts["axes"]
    content = [stamps, facts, *([index.ignored] if index.ignored else []), *order]
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:16]


def read_image(index: Index, scan: Scan) -> Volume:
    """All channels of a scan, (X, Y, Z, C); the grid is that of the first file.

    Raises:
        DataFault: Channels on different grids, or another number of them than the data set has.
    """
    files = [index_file.locate(index, file) for file in scan.images]
    first = volume.read(files[0], scan.axes)
    volumes = [first, *(volume.read(file, first.source.axes) for file in files[1:])]
    for other, file in zip(volumes[1:], scan.images[1:], strict=True):
        expect_grid(other.source, file, first.source, scan.images[0])
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
    """The label of a scan, (X, Y, Z) integers on the grid of ``image``, numbered as the data set is.

    Raises:
        DataFault: A label on a different grid, or as in ``labels.read``.
    """
    return label_on(index, scan, image.source)


def image_grid(index: Index, scan: Scan) -> Source:
    """The grid of a scan's image, of which no voxel is read."""
    return dataclasses.replace(volume.read_header(index_file.locate(index, scan.images[0])), along=scan.axes)


def label_on(index: Index, scan: Scan, grid: Source) -> NDArray[Any]:
    """As ``read_label``, of a scan whose image has this grid."""
    assert scan.label is not None
    label = labels.read(index_file.locate(index, scan.label), grid.axes, grid, index.labels)
    expect_grid(label.source, scan.label, grid, scan.images[0])
    return label.array


def expect_grid(one: Source, file: str, other: Source, other_file: str) -> None:
    """Refuse a file of a scan that does not lie where another one of it lies.

    Raises:
        DataFault: Another shape, or a corner that is farther off than the tolerance.
    """
    shape = other.canonical_shape
    if one.canonical_shape != shape:
        raise DataFault(
            f"{file} has shape {one.canonical_shape}, {other_file} has {shape}",
            allowed="one grid for all files of a scan",
            next="resample one onto the other's grid, or leave the scan out",
        )
    apart = corner_distance_mm(one.canonical_affine, other.canonical_affine, shape)
    if apart > GRID_TOLERANCE * min(other.spacing_mm):
        raise DataFault(
            f"{file} and {other_file} lie {apart:.2f} mm apart",
            allowed=f"one grid for all files of a scan, to {GRID_TOLERANCE:g} of a voxel",
            next="resample one onto the other's grid, or correct the header",
        )


# ---------------------------------------------------------------- identity by content


def image_digest(images: Iterable[NDArray[Any]]) -> str:
    """Which scan this is: equal under another name, in another format or header, turned by 90 degrees or mirrored.

    So a scan is known again where somebody has stored it anew and lost its orientation. Values are compared as
    float32, exactly: a scan that was rescaled or resampled is another one.

    Args:
        images: (X, Y, Z) or (X, Y, Z, C), in the order of their channels.
    """
    return joined_digest(digest for image in images for digest in channel_digests(image))


def label_digest(label: NDArray[Any]) -> str:
    """Whose label map (X, Y, Z) this is, as ``image_digest``; "" where it tells nobody from others.

    That is so where nothing is marked or everything, and where what is marked has hardly a border: a few voxels, which
    may be marked alike in any number of people.
    """
    border = 0
    for axis in range(3):
        one, other = (np.moveaxis(label, axis, 0)[part] for part in (slice(1, None), slice(-1)))
        border += int(np.count_nonzero(one != other))
    return image_digest([label]) if border >= _LEAST_BORDER else ""


def channel_digests(image: NDArray[Any]) -> list[str]:
    """Of each channel of (X, Y, Z) or (X, Y, Z, C); for who holds one file at a time, see ``joined_digest``."""
    return [_unturned(channel) for channel in (np.moveaxis(image, 3, 0) if image.ndim == 4 else [image])]


def joined_digest(channels: Iterable[str]) -> str:
    """The ``image_digest`` of the channels with these digests."""
    return hashlib.blake2b(" ".join(channels).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _unturned(channel: NDArray[Any]) -> str:
    """Sides and a hash of (X, Y, Z) that all 48 ways of turning and mirroring a box leave alone.

    Each voxel is hashed with the sum over its six neighbours, which knows no direction; the hashes are added up.
    """
    # Plane by plane, to hold no second volume; along the axis on which neighbours lie farthest apart in memory.
    planes = channel.transpose(np.argsort([-abs(stride) for stride in channel.strides], kind="stable"))
    total = 0
    before: NDArray[np.uint64] | None = None
    here = _hashed(planes[0])
    for number in range(len(planes)):
        after = _hashed(planes[number + 1]) if number + 1 < len(planes) else None
        around = np.zeros_like(here)
        around[1:] += here[:-1]
        around[:-1] += here[1:]
        around[:, 1:] += here[:, :-1]
        around[:, :-1] += here[:, 1:]
        for neighbour in (before, after):
            if neighbour is not None:
                around += neighbour
        total += int(mixed(around ^ (here << np.uint64(1))).sum(dtype=np.uint64))
        if after is not None:
            before, here = here, after
    return f"{sorted(channel.shape)}:{total % 2**64:016x}"


def _hashed(plane: NDArray[Any]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, as it is for a network
        values = np.ascontiguousarray(plane, dtype=np.float32) + np.float32(0)  # which makes -0 the same as 0
    return mixed(values.view(np.uint32).astype(np.uint64) + np.uint64(1))


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3 (Appleby 2011), in place: each bit depends on each."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        words ^= words >> np.uint64(33)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(33)
    return words
