"""Directions of grids, and the order of axes that brings one grid parallel to another: no files, no data sets.

A direction matrix is (3, 3), its columns unit vectors in mm RAS: column k is where axis k of an array runs. ``Axes`` is
the same as plain numbers, one vector after another, as files keep it.

To turn an array here is to permute and flip its axes, nothing else. A turn is a signed permutation matrix (3, 3):
``directions @ turn`` are the directions of the turned array, and entry [k, a] is 1 or -1 where its axis a is axis k of
the array, forwards or backwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Axes = tuple[tuple[float, float, float], ...]  # three unit vectors, mm RAS; () where they are not known

BODY = np.eye(3)  # Right, Anterior, Superior
_ORDERS = np.array([np.eye(3)[list(order)] for order in itertools.permutations(range(3))])  # the unchanged one first
_TIE = 1e-9  # of a sum of three cosines: the rounding of float64, not of headers


def of_affine(affine: NDArray[Any]) -> Matrix:
    """Directions of the axes of a (4, 4) affine voxel -> mm; of a sheared grid the nearest ones at right angles."""
    linear = np.asarray(affine, np.float64)[:3, :3]
    return at_right_angles(linear / np.linalg.norm(linear, axis=0))


def at_right_angles(matrix: Matrix) -> Matrix:
    """The nearest orthonormal matrix (polar decomposition); the mean direction, given a sum of directions."""
    left, _, right = np.linalg.svd(matrix)
    nearest: Matrix = left @ right
    return nearest


def as_axes(directions: Matrix) -> Axes:
    """Columns of a direction matrix as plain numbers, to a millionth."""
    rounded = np.round(directions.T, 6) + 0.0  # no -0.0
    return tuple((float(x), float(y), float(z)) for x, y, z in rounded)


def as_matrix(axes: Axes | Sequence[Sequence[float]]) -> Matrix:
    """The inverse of ``as_axes``."""
    return np.array(axes, np.float64).T


def at_right_angles_only(axes: Axes) -> Axes:
    """The same axes.

    Raises:
        ValueError: They are not three unit vectors at right angles, beyond rounding.
    """
    unit = np.shape(axes) == (3, 3) and np.all(np.abs(axes) < 2)  # first, lest their squares are too large
    if not (unit and np.allclose(np.inner(axes, axes), np.eye(3), atol=1e-3)):
        raise ValueError("three directions at right angles")
    return axes


def turn_to(directions: Matrix, frame: Matrix, tie: float = _TIE) -> Matrix:
    """The turns (..., 3, 3) that bring arrays of ``directions`` (..., 3, 3) as near to ``frame`` as axes allow.

    Of all 48 turns the one with the least angle to the frame. Slices keep their order whatever their rotation in plane:
    an axis within 40 degrees of one of the frame's comes to lie there, however the array is turned about it.

    Args:
        directions: Of the arrays.
        frame: (3, 3), to come near to.
        tie: Turns whose sums of three cosines differ by no more are equally near; axes then stay in their order, if
            that is one of them.
    """
    along = np.swapaxes(directions, -1, -2) @ frame  # [..., k, a]: cosine between axis k and the frame's axis a
    nearness = np.abs(along).reshape(*along.shape[:-2], 9) @ _ORDERS.reshape(-1, 9).T
    best = np.argmax(nearness >= nearness.max(axis=-1, keepdims=True) - tie, axis=-1)
    turned: Matrix = _ORDERS[best] * np.where(along < 0, -1.0, 1.0)
    return turned


def orientation(turn: Matrix) -> NDArray[np.float64]:
    """A turn as nibabel has it, (3, 2): per axis of the array, the axis that it becomes and its direction (1 or -1)."""
    axis = np.abs(turn).argmax(axis=1)
    return np.stack([axis, turn[np.arange(3), axis]], axis=1).astype(np.float64)


def from_orientation(orientation: NDArray[np.float64]) -> Matrix:
    """The inverse of ``orientation``."""
    turn = np.zeros((3, 3))
    turn[np.arange(3), orientation[:, 0].astype(int)] = orientation[:, 1]
    return turn


def to_body(directions: Matrix) -> Matrix:
    """The turn to RAS+ as nibabel finds it: axis after axis, from the one that is nearest to a body axis."""
    from nibabel.orientations import io_orientation

    affine = np.eye(4)
    affine[:3, :3] = directions
    return from_orientation(io_orientation(affine))


def degrees_between(one: Matrix, other: Matrix) -> float:
    """The angle of the rotation between two orthonormal matrices, whatever order and sense their axes have."""
    trace = float(np.sum((one @ turn_to(one, other)) * other))
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def degrees_between_lines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles (...) between unit vectors (..., 3), 0 to 90: a line has no sense."""
    cosine = np.abs(np.sum(one * other, axis=-1))
    degrees: NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosine, 0, 1)))
    return degrees
