"""From a scan as it is stored to the slices a network sees, and back: functions on arrays, no files.

The order is the paper's (PCL, also used by SAL and KAF): slices first, resample in plane, clip, z-score over
the whole volume, cut the field of view. Through-plane nothing is resampled unless it is asked for, by a spacing of the
slices or by one size for all volumes.

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

from lemis.errors import DataFault, UsageError
from lemis.settings import plain

Array = NDArray[Any]
Shape2 = tuple[int, int]
Shape3 = tuple[int, int, int]

Size = Annotated[int, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Spacing = Annotated[float, Field(ge=1e-4, le=1000)]  # mm; microscopes have 0.0002, a body has 2000

_MOST_VOXELS = 2**31  # of a prepared scan: 4 GB as it is stored
FIELD_MULTIPLE = 16  # four poolings of the U-Net
FIELD_MARGIN = 0.10  # unlabelled hearts lie a little further out than the labelled ones


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scans are prepared. ``settle`` replaces what depends on the data set by numbers."""

    # PCL: 1.25 for ACDC. None: the median of the data set. "native": no resampling (PCL on CHD).
    spacing_mm: Spacing | Literal["native"] | None = None
    # None: the whole slice. A number: side of the central square. "auto": the smallest central square, a
    # multiple of 16 prepared pixels, that holds every labelled structure of every labelled scan plus 10 %.
    field_of_view_mm: Annotated[float, Field(gt=0, le=5000)] | Literal["auto"] | None = None
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
    # PCL: the slices as they are. A number: also through-plane, as in plane; for networks on volumes.
    slice_spacing_mm: Spacing | None = None
    # (slices, rows, cols) of every prepared scan, irrespective of its spacing and instead of the two spacings and the
    # field of view; Voxel Siamese: (64, 128, 128). None: by spacing.
    whole_px: tuple[Size, Size, Size] | None = None
    # (low, high) in stored units such as HU, before the z-score; Voxel Siamese: (-200, 250). None: not clipped.
    clip_values: tuple[float, float] | None = None
    # Across which canonical axis slices run. "own": each scan's widest spacing. "common": the axis of most scans, or a
    # number, for all: what a network on volumes needs, lest thin slices turn some scans on their side.
    slice_axis: Literal["own", "common", 0, 1, 2] = "own"


# What a store or a run of before there were volumes does not name.
_FOR_VOLUMES = ("slice_spacing_mm", "whole_px", "clip_values", "slice_axis")


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
    slices: int  # prepared ones
    canonical_shape: Shape3  # (X, Y, Z)
    canonical_spacing_mm: tuple[float, float, float]
    slice_axis: int  # of the canonical array
    slice_shape: Shape2  # (H, W) before resampling
    resampled_shape: Shape2  # (H, W) after resampling, before the field of view is cut
    field: FieldOfView
    prepared_spacing_mm: tuple[float, float, float]  # (slice, row, col)
    intensity: tuple[Intensity, ...] = ()  # one per channel
    extent_mm: float | None = None  # half side of the central square that holds every labelled structure
    image_digest: str = ""  # scans.image_digest of the image: known again under another name, format or header
    label_digest: str = ""  # the same of the label; "" where there is none, or nothing is marked
    source: str = ""  # fingerprint of the files it was made from
    fingerprint: str = ""  # of the files and the settings together

    @property
    def prepared_shape(self) -> Shape2:
        """(H, W) of the prepared slices."""
        return self.field.height, self.field.width

    @property
    def canonical_slices(self) -> int:
        """Number of slices of the canonical array, before resampling."""
        return self.canonical_shape[self.slice_axis]


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
    """(n, H, W) canonical slices at the canonical in-plane size -> (X, Y, Z) of the canonical array."""
    expected = (facts.canonical_slices, *facts.slice_shape)
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
    rows, cols = (resampled_size(size, mm, target_mm) for size, mm in zip(shape, spacing_mm, strict=True))
    return rows, cols


def resampled_size(size: int, spacing_mm: float, target_mm: float) -> int:
    """round(old spacing / new spacing * old size), at least one."""
    return max(1, round(spacing_mm / target_mm * size))


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


