"""How a made-up scan lies in the scanner."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# How headers call the stored axes. "LSP" and "PSR" are stacks about halfway between left and back, on either side, as
# short-axis hearts are: their slices run from the apex to the patient's back and right, and rows run upwards.
Stored = Literal["LPS", "LSP", "PSR"]
STORED: tuple[Stored, ...] = ("LPS", "LSP", "PSR")


def near_body_axes(rng: np.random.Generator, *, degrees: float) -> NDArray[np.float64]:
    """(3, 3) directions of the stored axes: LPS, turned a little about all three."""
    from scipy.spatial.transform import Rotation

    turned: NDArray[np.float64] = Rotation.from_euler(
        "xyz", rng.uniform(-degrees, degrees, 3), degrees=True
    ).as_matrix()
    return turned * (-1, -1, 1)


def short_axis(rng: np.random.Generator, stored: Stored) -> NDArray[np.float64]:
    """(3, 3) directions of the stored axes of a short-axis stack: 3 to 8 degrees from halfway, tilted by 10 to 22."""
    from scipy.spatial.transform import Rotation

    halfway = np.array([[-1, -1, 0], [0, 0, -np.sqrt(2)], [1, -1, 0]]).T / np.sqrt(2)  # columns; rows run downwards
    side = {"LSP": -1, "PSR": 1}[stored]
    turned = Rotation.from_euler("z", side * rng.uniform(3, 8), degrees=True).as_matrix() @ halfway
    tilted = Rotation.from_euler("xz", (rng.uniform(10, 22), rng.uniform(-5, 5)), degrees=True).as_matrix()
    directions: NDArray[np.float64] = turned @ tilted * (1, -1, 1)
    return directions


def affine_of(
    rng: np.random.Generator,
    directions: NDArray[np.float64],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float64]:
    """(4, 4) affine with the middle of the scan near the middle of the scanner."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = rng.uniform(-40, 40, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
