"""The field of view: a central rectangle of every slice, cut out, and how large it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.preparation.slices import Shape2, in_plane, slices_first

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """A rectangle in resampled pixels; where it leaves the slice, the prepared slice holds zeros."""

    row0: int  # negative where the slice is smaller than the field
    col0: int
    height: int
    width: int


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