def resample_slices(image: Array, slices: int, *, order: int = 3, antialias: bool = False) -> NDArray[np.float32]:
    """(n, ...) -> (slices, ...) float32, through-plane what ``resample_in_plane`` is in plane."""
    out: NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    if len(out) == slices:
        return out
    weights = _resampler(len(out), slices, order, antialias)
    return (weights @ out.reshape(len(out), -1)).reshape(slices, *out.shape[1:])


def resample_label(
    label: Array, shape: Shape2 | Shape3, *, interpolation: Literal["linear", "nearest"] = "linear"
) -> Array:
    """(n, H, W) class indices -> (n, *shape), or -> ``shape`` where that has three numbers; the same dtype.

    ``linear``: each class as a 0/1 map resampled linearly, the largest wins; a tie goes to the lower class.
    """
    wanted = (len(label), *shape)[-3:]
    if label.shape == wanted:
        return label
    if interpolation == "nearest":
        return label[np.ix_(*(_nearest(old, new) for old, new in zip(label.shape, wanted, strict=True)))]
    from scipy import ndimage  # here and below, as it takes a third of a second to import, and settings need none of it

    down, across = (_resampler(old, new, 1, False) for old, new in zip(label.shape[1:], wanted[1:], strict=True))
    through = None if len(label) == wanted[0] else _resampler(len(label), wanted[0], 1, False)
    out = np.zeros(wanted, label.dtype)
    background = np.ones(out.shape, np.float32)  # the weights sum to one, so the rest is background
    best = np.zeros(out.shape, np.float32)
    for value in np.unique(label):
        if value == 0:
            continue
        mask = label == value
        n, rows, cols = ndimage.find_objects(mask.view(np.uint8))[0]
        new_rows, new_cols = _reach(down, rows), _reach(across, cols)
        share = down[new_rows, rows] @ mask[n, rows, cols].astype(np.float32) @ across[new_cols, cols].T
        new_n = n
        if through is not None:
            new_n = _reach(through, n)
            share = np.tensordot(through[new_n, n], share, axes=1)
        box = (new_n, new_rows, new_cols)
        background[box] -= share
        wins = share > best[box] + 1e-6
        best[box][wins] = share[wins]
        out[box][wins] = value
    out[best <= background + 1e-6] = 0
    return out


@lru_cache(maxsize=64)
def _resampler(old: int, new: int, order: int, antialias: bool) -> NDArray[np.float32]:
    # (new, old): what the spline does to each unit vector.
    from scipy import ndimage

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
    image: NDArray[np.float32],
    clip_percentiles: tuple[float, float] | None = None,
    clip_values: tuple[float, float] | None = None,
) -> tuple[NDArray[np.float32], tuple[Intensity, ...]]:
    """(n, C, H, W) -> each channel clipped and z-scored over its whole volume, and what was done to it.

    Raises:
        DataFault: A channel that is constant or holds values that are not finite.
    """
    out = np.empty_like(image)
    facts = []
    for channel in range(image.shape[1]):
        values, (low, high) = image[:, channel], clip_values or (None, None)
        if clip_percentiles is not None:
            low, high = (float(value) for value in np.percentile(values, clip_percentiles))
        if low is not None:
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


