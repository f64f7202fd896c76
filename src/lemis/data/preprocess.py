"""From a scan as it is stored to the slices a network sees, and back: functions on arrays, no files.

The order is the paper's (PCL, also used by SAL and KAF): slices first, resample in plane, clip, z-score over
the whole volume, cut the field of view. Through-plane nothing is ever resampled.

Axis letters: n slices, C channels, H rows, W columns; X, Y, Z the canonical (RAS+) axes of a scan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from lemis.errors import DataFault, UsageError

Array = NDArray[Any]
Shape2 = tuple[int, int]

Percent = Annotated[float, Field(ge=0, le=100)]

FIELD_MULTIPLE = 16  # four poolings of the U-Net
FIELD_MARGIN = 0.10  # unlabelled hearts lie a little further out than the labelled ones


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scans are prepared. ``settle`` replaces what depends on the data set by numbers."""

    # PCL: 1.25 for ACDC. None: the median of the data set. "native": no resampling (PCL on CHD).
    spacing_mm: Annotated[float, Field(gt=0)] | Literal["native"] | None = None
    # None: the whole slice. A number: side of the central square. "auto": the smallest central square, a
    # multiple of 16 prepared pixels, that holds every labelled structure of every labelled scan plus 10 %.
    field_of_view_mm: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    # PCL: over the whole volume, after resampling, no foreground mask.
    normalise: Literal["zscore"] = "zscore"
    # PCL on CHD: (1, 99), of the volume, before the z-score; ACDC: none.
    clip_percentiles: tuple[Percent, Percent] | None = None
    # PCL: 3 (cubic B-spline, edge padding).
    image_order: Literal[1, 3] = 3
    # PCL: one-hot, linear, then argmax.
    label_interpolation: Literal["linear", "nearest"] = "linear"
    # PCL: none. True blurs by sigma = (factor - 1) / 2 pixels before shrinking, as scikit-image does.
    antialias: bool = False


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """A rectangle in resampled pixels; where it leaves the slice, the prepared slice holds zeros."""

    row0: int  # negative where the slice is smaller than the field
    col0: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """What was done to one channel: clipped to [low, high] where given, then (x - mean) / std."""

    mean: float
    std: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is needed to put a prediction of one prepared scan back on its canonical grid."""

    id: str
    subject: str
    images: tuple[str, ...]
    label: str | None
    labelled: bool
    slices: int
    canonical_shape: tuple[int, int, int]  # (X, Y, Z)
    canonical_spacing_mm: tuple[float, float, float]
    slice_axis: int  # of the canonical array
    slice_shape: Shape2  # (H, W) before resampling
    resampled_shape: Shape2  # (H, W) after resampling, before the field of view is cut
    field: FieldOfView
    prepared_spacing_mm: tuple[float, float, float]  # (slice, row, col)
    intensity: tuple[Intensity, ...] = ()  # one per channel
    extent_mm: float | None = None  # half side of the central square that holds every labelled structure
    source: str = ""  # fingerprint of the files it was made from
    fingerprint: str = ""  # of the files and the settings together

    @property
    def prepared_shape(self) -> Shape2:
        """(H, W) of the prepared slices."""
        return self.field.height, self.field.width


class InPlane(NamedTuple):
    """One scan's slices before resampling."""

    shape: Shape2  # (H, W)
    spacing_mm: tuple[float, float]  # (row, col)


# ----------------------------------------------------------------------------------------- slices and volumes


def slices_first(array: Array, slice_axis: int) -> Array:
    """(X, Y, Z) -> (n, H, W); (X, Y, Z, C) -> (n, C, H, W). A view, no copy.

    Rows are the later of the two in-plane axes, columns the earlier one, both reversed. Seen as a picture, a
    slice is upright in the radiological way: axial has anterior on top and the patient's right at the left;
    coronal and sagittal have superior on top; a 2D picture is mirrored. Slice i is index i of the
    canonical axis.
    """
    low, high = _in_plane_axes(slice_axis)
    order = (slice_axis, high, low) if array.ndim == 3 else (slice_axis, 3, high, low)
    return array.transpose(order)[..., ::-1, ::-1]


