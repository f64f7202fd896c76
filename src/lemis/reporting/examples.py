"""The best, the median and the worst scan of a report: which slices or planes of them, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.datasets import index as indexing
from lemis.formats import labels as label_maps
from lemis.formats import volume
from lemis.formats.paths import maps_by_scan
from lemis.formats.source import Source
from lemis.reporting.figures import outlines
from lemis.reporting.review import Review
from lemis.reporting.work_facts import Example, Pictured, Slice, scan_rows
from lemis.work_files.evaluation import CaseScore
from lemis.work_files.quality import LookAt, look_at_on

Array = NDArray[Any]

_SLICES = 3  # pictures per example
_PICTURED = 6  # scans of the queue
_MARGIN_MM = 20.0  # around the structures, so that the neighbourhood can be judged
# A scan is also looked at across its slices where they are this many, and no further apart than this many pixels.
_ENOUGH_SLICES, _MOST_APART = 16, 3.0
# Canonical axis a plane lies across -> its name, and what is at its left border and on top.
_PLANES = {2: ("axial", "R", "A"), 1: ("coronal", "R", "S"), 0: ("sagittal", "A", "S")}


def examples(
    predictions: Path, index: indexing.Index, per_case: Sequence[CaseScore], in_3d: bool
) -> tuple[Example, ...]:
    """The best, the median and the worst scan; ``in_3d``: segmented by a three-dimensional network."""
    files = maps_by_scan(predictions)
    scans = {scan.id: scan for scan in index.scans}
    shown = [
        (name, dice)
        for name, dice, _ in reversed(scan_rows(per_case))
        if not math.isnan(dice) and name in files and name in scans and scans[name].label
    ]
    places = {"best": 0, "median": len(shown) // 2, "worst": len(shown) - 1} if shown else {}
    chosen = {place: rank for rank, place in reversed(places.items())}  # of few scans, one may be several of them
    return tuple(
        Example(rank=rank, scan=name, dice=dice, slices=_pictures(index, scans[name], files[name], in_3d))
        for rank, (name, dice) in ((chosen[place], shown[place]) for place in sorted(chosen))
    )


def _pictures(index: indexing.Index, scan: indexing.Scan, prediction: Path, in_3d: bool) -> tuple[Slice, ...]:
    """Three orthogonal planes where the scan is a volume, a few of its slices where it is a stack."""
    assert scan.label is not None
    image = volume.read(indexing.locate(index, scan.images[0]), scan.axes)
    structures = {name: value for name, value in index.labels.items() if value != 0}
    files = (indexing.locate(index, scan.label), prediction)
    reference, predicted = (_labels(index, path, image.source) for path in files)
    picture = image.source.format == "picture"
    if not picture and (is_volumetric(reference.shape, image.spacing_mm) or (in_3d and min(reference.shape) > 1)):
        return _three_planes(image.array, reference, predicted, structures, image.spacing_mm)
    return _slices(image.array, reference, predicted, structures, image.spacing_mm, scan.slice_axis, picture)


def pictured(predictions: Path, index: indexing.Index, queue: Review | None) -> tuple[Pictured, ...]:
    """Of the first scans of the queue, those without a reference: the slice in which their views differ most."""
    if queue is None:
        return ()
    files = maps_by_scan(predictions)
    scans = {scan.id: scan for scan in index.scans if scan.label is None and scan.id in files}
    odd = [scan for scan, rows in queue.first if scan in scans and rows[0].verdict != "usual"]
    return tuple(
        Pictured(scan=id, structure=structure, slice=one_slice(index, scans[id], files[id], place, around=True))
        for id in odd[:_PICTURED]
        for structure, place in [next(iter(queue.look_at[id].items()), (None, None))]
    )


def one_slice(
    index: indexing.Index,
    scan: indexing.Scan,
    label: Path | None,
    look_at: LookAt | None = None,
    *,
    around: bool = False,
) -> Slice:
    """One slice with outlines: that with most of the structures, or the middle one where there is none.

    Args:
        index: That holds the scan.
        scan: The scan.
        label: A label map on its grid; None: nothing is outlined.
        look_at: Show this one.
        around: Only what is around the structures.
    """
    image = volume.read(indexing.locate(index, scan.images[0]), scan.axes)
    structures = {name: value for name, value in index.labels.items() if value != 0}
    flat = image.source.format == "picture"
    told = look_at_on(image.source, {"": look_at} if look_at else {})
    axis, number = told.get("", (scan.slice_axis, None))
    planes = _planes(image.array, axis, flat)
    found = np.zeros(planes.shape[:3], np.uint8)
    if label is not None:
        on_grid = label_maps.read(label, image.source.axes, image.source, index.labels).array
        found = _planes(on_grid, axis, flat)
    if number is None:
        number = int(np.argmax((found != 0).sum(axis=(1, 2)))) if found.any() else len(planes) // 2
    spacing = _in_plane(image.spacing_mm, axis)
    box = _crop((found != 0).max(axis=0), spacing) if around else (slice(None), slice(None))
    plane, drawn = planes[number][box], found[number][box]
    grey = plane[..., 0] if plane.ndim == 3 and not (flat and plane.shape[-1] == 3) else plane
    picture = outlines.overlay(outlines.window(grey), np.zeros_like(drawn), drawn, structures, spacing)
    return Slice(picture=picture, caption=f"slice {number + 1} of {len(planes)}")


def _labels(index: indexing.Index, path: Path, image: Source) -> Array:
    labels = label_maps.read(path, image.axes, image, index.labels).array
    return np.where(np.isin(labels, index.ignored), 0, labels) if index.ignored else labels


def is_volumetric(shape: Sequence[int], spacing_mm: Sequence[float]) -> bool:
    """Whether a scan (X, Y, Z) is worth looking at along every axis."""
    return min(shape) >= _ENOUGH_SLICES and max(spacing_mm) <= _MOST_APART * min(spacing_mm)


def _slices(
    image: Array, reference: Array, predicted: Array, structures: dict[str, int], spacing_mm: Sequence[float],
    slice_axis: int, picture: bool,
) -> tuple[Slice, ...]:  # fmt: skip
    planes = [_planes(array, slice_axis, picture) for array in (image, reference, predicted)]
    spacing = _in_plane(spacing_mm, slice_axis)
    rows, columns = _crop(((planes[1] != 0) | (planes[2] != 0)).any(axis=0), spacing)
    planes = [array[:, rows, columns] for array in planes]
    chosen = choose_slices(planes[1], planes[2], structures)
    channels = planes[0].ndim == 4 and not (picture and planes[0].shape[-1] == 3)
    shown = outlines.window((planes[0][..., 0] if channels else planes[0])[chosen])
    return tuple(
        Slice(
            picture=outlines.overlay(shown[place], planes[1][number], planes[2][number], structures, spacing),
            caption=f"slice {number + 1} of {len(planes[1])}",
        )
        for place, number in enumerate(chosen)
    )


def _three_planes(
    image: Array, reference: Array, predicted: Array, structures: dict[str, int], spacing_mm: Sequence[float]
) -> tuple[Slice, ...]:
    place = choose_place(reference, predicted)
    box = _crop((reference != 0) | (predicted != 0), spacing_mm)
    image = image[..., 0] if image.ndim == 4 else image
    arrays = [array[box] for array in (image, reference, predicted)]
    inside = [number - cut.start for number, cut in zip(place, box, strict=True)]
    box_shape = arrays[0].shape
    extent_mm = [size * mm for size, mm in zip(box_shape, spacing_mm, strict=True)]
    planes = {axis: [_planes(array, axis, False)[inside[axis]] for array in arrays] for axis in _PLANES}
    shown = np.concatenate([grey.ravel() for grey, _, _ in planes.values()])
    pictures = []
    for axis, (name, left, top) in _PLANES.items():
        across, down = (other for other in range(3) if other != axis)
        # From the top left corner: planes are shown from the far end of both of their axes.
        middle_mm = [(size - at - 0.5) * mm for size, at, mm in zip(box_shape, inside, spacing_mm, strict=True)]
        grey, wanted, found = planes[axis]
        drawn = outlines.overlay(
            outlines.window(grey, like=shown), wanted, found, structures, _in_plane(spacing_mm, axis),
            longest_mm=max(extent_mm), crossing_mm=(middle_mm[down], middle_mm[across]), sides=(left, top),
        )  # fmt: skip
        caption = f"{name}, slice {place[axis] + 1} of {reference.shape[axis]}"
        pictures.append(Slice(picture=drawn, caption=caption, width_mm=extent_mm[across]))
    return tuple(pictures)


def choose_place(reference: Array, predicted: Array) -> tuple[int, ...]:
    """Along each axis, the slice with most of the structures and of the disagreement; the middle where all is empty.

    Args:
        reference: (X, Y, Z) label values.
        predicted: (X, Y, Z) label values.
    """
    weight = ((reference != 0) | (predicted != 0)).astype(np.uint8) + (reference != predicted)
    if not weight.any():
        return tuple(size // 2 for size in reference.shape)
    others = ((1, 2), (0, 2), (0, 1))
    return tuple(int(np.argmax(weight.sum(axis=axes, dtype=np.int64))) for axes in others)


def _in_plane(spacing_mm: Sequence[float], slice_axis: int) -> tuple[float, float]:
    """(row, col) spacing of the planes across ``slice_axis``."""
    across, down = (mm for axis, mm in enumerate(spacing_mm) if axis != slice_axis)
    return down, across


def _planes(array: Array, slice_axis: int, picture: bool) -> Array:
    """(slices, rows, cols[, channels]) as readers look: patient's right on the left, front or head on top."""
    planes = np.swapaxes(np.moveaxis(array, slice_axis, 0), 1, 2)
    return planes[:, ::-1] if picture else planes[:, ::-1, ::-1]


