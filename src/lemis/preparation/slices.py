"""From the canonical array of a scan to its slices, and back: which axis they run across, and how they are turned.

Axis letters: n slices, C channels, H rows, W columns; X, Y, Z the canonical (RAS+) axes of a scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape2 = tuple[int, int]


class InPlane(NamedTuple):
    """One scan's slices before resampling."""

    shape: Shape2  # (H, W)
    spacing_mm: tuple[float, float]  # (row, col)


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


def in_plane(shape: Sequence[int], spacing_mm: Sequence[float], slice_axis: int) -> InPlane:
    """Size and spacing of the slices of a canonical array of ``shape``."""
    low, high = _in_plane_axes(slice_axis)
    return InPlane((shape[high], shape[low]), (float(spacing_mm[high]), float(spacing_mm[low])))


def _in_plane_axes(slice_axis: int) -> tuple[int, int]:
    low, high = (axis for axis in range(3) if axis != slice_axis)
    return low, high
