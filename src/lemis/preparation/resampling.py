"""Resampling of slices in plane and through-plane: images by B-splines, labels class by class."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lemis.formats.grids import Shape3
from lemis.preparation.slices import Shape2

Array = NDArray[Any]


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