def _crop(anything: Array, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Along each axis, what holds all structures and a margin, about a square or a cube."""
    if not anything.any():
        return tuple(slice(0, size) for size in anything.shape)
    axes = range(anything.ndim)
    boxes = [np.flatnonzero(anything.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    centres = [(box[0] + box[-1] + 1) / 2 * mm for box, mm in zip(boxes, spacing_mm, strict=True)]
    side = max((box[-1] + 1 - box[0]) * mm for box, mm in zip(boxes, spacing_mm, strict=True))
    half = side / 2 + max(_MARGIN_MM, 0.15 * side)
    return tuple(
        slice(max(0, round((centre - half) / mm)), min(size, round((centre + half) / mm)))
        for centre, mm, size in zip(centres, spacing_mm, anything.shape, strict=True)
    )


def choose_slices(reference: Array, predicted: Array, structures: dict[str, int], most: int = _SLICES) -> list[int]:
    """The slice with most of the structures, then those with most disagreement, no neighbours if possible.

    Args:
        reference: (slices, rows, cols) label values.
        predicted: (slices, rows, cols) label values.
        structures: Name to value.
        most: How many at most.

    Returns:
        Slice numbers in the order of the scan.
    """
    values = list(structures.values())
    filled = (np.isin(reference, values) | np.isin(predicted, values)).sum(axis=(1, 2))
    disagreement = (reference != predicted).sum(axis=(1, 2))
    chosen = [int(np.argmax(filled))]
    for apart in (2, 1):
        for number in np.argsort(-disagreement, kind="stable"):
            far = all(abs(int(number) - other) >= apart for other in chosen)
            if len(chosen) < most and far and (disagreement[number] or filled[number]):
                chosen.append(int(number))
    return sorted(chosen)