def slices_last(slices: Array, slice_axis: int) -> Array:
    """The inverse of ``slices_first``: (n, H, W) -> (X, Y, Z); (n, C, H, W) -> (X, Y, Z, C). A view."""
    low, high = _in_plane_axes(slice_axis)
    order = (slice_axis, high, low) if slices.ndim == 3 else (slice_axis, 3, high, low)
    return slices[..., ::-1, ::-1].transpose(tuple(np.argsort(order)))


def insert_slices(labels: Array, facts: Facts) -> Array:
    """(n, H, W) at the canonical in-plane size -> (X, Y, Z) of the canonical array."""
    expected = (facts.slices, *facts.slice_shape)
    assert labels.shape == expected, f"{labels.shape} is not {expected}"
    return np.ascontiguousarray(slices_last(labels, facts.slice_axis))


def in_plane(shape: Sequence[int], spacing_mm: Sequence[float], slice_axis: int) -> InPlane:
    """Size and spacing of the slices of a canonical array of ``shape``."""
    low, high = _in_plane_axes(slice_axis)
    return InPlane((shape[high], shape[low]), (float(spacing_mm[high]), float(spacing_mm[low])))


def _in_plane_axes(slice_axis: int) -> tuple[int, int]:
    low, high = (axis for axis in range(3) if axis != slice_axis)
    return low, high


# ------------------------------------------------------------------------------------------------- resampling


def resampled_shape(shape: Shape2, spacing_mm: tuple[float, float], target_mm: float) -> Shape2:
    """round(old spacing / new spacing * old size) per axis, at least one pixel."""
    rows, cols = (max(1, round(mm / target_mm * size)) for size, mm in zip(shape, spacing_mm, strict=True))
    return rows, cols


def resample_in_plane(image: Array, shape: Shape2, *, order: int = 3, antialias: bool = False) -> NDArray[np.float32]:
    """(..., H, W) -> (..., *shape) float32 by B-splines, edges repeated; the grids share their outer edges.

    Equal to ``scipy.ndimage.zoom(..., mode="nearest", grid_mode=True)`` with factor 1 along the other axes,
    written as two matrix products because the spline is separable and linear.
    """
    out: NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    if out.shape[-2] != shape[0]:
        out = _resampler(out.shape[-2], shape[0], order, antialias) @ out
    if out.shape[-1] != shape[1]:
        out = out @ _resampler(out.shape[-1], shape[1], order, antialias).T
    return out


def resample_label(label: Array, shape: Shape2, *, interpolation: Literal["linear", "nearest"] = "linear") -> Array:
    """(n, H, W) class indices -> (n, *shape), the same dtype.

    ``linear``: each class as a 0/1 map resampled linearly, the largest wins; a tie goes to the lower class.
    """
    if label.shape[1:] == shape:
        return label
    if interpolation == "nearest":
        rows, cols = (_nearest(old, new) for old, new in zip(label.shape[1:], shape, strict=True))
        return label[:, rows[:, None], cols]
    down, across = (_resampler(old, new, 1, False) for old, new in zip(label.shape[1:], shape, strict=True))
    out = np.zeros((len(label), *shape), label.dtype)
    background = np.ones(out.shape, np.float32)  # the weights sum to one, so the rest is background
    best = np.zeros(out.shape, np.float32)
    for value in np.unique(label):
        if value == 0:
            continue
        mask = label == value
        n, rows, cols = ndimage.find_objects(mask.view(np.uint8))[0]
        new_rows, new_cols = _reach(down, rows), _reach(across, cols)
        share = down[new_rows, rows] @ mask[n, rows, cols].astype(np.float32) @ across[new_cols, cols].T
        box = (n, new_rows, new_cols)
        background[box] -= share
        wins = share > best[box] + 1e-6
        best[box][wins] = share[wins]
        out[box][wins] = value
    out[best <= background + 1e-6] = 0
    return out