def to_classes(label: Array, label_values: Sequence[int], ignored: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Label values as stored -> class indices: the place of each value in ``label_values``, 0 for those ``ignored``.

    Raises:
        DataFault: A value that is in neither.
    """
    values = np.asarray(label_values)
    order = np.argsort(values)
    place = np.searchsorted(values, label, sorter=order)
    classes = order.astype(np.uint8)[np.minimum(place, len(values) - 1)]
    wrong = values[classes] != label
    if ignored:
        background = np.isin(label, ignored)
        classes[background] = 0
        wrong &= ~background
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
        UsageError: Settings that exclude each other, or limits in the wrong order.
    """
    refuse_contradictions(settings)
    spacing, field = settings.spacing_mm, settings.field_of_view_mm
    if settings.whole_px is not None:
        return settings
    if spacing is None:
        spacing = float(np.median([plane.spacing_mm for plane in planes]))
    if field == "auto":
        field = _auto_field_mm(spacing, planes, max(extents_mm, default=0.0))
    return dataclasses.replace(settings, spacing_mm=spacing, field_of_view_mm=field)


def settle_axis(settings: Settings, axes: Sequence[int]) -> Settings:
    """Settings with the axis of most scans, the last one where they are even, in place of "common"."""
    if settings.slice_axis != "common":
        return settings
    common: Any = max(sorted(set(axes)), key=lambda axis: (list(axes).count(axis), axis), default=2)
    return dataclasses.replace(settings, slice_axis=common)


def axis_of(settings: Settings, own: int) -> int:
    """Across which canonical axis the slices of a scan run under settled settings.

    Args:
        settings: From ``settle_axis``.
        own: The axis of the scan's widest spacing.
    """
    assert settings.slice_axis != "common", "settle_axis() comes first"
    return own if settings.slice_axis == "own" else settings.slice_axis


def stored(settings: Settings) -> dict[str, Any]:
    """Settled settings as plain YAML types, as stores and runs name them.

    What volumes added is named only where it is used, so that what was prepared or trained before is still the same.
    """
    usual = Settings()
    named: dict[str, Any] = plain(settings)
    return {
        key: value
        for key, value in named.items()
        if key not in _FOR_VOLUMES or getattr(settings, key) != getattr(usual, key)
    }


def refuse_contradictions(settings: Settings, prefix: str = "") -> None:
    """Refuse settings of which one makes another meaningless; ``prefix`` is what the user typed before the keys.

    Raises:
        UsageError: They contradict each other.
    """
    for name, usual in (("clip_percentiles", [1, 99]), ("clip_values", [-200, 250])):
        clip: tuple[float, float] | None = getattr(settings, name)
        if clip is not None and clip[0] >= clip[1]:
            raise UsageError(
                f"{prefix}{name}={list(clip)}", allowed="the lower one first", next=f"{prefix}{name}={_typed(usual)}"
            )
    for one, others, reason in (
        ("whole_px", ("spacing_mm", "slice_spacing_mm", "field_of_view_mm"), "it gives every scan one size in pixels"),
        ("clip_values", ("clip_percentiles",), "intensities are clipped once"),
    ):
        given = [name for name in others if getattr(settings, name) is not None]
        if getattr(settings, one) is not None and given:
            typed = (f"{prefix}{name}={_typed(plain(getattr(settings, name)))}" for name in (one, *given))
            raise UsageError(
                " and ".join(typed),
                allowed=f"{one} without {' or '.join(others)}: {reason}",
                next=f"{' '.join(f'{prefix}{name}=null' for name in given)}, or {prefix}{one}=null",
            )


def _typed(value: Any) -> str:
    return str(value).replace(" ", "")


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

    Raises:
        UsageError: The prepared scan would be far larger than any memory.
    """
    plane = in_plane(shape, spacing_mm, slice_axis)
    canonical = (int(shape[slice_axis]), *plane.shape)
    canonical_mm = (float(spacing_mm[slice_axis]), *plane.spacing_mm)
    resampled = _resampled(canonical, canonical_mm, settings)
    field = field_of_view(resampled[1:], _field_px(plane, settings))
    _refuse_huge(id, canonical, resampled, field)
    slice_mm, row_mm, col_mm = (
        mm * (old / new) for mm, old, new in zip(canonical_mm, canonical, resampled, strict=True)
    )
    x, y, z = (int(length) for length in shape[:3])
    sx, sy, sz = (float(mm) for mm in spacing_mm[:3])
    return Facts(
        id=id,
        subject=subject,
        images=tuple(images),
        label=label,
        labelled=label is not None,
        slices=resampled[0],
        canonical_shape=(x, y, z),
        canonical_spacing_mm=(sx, sy, sz),
        slice_axis=slice_axis,
        slice_shape=plane.shape,
        resampled_shape=resampled[1:],
        field=field,
        prepared_spacing_mm=(slice_mm, row_mm, col_mm),
    )


def _refuse_huge(id: str, stored: Shape3, resampled: Shape3, field: FieldOfView) -> None:
    # Before anything of that size is made.
    for shape in (resampled, (resampled[0], field.height, field.width)):
        if math.prod(shape) > max(_MOST_VOXELS, math.prod(stored)):
            raise UsageError(
                f"scan {id} of {' x '.join(map(str, stored))} voxels prepared as {' x '.join(map(str, shape))}",
                allowed=f"at most {_MOST_VOXELS} voxels of a scan",
                next="a larger prepare.spacing_mm, or a smaller prepare.field_of_view_mm",
            )


def _resampled(shape: Shape3, spacing_mm: tuple[float, float, float], settings: Settings) -> Shape3:
    # (n, H, W) after resampling.
    if settings.whole_px is not None:
        return settings.whole_px
    assert settings.spacing_mm is not None, "settle() comes first"
    slices, rows, cols = shape
    if settings.slice_spacing_mm is not None:
        slices = resampled_size(slices, spacing_mm[0], settings.slice_spacing_mm)
    if settings.spacing_mm != "native":
        rows, cols = resampled_shape((rows, cols), spacing_mm[1:], settings.spacing_mm)
    return slices, rows, cols


def _field_px(plane: InPlane, settings: Settings) -> Shape2 | None:
    assert settings.field_of_view_mm != "auto", "settle() comes first"
    if settings.field_of_view_mm is None:
        return None
    assert settings.spacing_mm is not None, "settle() comes first"
    unit = plane.spacing_mm if settings.spacing_mm == "native" else (settings.spacing_mm, settings.spacing_mm)
    rows, cols = (max(1, round(settings.field_of_view_mm / mm)) for mm in unit)
    return rows, cols


def prepare_image(array: Array, facts: Facts, settings: Settings) -> tuple[NDArray[np.float16], Facts]:
    """Canonical (X, Y, Z) or (X, Y, Z, C) -> prepared (n, C, H, W), and the facts with their intensities.

    Raises:
        DataFault: Another shape than the facts', or intensities that cannot be normalised.
    """
    _expect_shape("the image", array.shape[:3], facts)
    image = slices_first(array if array.ndim == 4 else array[..., None], facts.slice_axis)
    image = resample_in_plane(image, facts.resampled_shape, order=settings.image_order, antialias=settings.antialias)
    image = resample_slices(image, facts.slices, order=settings.image_order, antialias=settings.antialias)
    image, intensity = normalise(image, settings.clip_percentiles, settings.clip_values)
    prepared = np.ascontiguousarray(crop_field(image, facts.field), np.float16)
    return prepared, dataclasses.replace(facts, intensity=intensity)


def prepare_label(
    label: Array, facts: Facts, settings: Settings, label_values: Sequence[int], ignored: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Canonical (X, Y, Z) label values -> prepared (n, H, W) class indices; values ``ignored`` become background.

    Raises:
        DataFault: Another shape than the image's, or a value that is in neither ``label_values`` nor ``ignored``.
    """
    _expect_shape("the label", label.shape, facts)
    classes = slices_first(to_classes(label, label_values, ignored), facts.slice_axis)
    wanted = (facts.slices, *facts.resampled_shape)
    classes = resample_label(classes, wanted, interpolation=settings.label_interpolation)
    return np.ascontiguousarray(crop_field(classes, facts.field))


def restore(labels: Array, facts: Facts) -> Array:
    """Integer labels (n, *facts.resampled_shape), field undone -> (X, Y, Z) of the canonical array."""
    return insert_slices(resample_label(labels, (facts.canonical_slices, *facts.slice_shape)), facts)


def _expect_shape(what: str, shape: Sequence[int], facts: Facts) -> None:
    if tuple(shape) != facts.canonical_shape:
        raise DataFault(
            f"{what} has shape {tuple(shape)}",
            allowed=f"the shape of the scan in the index, {facts.canonical_shape}",
            next="`lemis check` says which scans are on another grid; run it again if files have changed",
        )
