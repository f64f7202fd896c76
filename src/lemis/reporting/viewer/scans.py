"""Which scans a report carries for its viewer, within a size that a page may have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lemis.datasets import index as indexing
from lemis.formats import labels as label_maps
from lemis.formats import volume
from lemis.formats.paths import file_of, format_of, maps_by_scan
from lemis.reporting.viewer import copies
from lemis.work_files.quality import LookAt, look_at_on

_SURELY = 20  # so many scans have room, however large the first ones are
_MOST_STRUCTURES = 255  # that a label map of bytes can number
_BYTES = 1e6


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One scan in the page."""

    scan: str
    copy: copies.Copy
    slice_axis: int
    place: copies.Place  # where to look first
    structures: Mapping[str, copies.Place]  # and for each structure that is there


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """The scans that a page carries, those to look at first in front."""

    structures: tuple[str, ...]  # their numbers count from 1
    scans: tuple[Shown, ...]
    left_out: tuple[str, ...]  # scans for which there was no room
    gone: tuple[str, ...]  # scans whose files were moved or deleted since
    megabytes: float  # the room
    channel: str | None  # which is shown, where scans have several

    @property
    def smaller(self) -> tuple[Shown, ...]:
        """Those that are not whole."""
        return tuple(shown for shown in self.scans if shown.copy.said)


def viewer(
    predictions: Path,
    index: indexing.Index,
    first: Sequence[str],
    *,
    megabytes: float,
    look_at: Mapping[str, Mapping[str, LookAt]] = MappingProxyType({}),
) -> Viewer | None:
    """The scans with a label map in ``predictions``.

    Args:
        predictions: The folder of label maps.
        index: The scans.
        first: Scans in the order in which they are worth looking at; all others follow.
        megabytes: Room for all copies. A scan gets its share of what is left, by its number of voxels, but at least a
            twentieth of it all. What is larger is made smaller (``copies.within``); what does not fit then is left out.
        look_at: Of scans, by structure, the slice to open where there is no reference; the first is the scan's own.

    Returns:
        None where nothing is to be shown: no room, no label map, pictures only.
    """
    structures = {name: value for name, value in index.labels.items() if value != 0}
    files = maps_by_scan(predictions)
    wanted = [scan for scan in _in_order(index, first) if scan.id in files]
    gone = tuple(scan.id for scan in wanted if not _there(index, scan))
    scans = [scan for scan in wanted if scan.id not in gone and _is_volume(index, scan)]
    if megabytes <= 0 or not scans or len(structures) > _MOST_STRUCTURES:
        return None
    room = left = megabytes * _BYTES
    voxels = sum(math.prod(scan.shape) for scan in scans)
    shown: list[Shown] = []
    for scan in scans:
        share = left * math.prod(scan.shape) / voxels
        voxels -= math.prod(scan.shape)
        room_of_one = min(left, max(share, room / _SURELY))
        one = _shown(index, scan, files[scan.id], structures, look_at.get(scan.id, {}), room_of_one, left)
        if one is not None:
            left -= one.copy.size
            shown.append(one)
    kept = {one.scan for one in shown}
    return Viewer(
        structures=tuple(structures), scans=tuple(shown), gone=gone, megabytes=megabytes,
        left_out=tuple(scan.id for scan in scans if scan.id not in kept),
        channel=index.channels[0] if len(index.channels) > 1 else None,
    )  # fmt: skip


def _in_order(index: indexing.Index, first: Sequence[str]) -> list[indexing.Scan]:
    ranks = {scan: rank for rank, scan in enumerate(first)}
    return sorted(index.scans, key=lambda scan: ranks.get(scan.id, len(ranks)))


def _there(index: indexing.Index, scan: indexing.Scan) -> bool:
    files = (scan.images[0], *([scan.label] if scan.label else []))
    return all(file_of(indexing.locate(index, file)).exists() for file in files)


def _is_volume(index: indexing.Index, scan: indexing.Scan) -> bool:
    """Photographs and the like have no place in a body, so there is no plane but their own."""
    return format_of(indexing.locate(index, scan.images[0])) != "picture"


def _shown(
    index: indexing.Index,
    scan: indexing.Scan,
    prediction: Path,
    structures: Mapping[str, int],
    look_at: Mapping[str, LookAt],
    wanted: float,
    most: float,
) -> Shown | None:
    image = volume.read(indexing.locate(index, scan.images[0]), scan.axes)

    def labels(path: Path) -> NDArray[np.uint8]:
        return copies.numbered(label_maps.read(path, image.source.axes, image.source, index.labels).array, structures)

    slices = {} if scan.label else look_at_on(image.source, look_at)
    maps = copies.Maps(
        image=image.array[..., 0] if image.array.ndim == 4 else image.array,
        prediction=labels(prediction),
        reference=labels(indexing.locate(index, scan.label)) if scan.label else None,
        affine=image.affine,
        kept=tuple(slices.values()),
    )
    copy = copies.within(maps, wanted, most)
    if copy is None:
        return None
    places = {
        name: copies.worst_place(maps, scan.slice_axis, number, slices.get(name))
        for number, name in enumerate(structures, start=1)
        if name in slices
        or ((maps.prediction == number) | (False if maps.reference is None else maps.reference == number)).any()
    }
    first = next((places[name] for name in slices if name in places), None)
    return Shown(
        scan=scan.id,
        copy=copy,
        slice_axis=scan.slice_axis,
        structures=places,
        place=first or copies.worst_place(maps, scan.slice_axis),
    )