@lru_cache(maxsize=64)
def _resampler(old: int, new: int, order: int, antialias: bool) -> NDArray[np.float32]:
    # (new, old): what the spline does to each unit vector.
    unit = np.eye(old)
    if antialias and new < old:
        unit = ndimage.gaussian_filter1d(unit, (old / new - 1) / 2, axis=0, mode="nearest")
    matrix = ndimage.zoom(unit, (new / old, 1), order=order, mode="nearest", grid_mode=True)
    return np.ascontiguousarray(matrix, np.float32)


def _reach(matrix: Array, columns: slice) -> slice:
    # The new pixels that any of the old ones contributes to.
    touched = np.flatnonzero(np.abs(matrix[:, columns]).max(axis=1))
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)


# -------------------------------------------------------------------------------------------------- intensity


def normalise(
    image: NDArray[np.float32], clip_percentiles: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], tuple[Intensity, ...]]:
    """(n, C, H, W) -> each channel clipped and z-scored over its whole volume, and what was done to it.

    Raises:
        DataFault: A channel that is constant or holds values that are not finite.
    """
    out = np.empty_like(image)
    facts = []
    for channel in range(image.shape[1]):
        values, low, high = image[:, channel], None, None
        if clip_percentiles is not None:
            low, high = (float(value) for value in np.percentile(values, clip_percentiles))
            values = np.clip(values, low, high)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        if not math.isfinite(std):
            raise DataFault(
                f"channel {channel} holds values that are not finite",
                allowed="finite intensities",
                next="replace NaN and infinity in the file, or leave the scan out",
            )
        if std <= 1e-6 * max(1.0, abs(mean)):
            raise DataFault(
                f"channel {channel} is constant ({mean:g})",
                allowed="an image with contrast",
                next="export the scan again, or leave it out",
            )
        out[:, channel] = (values - mean) / std
        facts.append(Intensity(mean=mean, std=std, low=low, high=high))
    return out, tuple(facts)


# ---------------------------------------------------------------------------------------------- field of view


def field_of_view(shape: Shape2, size: Shape2 | None) -> FieldOfView:
    """The central rectangle of ``size`` pixels on a slice of ``shape``; the whole slice without ``size``."""
    height, width = size or shape
    return FieldOfView(row0=_offset(shape[0], height), col0=_offset(shape[1], width), height=height, width=width)


def crop_field(array: Array, field: FieldOfView) -> Array:
    """(..., H, W) -> (..., field.height, field.width), zeros where the field leaves the slice."""
    rows, cols, to_rows, to_cols = _overlap(array.shape[-2:], field)
    if (to_rows, to_cols) == (slice(0, field.height), slice(0, field.width)):
        return array[..., rows, cols]
    out = np.zeros((*array.shape[:-2], field.height, field.width), array.dtype)
    out[..., to_rows, to_cols] = array[..., rows, cols]
    return out


def uncrop_field(array: Array, field: FieldOfView, shape: Shape2) -> Array:
    """The way back of ``crop_field``: (..., field.height, field.width) -> (..., *shape), zeros outside."""
    rows, cols, to_rows, to_cols = _overlap(shape, field)
    out = np.zeros((*array.shape[:-2], *shape), array.dtype)
    out[..., rows, cols] = array[..., to_rows, to_cols]
    return out


def inside_field(facts: Facts) -> NDArray[np.bool_]:
    """(H, W) of the prepared slices, False where the field of view left the scan."""
    return crop_field(np.ones(facts.resampled_shape, bool), facts.field)


def extent_mm(label: Array, spacing_mm: Sequence[float], slice_axis: int) -> float:
    """Half side of the central square with every structure of a canonical (X, Y, Z) label; 0 if empty."""
    seen: NDArray[np.bool_] = np.any(slices_first(label != 0, slice_axis), axis=0)
    plane = in_plane(label.shape, spacing_mm, slice_axis)
    reach = [0.0]
    for axis in (0, 1):
        where = np.flatnonzero(np.any(seen, axis=1 - axis))
        if len(where):
            middle = plane.shape[axis] / 2
            reach.append(max(middle - where[0], where[-1] + 1 - middle) * plane.spacing_mm[axis])
    return float(max(reach))


