"""Grids of scans: what an affine says, in mm, and whether it can be the grid of a scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault

Shape3 = tuple[int, int, int]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Lengths of a voxel, beyond which nothing is a scan: a nanometre, and a person.
_LEAST_MM, _MOST_MM = 1e-6, 2e3
_FARTHEST_MM = 1e7  # of the origin; beyond it, a header's float32 no longer tells two voxels apart


def is_sheared(affine: npt.NDArray[np.float64]) -> bool:
    """True where the grid's axes are not at right angles (a tilted gantry), beyond rounding."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3)


def corner_distance_mm(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: Shape3) -> float:
    """The largest distance between the places that two affines give the same corner of a grid of ``shape``."""
    corners = np.array([[x, y, z, 1] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


def spacing_of(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size along the axes of a (4, 4) affine, or of the (3, 3) part of it, mm."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def refuse_unusable(path: Path, affine: npt.NDArray[np.float64]) -> None:
    """Refuse a (4, 4) affine voxel -> mm that cannot be the grid of a scan.

    Raises:
        DataFault: Voxels or an origin beyond reason, directions that are not finite or do not span space.
    """
    linear = affine[:3, :3]
    finite = bool(np.isfinite(affine).all())
    lengths = np.abs(linear).max(axis=0) if finite else np.ones(3)  # squares could overflow
    if lengths.min() > 0 and not (lengths.min() >= _LEAST_MM and lengths.max() <= _MOST_MM):
        raise DataFault(
            f"{path} has voxels of {' x '.join(f'{length:.4g}' for length in lengths)} mm",
            allowed=f"{_LEAST_MM:g} to {_MOST_MM:g} mm",
            next="write the spacing into the header anew, from the original scan",
        )
    if finite and np.abs(affine[:3, 3]).max() > _FARTHEST_MM:
        raise DataFault(
            f"{path} has its origin at {affine[:3, 3].tolist()} mm",
            allowed=f"{-_FARTHEST_MM:g} to {_FARTHEST_MM:g} mm",
            next="write the origin into the header anew, from the original scan",
        )
    if not finite or lengths.min() == 0 or abs(np.linalg.det(linear / lengths)) < 1e-6:
        raise DataFault(
            f"{path} has an affine that is no grid: {affine[:3].tolist()}",
            allowed="three directions that are finite and span space",
            next="write the header anew from the original scan",
        )
