"""A picture that is painted: ellipses and ellipsoids with soft edges on coordinates that are turned and smoothly bent.

Scenes are pictures seen from the patient's feet: v runs down (posterior), u to the right of the picture (the patient's
left), in mm from the middle; arrays of a scene are (slice, row, column). Painting is back to front; each structure's
label is where its share exceeds one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.preparation.resampling import resample_in_plane

Field = NDArray[np.float32]  # (slice, row, column)
PerSlice = float | NDArray[Any]  # a number, or (slices, 1, 1)


@dataclass(frozen=True)
class Scene:
    """A scan while it is painted."""

    z: NDArray[np.float32]  # (slices, 1, 1) mm, upwards
    v: Field  # mm, downwards, posed and bent
    u: Field  # mm, rightwards
    pixel_mm: float
    image: Field
    label: NDArray[np.uint8]


def empty_scene(
    anatomy: np.random.Generator,
    shape: tuple[int, int, int],
    gap_mm: float,
    field_mm: float,
    *,
    air: float,
    turn_degrees: float,
    shift_mm: float,
    bend_mm: float,
) -> Scene:
    """An empty scene whose coordinates are turned, shifted, scaled and smoothly bent: no shape is exact."""
    draw, dims = anatomy.uniform, (shape[2], shape[1], shape[0])
    pixel_mm = field_mm / min(shape[:2]) * draw(0.94, 1.06)
    z, v, u = (
        (np.arange(size, dtype=np.float32) - (size - 1) / 2) * mm
        for size, mm in zip(dims, (gap_mm, pixel_mm, pixel_mm), strict=True)
    )
    turn, size = math.radians(draw(-turn_degrees, turn_degrees)), draw(0.92, 1.08)
    cos, sin = math.cos(turn) / size, math.sin(turn) / size
    bends = [bend_mm * smooth_field(anatomy, dims, (4, 5, 5)) for _ in range(2)]
    posed_v = cos * v[:, None] - sin * u + draw(-shift_mm, shift_mm) + bends[0]
    posed_u = sin * v[:, None] + cos * u + draw(-shift_mm, shift_mm) + bends[1]
    return Scene(
        z=z[:, None, None],
        v=posed_v.astype(np.float32),
        u=posed_u.astype(np.float32),
        pixel_mm=float(pixel_mm),
        image=np.full(dims, air, np.float32),
        label=np.zeros(dims, np.uint8),
    )


def paint(
    scene: Scene,
    v0: PerSlice,
    u0: PerSlice,
    height: PerSlice,
    width: PerSlice,
    angle: PerSlice = 0.0,
    *,
    value: float | None,
    label: int | None = None,
    z0: float = 0.0,
    depth: float = math.inf,
    where: NDArray[np.bool_] | None = None,
    seen: Field | None = None,
) -> None:
    """Paint an ellipse per slice, or an ellipsoid where ``depth`` is given; half axes in mm, radians.

    Args:
        scene: Painted on.
        v0: Centre, as is ``u0``; numbers, or one per slice.
        u0: Centre.
        height: Half axis along v before turning.
        width: Half axis along u before turning.
        angle: Of turning.
        value: Intensity; None leaves the image.
        label: Its label value where it covers more than half; None leaves the label.
        z0: Centre along the slices.
        depth: Half axis along the slices.
        where: Only there.
        seen: Receives the share of each pixel that is covered.
    """
    box = _box(scene, v0, u0, np.maximum(height, width), z0, depth)
    v, u = scene.v[box] - _at(v0, box), scene.u[box] - _at(u0, box)
    cos, sin = np.cos(_at(angle, box)), np.sin(_at(angle, box))
    rows, cols = np.maximum(_at(height, box), 1e-3), np.maximum(_at(width, box), 1e-3)
    radius = ((cos * v - sin * u) / rows) ** 2 + ((sin * v + cos * u) / cols) ** 2
    radius += ((scene.z[box[0]] - z0) / depth) ** 2
    share = np.clip((1 - np.sqrt(radius)) * np.minimum(rows, cols) / scene.pixel_mm + 0.5, 0, 1)
    if where is not None:
        share = share * np.broadcast_to(where, scene.label.shape)[box]
    if value is not None:
        scene.image[box] += share * (value - scene.image[box])
    if label is not None:
        scene.label[box][share > 0.5] = label
    if seen is not None:
        seen[box] = share


def _box(scene: Scene, v0: PerSlice, u0: PerSlice, reach: PerSlice, z0: float, depth: float) -> tuple[slice, ...]:
    # The part of the scene that the shape can touch, found on every fourth pixel.
    step = 4
    far = reach + (step + 2) * scene.pixel_mm
    near = np.abs(scene.v[:, ::step, ::step] - v0) <= far
    near &= np.abs(scene.u[:, ::step, ::step] - u0) <= far
    near &= np.abs(scene.z - z0) <= depth
    spans = []
    for axis, stride in enumerate((1, step, step)):
        places = np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {axis})))
        empty = len(places) == 0
        spans.append(slice(0, 0) if empty else slice(places[0] * stride, (places[-1] + 1) * stride))
    return tuple(spans)


def _at(value: PerSlice, box: tuple[slice, ...]) -> PerSlice:
    return value[box[0]] if isinstance(value, np.ndarray) and value.ndim else value


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], knots: Sequence[int]) -> Field:
    """A smooth random field of about unit standard deviation: white noise on a coarse grid, cubic between."""
    coarse = [max(2, min(size, knot)) for size, knot in zip(shape, knots, strict=True)]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    plane = resample_in_plane(noise, (shape[1], shape[2]))
    whole = resample_in_plane(plane.reshape(coarse[0], -1), (shape[0], plane[0].size)).reshape(shape)
    whole /= whole.std() + np.float32(1e-6)
    return whole