def _offset(old: int, new: int) -> int:
    # PCL's pad-then-crop: the image is centred with floor((new - old) / 2) before it.
    return (old - new) // 2 if old >= new else -((new - old) // 2)


def _overlap(shape: Sequence[int], field: FieldOfView) -> tuple[slice, slice, slice, slice]:
    # Where field and slice meet: in the slice (rows, cols), and in the field (rows, cols).
    spans = []
    for size, start, length in ((shape[0], field.row0, field.height), (shape[1], field.col0, field.width)):
        spans.append((max(start, 0), max(min(start + length, size), max(start, 0)), start))
    (r0, r1, row0), (c0, c1, col0) = spans
    return slice(r0, r1), slice(c0, c1), slice(r0 - row0, r1 - row0), slice(c0 - col0, c1 - col0)


# ----------------------------------------------------------------------------------------------------- labels


def to_classes(label: Array, label_values: Sequence[int]) -> NDArray[np.uint8]:
    """Label values as stored -> class indices: the place of each value in ``label_values``.

    Raises:
        DataFault: A value that is not in ``label_values``.
    """
    values = np.asarray(label_values)
    order = np.argsort(values)
    place = np.searchsorted(values, label, sorter=order)
    classes = order.astype(np.uint8)[np.minimum(place, len(values) - 1)]
    wrong = values[classes] != label
    if wrong.any():
        seen = ", ".join(f"{value:g}" for value in np.unique(label[wrong])[:8])
        raise DataFault(
            f"label values {seen}",
            allowed=f"the values of the data set: {', '.join(map(str, label_values))}",
            next="correct the label, or name the value in dataset.json",
        )
    return classes


def from_classes(classes: Array, label_values: Sequence[int]) -> NDArray[np.int64]:
    """Class indices -> label values as stored."""
    return np.asarray(label_values, np.int64)[classes]


# --------------------------------------------------------------------------------------------- one whole scan


def settle(settings: Settings, planes: Sequence[InPlane], extents_mm: Sequence[float] = ()) -> Settings:
    """Settings with numbers in place of "median of the data set" and "auto".

    Args:
        settings: As asked for.
        planes: The slices of every scan of the data set.
        extents_mm: ``extent_mm`` of every labelled scan; needed for ``field_of_view_mm="auto"`` only.

    Raises:
        UsageError: Percentiles in the wrong order.
    """
    clip = settings.clip_percentiles
    if clip is not None and clip[0] >= clip[1]:
        raise UsageError(
            f"clip_percentiles={list(clip)}",
            allowed="the lower percentile first",
            next="clip_percentiles=[1,99]",
        )
    spacing, field = settings.spacing_mm, settings.field_of_view_mm
    if spacing is None:
        spacing = float(np.median([plane.spacing_mm for plane in planes]))
    if field == "auto":
        field = _auto_field_mm(spacing, planes, max(extents_mm, default=0.0))
    return dataclasses.replace(settings, spacing_mm=spacing, field_of_view_mm=field)


def _auto_field_mm(spacing: float | Literal["native"], planes: Sequence[InPlane], extent: float) -> float | None:
    if extent == 0:
        return None
    # With native spacing the multiple of 16 holds for a scan of median spacing.
    unit = float(np.median([plane.spacing_mm for plane in planes])) if spacing == "native" else spacing
    step = FIELD_MULTIPLE * unit
    whole = max(size * mm for plane in planes for size, mm in zip(*plane, strict=True))
    wanted = min(2 * extent * (1 + FIELD_MARGIN), whole)
    return math.ceil(wanted / step - 1e-6) * step


