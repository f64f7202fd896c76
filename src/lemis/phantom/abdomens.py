"""Made-up abdomens, as CT shows them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lemis.phantom.scene import Scene, empty_scene, paint, smooth_field

# As in real label maps, the values have a gap.
LABELS = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 5}
SHAPE_PX = (128, 128)  # and 42 to 48 slices
FIELD_MM = 345.0


def draw(anatomy: np.random.Generator, scan: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Scene, float]:
    """Axial CT from the lower poles of the kidneys to the dome of the liver, portal venous phase, in HU."""
    draw, gap_mm = anatomy.uniform, 3.0 * 44 / shape[2] if shape[2] < 40 else 3.0
    scene = empty_scene(anatomy, shape, gap_mm, FIELD_MM, air=-1000, turn_degrees=4, shift_mm=8, bend_mm=6)
    dims = scene.u.shape
    height, width, skin = draw(98, 118), draw(138, 165), draw(9, 24)
    fat, muscle = draw(-112, -95), draw(48, 62)
    paint(scene, height + 14, 0, 5, 170, value=-350)  # table
    paint(scene, 0, 0, height, width, value=fat)
    paint(scene, 2, 0, height - skin, width - skin, value=muscle)
    cavity = np.zeros(dims, np.float32)
    paint(scene, -6, 0, height - skin - 13, width - skin - 13, value=fat + 6, seen=cavity)
    _ribs(scene, height - skin - 6, width - skin - 6, value=draw(260, 420))

    # Bowel fills the lower front; gas here and there.
    loops = smooth_field(anatomy, dims, (max(2, dims[0] // 5), 13, 13))
    front = (cavity > 0.5) & (scene.v < 25 + 0.2 * scene.z)
    scene.image[front & (loops > -0.15)] = draw(25, 45)
    scene.image[front & (np.abs(loops + 0.15) < 0.12)] = draw(60, 95)  # walls
    scene.image[front & (loops > 1.5)] = -700

    _spine(scene, draw(-10, 10), muscle, bone=draw(150, 220))
    paint(scene, 30, -14, 9, 9, value=(contrast := draw(120, 175)) * 0.9)  # inferior vena cava
    paint(scene, 32, 12, 10, 10, value=contrast)  # aorta
    paint(scene, -2, 10, 11, 50, -0.25, z0=-4, depth=16, value=draw(70, 100))  # pancreas
    stomach = (scene, -38 + draw(-6, 6), 48 + draw(-8, 8), 34, 40, 0.5)
    paint(*stomach, z0=32, depth=48, value=draw(60, 80))
    paint(scene, stomach[1], stomach[2], 29, 35, 0.5, z0=32, depth=44, value=draw(5, 40))
    gas = scene.v < stomach[1] - 12  # what is lying down has its air in front
    paint(scene, stomach[1], stomach[2], 27, 33, 0.5, z0=32, depth=42, value=-850, where=gas)

    organ = draw(92, 125)
    _spleen(scene, anatomy, cavity > 0.5, value=organ * draw(0.95, 1.15))
    _liver(scene, anatomy, cavity > 0.5, value=organ)
    for side, label in ((-1, 2), (1, 3)):
        _kidney(scene, anatomy, side, label, fat)
    image = ndimage.gaussian_filter(scene.image, (0.4, 0.6, 0.6))
    tissue = image > -300
    image += tissue * (6 * smooth_field(scan, dims, (dims[0] // 2, 24, 24)))
    noise = scan.standard_normal(dims, dtype=np.float32)
    grain = ndimage.uniform_filter(noise, (1, 2, 2)) * 2  # CT noise is not white
    image += scan.uniform(11, 19) * grain
    scene.image[:] = np.clip(image, -1024, 1500)
    return scene, gap_mm


def _liver(scene: Scene, anatomy: np.random.Generator, cavity: NDArray[np.bool_], *, value: float) -> None:
    draw = anatomy.uniform
    top = draw(22, 36)
    paint(scene, -4 + draw(-6, 6), -72, 74, 52, z0=top, depth=draw(64, 82), value=value, label=1, where=cavity)
    paint(
        scene,
        -44,
        -14 + draw(-8, 8),
        27,
        draw(48, 66),
        -0.15,
        z0=top + 8,
        depth=draw(36, 48),
        value=value,
        label=1,
        where=cavity,
    )
    veins = smooth_field(anatomy, scene.u.shape, (10, 14, 14)) > 1.4
    scene.image[veins & (scene.label == 1)] += draw(20, 45)
    bladder = (-26 + draw(-5, 5), -48 + draw(-8, 8))
    paint(scene, *bladder, 15, 12, 0.3, z0=top - 34, depth=22, value=draw(5, 20), label=0)  # gall bladder


def _spleen(scene: Scene, anatomy: np.random.Generator, cavity: NDArray[np.bool_], *, value: float) -> None:
    draw = anatomy.uniform
    paint(
        scene, 26 + draw(-6, 6), 86 + draw(-5, 5), draw(36, 48), draw(24, 31), -0.35,
        z0=draw(26, 42), depth=draw(40, 54), value=value, label=5, where=cavity,
    )  # fmt: skip


def _kidney(scene: Scene, anatomy: np.random.Generator, side: int, label: int, fat: float) -> None:
    draw = anatomy.uniform
    v0, u0, z0 = 46 + draw(-6, 6), side * (56 + draw(-6, 6)), -22 + 8 * (side > 0) + draw(-8, 8)
    height, width, depth, lean = draw(25, 31), draw(22, 27), draw(46, 56), side * draw(0.3, 0.7)
    cortex = draw(145, 195)
    paint(scene, v0, u0, height + 5, width + 5, lean, z0=z0, depth=depth + 6, value=fat, label=0)  # its capsule
    paint(scene, v0, u0, height, width, lean, z0=z0, depth=depth, value=cortex, label=label)
    paint(scene, v0, u0, height * 0.62, width * 0.62, lean, z0=z0, depth=depth * 0.7, value=cortex * 0.72)
    hilum = (v0 - 0.35 * height, u0 - side * 0.95 * width)
    paint(scene, *hilum, height * 0.55, width * 0.75, z0=z0, depth=depth * 0.42, value=fat + 30, label=0)


def _spine(scene: Scene, offset_mm: float, muscle: float, *, bone: float) -> None:
    z = scene.z + offset_mm
    disc = np.abs((z % 34.0) - 17.0) < 3.5
    for side in (-1, 1):
        paint(scene, 84, side * 34, 20, 26, side * 0.2, value=muscle)  # erector spinae
        paint(scene, 50, side * (36 - 0.1 * z), 15, 13, value=muscle, where=z < 30)  # psoas
    paint(scene, 56, 0, 20, 25, value=bone * 1.7)
    paint(scene, 56, 0, 17, 22, value=bone)
    paint(scene, 56, 0, 20, 25, value=85, where=disc)
    paint(scene, 82, 0, 12, 15, value=bone * 1.5, where=~disc)
    paint(scene, 80, 0, 8, 10, value=30)  # canal
    paint(scene, 100, 0, 12, 4, value=bone * 1.6, where=~disc)


def _ribs(scene: Scene, height: float, width: float, *, value: float) -> None:
    # Each rib runs down and forward: in successive slices it walks along the chest wall.
    for side in (-1, 1):
        for rib in range(5):
            along = 0.012 * (scene.z + 60) + 0.55 * rib - 1.1
            seen = (along > -0.9) & (along < 1.15) & (scene.z > -45 + 14 * abs(rib - 2))
            v, u = 2 + height * np.sin(along), side * width * np.cos(along)
            turn = np.arctan2(-height * np.cos(along), width * np.sin(along) * side)
            paint(scene, v, u, 4.5, 9, turn + math.pi / 2, value=value, where=seen)
