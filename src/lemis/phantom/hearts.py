"""Made-up short-axis hearts, as MR shows them."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from lemis.phantom.scene import Field, Scene, empty_scene, paint, smooth_field

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
SHAPE_PX = (112, 112)  # and 8 to 12 slices
FIELD_MM = 168.0


def draw(
    anatomy: np.random.Generator, scan: np.random.Generator, shape: tuple[int, int, int], contraction: float
) -> tuple[Scene, float]:
    """Short-axis slices from apex (first, lowest) to base, as bSSFP shows them."""
    draw = anatomy.uniform
    slices, gap_mm = shape[2], float(draw(8, 10))
    t = np.linspace(1.05, -0.07, slices, dtype=np.float32)[:, None, None]  # 0 at the valves, 1 at the apex
    scene = empty_scene(anatomy, shape, gap_mm, FIELD_MM, air=0.02, turn_degrees=22, shift_mm=10, bend_mm=2.2)
    blood, fat, muscle = draw(0.68, 0.95), draw(0.7, 1.0), draw(0.24, 0.36)
    myocardium, liver = muscle * draw(0.85, 1.2), draw(0.3, 0.5)
    _torso(scene, anatomy, t, fat=fat, muscle=muscle, liver=liver, blood=blood)

    # Sizes at the valves in end-diastole, mm; contraction keeps the wall's area, which thickens it.
    endo, wall = draw(19, 28), draw(7, 12)
    epi = endo + wall
    beat = 1 - contraction * draw(0.2, 0.4)
    along = (np.sqrt(np.clip(1 - (t / 0.97) ** 2, 0, 1)), np.sqrt(np.clip(1 - (t / 1.06) ** 2, 0, 1)))
    inner, outer = endo * along[0] * beat, epi * along[1]
    outer = np.sqrt(inner**2 + np.maximum(outer**2 - (endo * along[0]) ** 2, 0))
    # The long axis leans to the left and front; every slice is its own breath-hold.
    lean = np.array([draw(-4, 10), draw(4, 14)])
    shake = scan.normal(0, 1.0, (2, slices, 1, 1))
    v0, u0 = lean[0] * (t - 0.4) + shake[0], lean[1] * (t - 0.4) + shake[1]
    flat, tilt = draw(0.9, 1.1), draw(0, math.pi)
    below_valves = t >= 0

    # Right ventricle: what of an ellipse beside the left ventricle is not the left ventricle.
    towards = math.radians(draw(160, 205))
    size = np.clip(1 - (t / draw(0.82, 0.95)) ** 2, 0, 1) ** 0.4 * (1 - 0.5 * contraction * draw(0.2, 0.4))
    across, length = epi * draw(0.75, 0.95) * size, epi * draw(1.0, 1.2) * size
    away = 0.75 * outer + 0.30 * across
    rv, ru = v0 + away * math.sin(towards), u0 + away * math.cos(towards)
    angle = towards + draw(-0.25, 0.25)

    patchy = smooth_field(anatomy, scene.u.shape, (3, 9, 9)) > -0.2
    paint(scene, v0, u0, outer * 1.17 + 3, outer * 1.17 + 3, value=fat, where=patchy)
    there = size > 0
    paint(scene, rv, ru, across + 6, length + 6, angle, value=fat, where=patchy & there)
    paint(scene, rv, ru, across + 2.5, length + 2.5, angle, value=myocardium, where=there)
    paint(scene, rv, ru, across, length, angle, value=blood * draw(0.85, 1.05))
    paint(scene, rv, ru, across, length, angle, value=None, label=1, where=below_valves & (across > 4))
    strands = smooth_field(anatomy, scene.u.shape, (slices, 22, 22)) > 1.3  # trabeculae of the right ventricle
    scene.image[(scene.label == 1) & strands] *= 0.72
    paint(scene, v0, u0, outer * flat, outer / flat, tilt, value=myocardium, label=2)
    paint(scene, v0, u0, inner * flat, inner / flat, tilt, value=blood, label=3)
    for side in (draw(0.2, 0.9), draw(2.0, 2.9)):  # papillary muscles, part of the cavity in the label
        place = 0.62 * inner
        thick = np.where((t > 0.25) & (t < 0.85), draw(2.2, 3.8) * (0.6 + 0.6 * contraction), 0)
        paint(
            scene,
            v0 + place * math.sin(side),
            u0 + place * math.cos(side),
            thick,
            thick,
            value=myocardium * 1.05,
        )
    # Above the valves: atria and the root of the aorta, bright, and not to be labelled.
    above = ~below_valves
    scene.label[above[:, 0, 0]] = 0
    paint(scene, v0 + 18, u0 + 6, 22, 30, 0.2, value=blood * 0.95, where=above)
    paint(scene, v0 - 10, u0 - 4, 14, 14, value=blood, where=above)
    _mr(scene, scan)
    return scene, gap_mm


def _torso(
    scene: Scene,
    draw_from: np.random.Generator,
    t: Field,
    *,
    fat: float,
    muscle: float,
    liver: float,
    blood: float,
) -> None:
    """What is around a heart: chest wall, lungs with vessels, diaphragm and liver, stomach, spine, aorta."""
    draw, shape = draw_from.uniform, scene.u.shape
    v0, u0, height, width = 30 + draw(-8, 8), 22 + draw(-10, 10), draw(88, 108), draw(120, 145)
    skin, wall = draw(5, 17), draw(8, 13)
    paint(scene, v0, u0, height, width, value=fat)
    paint(scene, v0 + 2, u0, height - skin, width - skin, value=muscle)
    fibres = smooth_field(draw_from, shape, (3, 14, 14))
    wall_fat = (fibres > 0.9) & (scene.image > muscle * 0.9)
    scene.image[wall_fat] = 0.6 * fat + 0.4 * scene.image[wall_fat]
    paint(scene, v0 + 3, u0, height - skin - wall, width - skin - wall, value=0.07)
    vessels = smooth_field(draw_from, shape, (max(2, shape[0] // 2), 30, 30)) > 1.75
    scene.image[vessels & (scene.image < 0.1)] = draw(0.25, 0.45)
    paint(scene, 38, 22, 44, 40, value=0.75 * fat)  # mediastinum
    paint(scene, 34, 20, 26, 22, 0.5, value=muscle * 1.3)
    rise = 26 * t
    paint(scene, 98 + draw(-6, 6) - rise, -32, 58, 86, -0.2, value=liver)
    veins = smooth_field(draw_from, shape, (6, 16, 16)) > 1.5
    inside = np.abs(scene.image - liver) < 0.01
    scene.image[veins & inside] = liver * draw(1.25, 1.6)
    paint(scene, 92 - 0.8 * rise, 66, 40, 38, 0.4, value=draw(0.35, 0.7))  # stomach
    paint(scene, 98, 40, 24, 23, value=muscle * 1.25)  # spine
    paint(scene, 98, 40, 16, 17, value=draw(0.4, 0.6))
    paint(scene, 66 + draw(-4, 4), 48 + draw(-6, 6), 11, 11, value=blood * 0.97)  # descending aorta


def _mr(scene: Scene, scan: np.random.Generator) -> None:
    """Texture, coil shading, blur, contrast and Rician noise; then whole numbers of an arbitrary scale."""
    image, shape = scene.image, scene.image.shape
    image *= 1 + 0.06 * smooth_field(scan, shape, (shape[0], 14, 14))
    image *= 1 + 0.05 * smooth_field(scan, shape, (shape[0], shape[1] // 2, shape[2] // 2))
    coil = np.exp(-(scene.v + 40) / scan.uniform(120, 320) + 0.18 * smooth_field(scan, shape, (2, 4, 4)))
    blurred = ndimage.gaussian_filter(image, (0, 0.55, 0.55)) ** scan.uniform(0.8, 1.25) * coil
    sigma = scan.uniform(0.015, 0.035)
    noise = scan.standard_normal((2, *shape), dtype=np.float32) * sigma
    scene.image[:] = np.hypot(blurred + noise[0], noise[1]) * scan.uniform(400, 1500)