def describe(
    *,
    id: str,
    subject: str,
    images: Sequence[str],
    label: str | None,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    slice_axis: int,
    settings: Settings,
) -> Facts:
    """The geometry of one scan under settled settings; ``prepare_image`` adds the intensities.

    Args:
        id: Of the scan, as are ``subject``, ``images`` and ``label``.
        subject: Who it is of.
        images: One file or folder per channel.
        label: File of the label map.
        shape: Of the canonical array; a channel axis at the end is ignored.
        spacing_mm: Of the canonical array.
        slice_axis: Of the canonical array.
        settings: From ``settle``.
    """
    plane = in_plane(shape, spacing_mm, slice_axis)
    assert settings.spacing_mm is not None, "settle() comes first"
    assert settings.field_of_view_mm != "auto", "settle() comes first"
    resampled, size = plane.shape, None
    if settings.spacing_mm != "native":
        resampled = resampled_shape(plane.shape, plane.spacing_mm, settings.spacing_mm)
    row_mm, col_mm = (mm * (old / new) for mm, old, new in zip(plane.spacing_mm, plane.shape, resampled, strict=True))
    if settings.field_of_view_mm is not None:
        unit = plane.spacing_mm if settings.spacing_mm == "native" else (settings.spacing_mm, settings.spacing_mm)
        size = (round(settings.field_of_view_mm / unit[0]), round(settings.field_of_view_mm / unit[1]))
        size = (max(1, size[0]), max(1, size[1]))
    x, y, z = (int(length) for length in shape[:3])
    sx, sy, sz = (float(mm) for mm in spacing_mm[:3])
    return Facts(
        id=id,
        subject=subject,
        images=tuple(images),
        label=label,
        labelled=label is not None,
        slices=int(shape[slice_axis]),
        canonical_shape=(x, y, z),
        canonical_spacing_mm=(sx, sy, sz),
        slice_axis=slice_axis,
        slice_shape=plane.shape,
        resampled_shape=resampled,
        field=field_of_view(resampled, size),
        prepared_spacing_mm=(float(spacing_mm[slice_axis]), row_mm, col_mm),
    )


def prepare_image(array: Array, facts: Facts, settings: Settings) -> tuple[NDArray[np.float16], Facts]:
    """Canonical (X, Y, Z) or (X, Y, Z, C) -> prepared (n, C, H, W), and the facts with their intensities.

    Raises:
        DataFault: Another shape than the facts', or intensities that cannot be normalised.
    """
    _expect_shape("the image", array.shape[:3], facts)
    image = slices_first(array if array.ndim == 4 else array[..., None], facts.slice_axis)
    image = resample_in_plane(image, facts.resampled_shape, order=settings.image_order, antialias=settings.antialias)
    image, intensity = normalise(image, settings.clip_percentiles)
    prepared = np.ascontiguousarray(crop_field(image, facts.field), np.float16)
    return prepared, dataclasses.replace(facts, intensity=intensity)


def prepare_label(label: Array, facts: Facts, settings: Settings, label_values: Sequence[int]) -> NDArray[np.uint8]:
    """Canonical (X, Y, Z) label values -> prepared (n, H, W) class indices.

    Raises:
        DataFault: Another shape than the image's, or a value that is not in ``label_values``.
    """
    _expect_shape("the label", label.shape, facts)
    classes = slices_first(to_classes(label, label_values), facts.slice_axis)
    classes = resample_label(classes, facts.resampled_shape, interpolation=settings.label_interpolation)
    return np.ascontiguousarray(crop_field(classes, facts.field))


def restore(labels: Array, facts: Facts) -> Array:
    """Integer labels (n, *facts.resampled_shape), field undone -> (X, Y, Z) of the canonical array."""
    return insert_slices(resample_label(labels, facts.slice_shape), facts)


def _expect_shape(what: str, shape: Sequence[int], facts: Facts) -> None:
    if tuple(shape) != facts.canonical_shape:
        raise DataFault(
            f"{what} has shape {tuple(shape)}",
            allowed=f"the shape of the scan in the index, {facts.canonical_shape}",
            next="`lemis check` says which scans are on another grid; run it again if files have changed",
        )
