"""Made-up scans with known anatomy: short-axis hearts (MR) and abdomens (CT).

A subject is drawn from (seed, number): pose, sizes, shapes, contrast, coil shading and noise all differ.
Tissues share intensities (blood and fat, muscle and liver), so that a threshold does not segment them.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.errors import UsageError
from lemis.phantom import abdomens, hearts
from lemis.phantom.placement import STORED, Stored, affine_of, near_body_axes, short_axis

Kind = Literal["heart", "abdomen"]
LABELS: dict[str, dict[str, int]] = {"heart": hearts.LABELS, "abdomen": abdomens.LABELS}
CHANNELS = {"heart": "MR", "abdomen": "CT"}


class Phantom(NamedTuple):
    """One made-up scan, oblique."""

    image: NDArray[np.int16]  # (X, Y, Z)
    label: NDArray[np.uint8]  # (X, Y, Z)
    affine: NDArray[np.float64]  # (4, 4), voxel -> mm RAS


def make(
    kind: Kind,
    *,
    subject: int,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
    phase: int = 0,
    phases: int = 1,
    stored: Stored = "LPS",
) -> Phantom:
    """One scan of one subject; the same arguments give the same voxels.

    Args:
        kind: ``"heart"`` or ``"abdomen"``.
        subject: Its number.
        seed: Of the whole data set.
        shape: (X, Y, Z); the usual size by default, with a number of slices that differs between subjects.
            The field of view is the same at any size.
        phase: Of a beating heart, 0 to ``phases`` - 1; 0 is end-diastole.
        phases: Per heart beat.
        stored: Directions of the stored axes; the anatomy is the same.

    Raises:
        UsageError: An unknown kind or order of axes, phases of an abdomen, or fewer than 16 pixels or 2 slices.
    """
    if stored not in STORED:
        raise UsageError(f"phantom stored as {stored!r}", allowed=", ".join(STORED), next="stored='LPS'")
    if kind not in LABELS:
        raise UsageError(f"phantom {kind!r}", allowed=", ".join(LABELS), next="kind='heart'")
    if kind == "abdomen" and phases != 1:
        raise UsageError(f"phases={phases} of an abdomen", allowed="phases of a heart", next="phases=1")
    if shape is not None and (min(shape[:2]) < 16 or shape[2] < 2):
        raise UsageError(f"phantom shape {shape}", allowed="at least (16, 16, 2)", next="shape=(32, 32, 6)")
    anatomy = np.random.default_rng([seed, subject])
    scan = np.random.default_rng([seed, subject, phase])  # noise, shading, breath-hold: anew in every scan
    if kind == "heart":
        shape = shape or (*hearts.SHAPE_PX, int(anatomy.integers(8, 13)))
        contraction = (1 - math.cos(2 * math.pi * phase / phases)) / 2
        scene, gap_mm = hearts.draw(anatomy, scan, shape, contraction)
    else:
        shape = shape or (*abdomens.SHAPE_PX, int(anatomy.integers(42, 49)))
        scene, gap_mm = abdomens.draw(anatomy, scan, shape)
    spacing = (scene.pixel_mm, scene.pixel_mm, gap_mm)
    image, label = scene.image.transpose(2, 1, 0), scene.label.transpose(2, 1, 0)
    if stored == "LPS":
        directions = near_body_axes(anatomy, degrees=20.0 if kind == "heart" else 4.0)
    else:
        directions = short_axis(anatomy, stored)
        image, label = image[:, ::-1], label[:, ::-1]
    affine = affine_of(anatomy, directions, shape, spacing)
    return Phantom(np.ascontiguousarray(np.rint(image).astype(np.int16)), np.ascontiguousarray(label), affine)
