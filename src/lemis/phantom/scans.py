"""Made-up scans with known anatomy, for the demo and for tests: short-axis hearts (MR) and abdomens (CT).

A subject is drawn from (seed, number): pose, sizes, shapes, contrast, coil shading and noise all differ.
Tissues share intensities (blood and fat, muscle and liver), so that a threshold does not segment them.

Scenes are drawn as pictures seen from the patient's feet: v runs down (posterior), u to the right of the
picture (the patient's left), in mm from the middle; arrays of a scene are (slice, row, column). Painting is
back to front with soft edges; each structure's label is where its share exceeds one half.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lemis.errors import UsageError
from lemis.formats.volume import write_volume
from lemis.preparation.resampling import resample_in_plane

Kind = Literal["heart", "abdomen"]
# How headers call the stored axes. "LSP" and "PSR" are stacks about halfway between left and back, on either side, as
# short-axis hearts are: their slices run from the apex to the patient's back and right, and rows run upwards.
Stored = Literal["LPS", "LSP", "PSR"]
STORED: tuple[Stored, ...] = ("LPS", "LSP", "PSR")
Field = NDArray[np.float32]  # (slice, row, column)
PerSlice = float | NDArray[Any]  # a number, or (slices, 1, 1)

LABELS: dict[str, dict[str, int]] = {
    "heart": {"background": 0, "RV": 1, "MYO": 2, "LV": 3},
    # As in real label maps, the values have a gap.
    "abdomen": {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 5},
}
CHANNELS = {"heart": "MR", "abdomen": "CT"}
SHAPES = {"heart": (112, 112), "abdomen": (128, 128)}  # slices: 8 to 12 and 42 to 48
FIELD_MM = {"heart": 168.0, "abdomen": 345.0}


class Phantom(NamedTuple):
    """One made-up scan, oblique."""

    image: NDArray[np.int16]  # (X, Y, Z)
    label: NDArray[np.uint8]  # (X, Y, Z)
    affine: NDArray[np.float64]  # (4, 4), voxel -> mm RAS


@dataclass(frozen=True)
class _Scene:
    z: NDArray[np.float32]  # (slices, 1, 1) mm, upwards
    v: Field  # mm, downwards, posed and bent
    u: Field  # mm, rightwards
    pixel_mm: float
    image: Field
    label: NDArray[np.uint8]


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
        shape = shape or (*SHAPES[kind], int(anatomy.integers(8, 13)))
        contraction = (1 - math.cos(2 * math.pi * phase / phases)) / 2
        scene, gap_mm = _heart(anatomy, scan, shape, contraction)
    else:
        shape = shape or (*SHAPES[kind], int(anatomy.integers(42, 49)))
        scene, gap_mm = _abdomen(anatomy, scan, shape)
    spacing = (scene.pixel_mm, scene.pixel_mm, gap_mm)
    image, label = scene.image.transpose(2, 1, 0), scene.label.transpose(2, 1, 0)
    if stored == "LPS":
        directions = _near_body_axes(anatomy, degrees=20.0 if kind == "heart" else 4.0)
    else:
        directions = _short_axis(anatomy, stored)
        image, label = image[:, ::-1], label[:, ::-1]
    affine = _placed(anatomy, directions, shape, spacing)
    return Phantom(np.ascontiguousarray(np.rint(image).astype(np.int16)), np.ascontiguousarray(label), affine)


def write_dataset(
    folder: Path,
    kind: Kind = "heart",
    *,
    subjects: int = 10,
    labelled: int | None = None,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
    phases: int = 1,
    stored: Sequence[Stored] = ("LPS",),
) -> Path:
    """A folder of made-up scans in nnU-Net's raw layout.

    Args:
        folder: Where to; made when it is not there.
        kind: ``"heart"`` or ``"abdomen"``.
        subjects: How many.
        labelled: How many of them, from the first, get label maps; all by default.
        seed: Another seed, other subjects.
        shape: (X, Y, Z) of every scan; see ``make``.
        phases: Scans per subject, hearts only. Two are called ED and ES.
        stored: Directions of the stored axes, of one subject after another.

    Returns:
        ``folder``.

    Raises:
        UsageError: Fewer than one subject or phase, more labelled than there are, or what ``make`` refuses.
    """
    labelled = subjects if labelled is None else labelled
    if subjects < 1 or phases < 1 or not 0 <= labelled <= subjects:
        raise UsageError(
            f"subjects={subjects}, labelled={labelled}, phases={phases}",
            allowed="at least one subject and one phase, and no more labelled subjects than there are",
            next="subjects=10, labelled=2, phases=1",
        )
    names = {1: [""], 2: ["_ED", "_ES"]}.get(phases, [f"_frame{phase + 1:02d}" for phase in range(phases)])
    for number in range(1, subjects + 1):
        for phase, name in enumerate(names):
            axes = stored[(number - 1) % len(stored)]
            scan = make(kind, subject=number, seed=seed, shape=shape, phase=phase, phases=phases, stored=axes)
            id = f"{kind}_{number:03d}{name}"
            write_volume(scan.image, scan.affine, folder / "imagesTr" / f"{id}_0000.nii.gz")
            if number <= labelled:
                write_volume(scan.label, scan.affine, folder / "labelsTr" / f"{id}.nii.gz")
    facts = {
        "name": f"made-up {kind}",
        "description": "Drawn by lemis.phantom; nobody was scanned.",
        "channel_names": {"0": CHANNELS[kind]},
        "labels": LABELS[kind],
        "numTraining": labelled * phases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


# -------------------------------------------------------------------------------------------------- the heart


def _heart(
    anatomy: np.random.Generator, scan: np.random.Generator, shape: tuple[int, int, int], contraction: float
) -> tuple[_Scene, float]:
    """Short-axis slices from apex (first, lowest) to base, as bSSFP shows them."""
    draw = anatomy.uniform
    slices, gap_mm = shape[2], float(draw(8, 10))
    t = np.linspace(1.05, -0.07, slices, dtype=np.float32)[:, None, None]  # 0 at the valves, 1 at the apex
    scene = _open(anatomy, shape, gap_mm, FIELD_MM["heart"], air=0.02, turn_degrees=22, shift_mm=10, bend_mm=2.2)
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

    patchy = _smooth(anatomy, scene.u.shape, (3, 9, 9)) > -0.2
    _blob(scene, v0, u0, outer * 1.17 + 3, outer * 1.17 + 3, value=fat, where=patchy)
    there = size > 0
    _blob(scene, rv, ru, across + 6, length + 6, angle, value=fat, where=patchy & there)
    _blob(scene, rv, ru, across + 2.5, length + 2.5, angle, value=myocardium, where=there)
    _blob(scene, rv, ru, across, length, angle, value=blood * draw(0.85, 1.05))
    _blob(scene, rv, ru, across, length, angle, value=None, label=1, where=below_valves & (across > 4))
    strands = _smooth(anatomy, scene.u.shape, (slices, 22, 22)) > 1.3  # trabeculae of the right ventricle
    scene.image[(scene.label == 1) & strands] *= 0.72
    _blob(scene, v0, u0, outer * flat, outer / flat, tilt, value=myocardium, label=2)
    _blob(scene, v0, u0, inner * flat, inner / flat, tilt, value=blood, label=3)
    for side in (draw(0.2, 0.9), draw(2.0, 2.9)):  # papillary muscles, part of the cavity in the label
        place = 0.62 * inner
        thick = np.where((t > 0.25) & (t < 0.85), draw(2.2, 3.8) * (0.6 + 0.6 * contraction), 0)
        _blob(
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
    _blob(scene, v0 + 18, u0 + 6, 22, 30, 0.2, value=blood * 0.95, where=above)
    _blob(scene, v0 - 10, u0 - 4, 14, 14, value=blood, where=above)
    _mr(scene, scan)
    return scene, gap_mm


def _torso(
    scene: _Scene,
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
    _blob(scene, v0, u0, height, width, value=fat)
    _blob(scene, v0 + 2, u0, height - skin, width - skin, value=muscle)
    fibres = _smooth(draw_from, shape, (3, 14, 14))
    wall_fat = (fibres > 0.9) & (scene.image > muscle * 0.9)
    scene.image[wall_fat] = 0.6 * fat + 0.4 * scene.image[wall_fat]
    _blob(scene, v0 + 3, u0, height - skin - wall, width - skin - wall, value=0.07)
    vessels = _smooth(draw_from, shape, (max(2, shape[0] // 2), 30, 30)) > 1.75
    scene.image[vessels & (scene.image < 0.1)] = draw(0.25, 0.45)
    _blob(scene, 38, 22, 44, 40, value=0.75 * fat)  # mediastinum
    _blob(scene, 34, 20, 26, 22, 0.5, value=muscle * 1.3)
    rise = 26 * t
    _blob(scene, 98 + draw(-6, 6) - rise, -32, 58, 86, -0.2, value=liver)
    veins = _smooth(draw_from, shape, (6, 16, 16)) > 1.5
    inside = np.abs(scene.image - liver) < 0.01
    scene.image[veins & inside] = liver * draw(1.25, 1.6)
    _blob(scene, 92 - 0.8 * rise, 66, 40, 38, 0.4, value=draw(0.35, 0.7))  # stomach
    _blob(scene, 98, 40, 24, 23, value=muscle * 1.25)  # spine
    _blob(scene, 98, 40, 16, 17, value=draw(0.4, 0.6))
    _blob(scene, 66 + draw(-4, 4), 48 + draw(-6, 6), 11, 11, value=blood * 0.97)  # descending aorta


def _mr(scene: _Scene, scan: np.random.Generator) -> None:
    """Texture, coil shading, blur, contrast and Rician noise; then whole numbers of an arbitrary scale."""
    image, shape = scene.image, scene.image.shape
    image *= 1 + 0.06 * _smooth(scan, shape, (shape[0], 14, 14))
    image *= 1 + 0.05 * _smooth(scan, shape, (shape[0], shape[1] // 2, shape[2] // 2))
    coil = np.exp(-(scene.v + 40) / scan.uniform(120, 320) + 0.18 * _smooth(scan, shape, (2, 4, 4)))
    blurred = ndimage.gaussian_filter(image, (0, 0.55, 0.55)) ** scan.uniform(0.8, 1.25) * coil
    sigma = scan.uniform(0.015, 0.035)
    noise = scan.standard_normal((2, *shape), dtype=np.float32) * sigma
    scene.image[:] = np.hypot(blurred + noise[0], noise[1]) * scan.uniform(400, 1500)


# ------------------------------------------------------------------------------------------------ the abdomen


def _abdomen(
    anatomy: np.random.Generator, scan: np.random.Generator, shape: tuple[int, int, int]
) -> tuple[_Scene, float]:
    """Axial CT from the lower poles of the kidneys to the dome of the liver, portal venous phase, in HU."""
    draw, gap_mm = anatomy.uniform, 3.0 * 44 / shape[2] if shape[2] < 40 else 3.0
    scene = _open(anatomy, shape, gap_mm, FIELD_MM["abdomen"], air=-1000, turn_degrees=4, shift_mm=8, bend_mm=6)
    dims = scene.u.shape
    height, width, skin = draw(98, 118), draw(138, 165), draw(9, 24)
    fat, muscle = draw(-112, -95), draw(48, 62)
    _blob(scene, height + 14, 0, 5, 170, value=-350)  # table
    _blob(scene, 0, 0, height, width, value=fat)
    _blob(scene, 2, 0, height - skin, width - skin, value=muscle)
    cavity = np.zeros(dims, np.float32)
    _blob(scene, -6, 0, height - skin - 13, width - skin - 13, value=fat + 6, seen=cavity)
    _ribs(scene, height - skin - 6, width - skin - 6, value=draw(260, 420))

    # Bowel fills the lower front; gas here and there.
    loops = _smooth(anatomy, dims, (max(2, dims[0] // 5), 13, 13))
    front = (cavity > 0.5) & (scene.v < 25 + 0.2 * scene.z)
    scene.image[front & (loops > -0.15)] = draw(25, 45)
    scene.image[front & (np.abs(loops + 0.15) < 0.12)] = draw(60, 95)  # walls
    scene.image[front & (loops > 1.5)] = -700

    _spine(scene, draw(-10, 10), muscle, bone=draw(150, 220))
    _blob(scene, 30, -14, 9, 9, value=(contrast := draw(120, 175)) * 0.9)  # inferior vena cava
    _blob(scene, 32, 12, 10, 10, value=contrast)  # aorta
    _blob(scene, -2, 10, 11, 50, -0.25, z0=-4, depth=16, value=draw(70, 100))  # pancreas
    stomach = (scene, -38 + draw(-6, 6), 48 + draw(-8, 8), 34, 40, 0.5)
    _blob(*stomach, z0=32, depth=48, value=draw(60, 80))
    _blob(scene, stomach[1], stomach[2], 29, 35, 0.5, z0=32, depth=44, value=draw(5, 40))
    gas = scene.v < stomach[1] - 12  # what is lying down has its air in front
    _blob(scene, stomach[1], stomach[2], 27, 33, 0.5, z0=32, depth=42, value=-850, where=gas)

    organ = draw(92, 125)
    _spleen(scene, anatomy, cavity > 0.5, value=organ * draw(0.95, 1.15))
    _liver(scene, anatomy, cavity > 0.5, value=organ)
    for side, label in ((-1, 2), (1, 3)):
        _kidney(scene, anatomy, side, label, fat)
    image = ndimage.gaussian_filter(scene.image, (0.4, 0.6, 0.6))
    tissue = image > -300
    image += tissue * (6 * _smooth(scan, dims, (dims[0] // 2, 24, 24)))
    noise = scan.standard_normal(dims, dtype=np.float32)
    grain = ndimage.uniform_filter(noise, (1, 2, 2)) * 2  # CT noise is not white
    image += scan.uniform(11, 19) * grain
    scene.image[:] = np.clip(image, -1024, 1500)
    return scene, gap_mm


def _liver(scene: _Scene, anatomy: np.random.Generator, cavity: NDArray[np.bool_], *, value: float) -> None:
    draw = anatomy.uniform
    top = draw(22, 36)
    _blob(scene, -4 + draw(-6, 6), -72, 74, 52, z0=top, depth=draw(64, 82), value=value, label=1, where=cavity)
    _blob(
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
    veins = _smooth(anatomy, scene.u.shape, (10, 14, 14)) > 1.4
    scene.image[veins & (scene.label == 1)] += draw(20, 45)
    bladder = (-26 + draw(-5, 5), -48 + draw(-8, 8))
    _blob(scene, *bladder, 15, 12, 0.3, z0=top - 34, depth=22, value=draw(5, 20), label=0)  # gall bladder


def _spleen(scene: _Scene, anatomy: np.random.Generator, cavity: NDArray[np.bool_], *, value: float) -> None:
    draw = anatomy.uniform
    _blob(
        scene, 26 + draw(-6, 6), 86 + draw(-5, 5), draw(36, 48), draw(24, 31), -0.35,
        z0=draw(26, 42), depth=draw(40, 54), value=value, label=5, where=cavity,
    )  # fmt: skip


def _kidney(scene: _Scene, anatomy: np.random.Generator, side: int, label: int, fat: float) -> None:
    draw = anatomy.uniform
    v0, u0, z0 = 46 + draw(-6, 6), side * (56 + draw(-6, 6)), -22 + 8 * (side > 0) + draw(-8, 8)
    height, width, depth, lean = draw(25, 31), draw(22, 27), draw(46, 56), side * draw(0.3, 0.7)
    cortex = draw(145, 195)
    _blob(scene, v0, u0, height + 5, width + 5, lean, z0=z0, depth=depth + 6, value=fat, label=0)  # its capsule
    _blob(scene, v0, u0, height, width, lean, z0=z0, depth=depth, value=cortex, label=label)
    _blob(scene, v0, u0, height * 0.62, width * 0.62, lean, z0=z0, depth=depth * 0.7, value=cortex * 0.72)
    hilum = (v0 - 0.35 * height, u0 - side * 0.95 * width)
    _blob(scene, *hilum, height * 0.55, width * 0.75, z0=z0, depth=depth * 0.42, value=fat + 30, label=0)


def _spine(scene: _Scene, offset_mm: float, muscle: float, *, bone: float) -> None:
    z = scene.z + offset_mm
    disc = np.abs((z % 34.0) - 17.0) < 3.5
    for side in (-1, 1):
        _blob(scene, 84, side * 34, 20, 26, side * 0.2, value=muscle)  # erector spinae
        _blob(scene, 50, side * (36 - 0.1 * z), 15, 13, value=muscle, where=z < 30)  # psoas
    _blob(scene, 56, 0, 20, 25, value=bone * 1.7)
    _blob(scene, 56, 0, 17, 22, value=bone)
    _blob(scene, 56, 0, 20, 25, value=85, where=disc)
    _blob(scene, 82, 0, 12, 15, value=bone * 1.5, where=~disc)
    _blob(scene, 80, 0, 8, 10, value=30)  # canal
    _blob(scene, 100, 0, 12, 4, value=bone * 1.6, where=~disc)


def _ribs(scene: _Scene, height: float, width: float, *, value: float) -> None:
    # Each rib runs down and forward: in successive slices it walks along the chest wall.
    for side in (-1, 1):
        for rib in range(5):
            along = 0.012 * (scene.z + 60) + 0.55 * rib - 1.1
            seen = (along > -0.9) & (along < 1.15) & (scene.z > -45 + 14 * abs(rib - 2))
            v, u = 2 + height * np.sin(along), side * width * np.cos(along)
            turn = np.arctan2(-height * np.cos(along), width * np.sin(along) * side)
            _blob(scene, v, u, 4.5, 9, turn + math.pi / 2, value=value, where=seen)


# --------------------------------------------------------------------------------------------------- painting


def _open(
    anatomy: np.random.Generator,
    shape: tuple[int, int, int],
    gap_mm: float,
    field_mm: float,
    *,
    air: float,
    turn_degrees: float,
    shift_mm: float,
    bend_mm: float,
) -> _Scene:
    """An empty scene whose coordinates are turned, shifted, scaled and smoothly bent: no shape is exact."""
    draw, dims = anatomy.uniform, (shape[2], shape[1], shape[0])
    pixel_mm = field_mm / min(shape[:2]) * draw(0.94, 1.06)
    z, v, u = (
        (np.arange(size, dtype=np.float32) - (size - 1) / 2) * mm
        for size, mm in zip(dims, (gap_mm, pixel_mm, pixel_mm), strict=True)
    )
    turn, size = math.radians(draw(-turn_degrees, turn_degrees)), draw(0.92, 1.08)
    cos, sin = math.cos(turn) / size, math.sin(turn) / size
    bends = [bend_mm * _smooth(anatomy, dims, (4, 5, 5)) for _ in range(2)]
    posed_v = cos * v[:, None] - sin * u + draw(-shift_mm, shift_mm) + bends[0]
    posed_u = sin * v[:, None] + cos * u + draw(-shift_mm, shift_mm) + bends[1]
    return _Scene(
        z=z[:, None, None],
        v=posed_v.astype(np.float32),
        u=posed_u.astype(np.float32),
        pixel_mm=float(pixel_mm),
        image=np.full(dims, air, np.float32),
        label=np.zeros(dims, np.uint8),
    )


def _blob(
    scene: _Scene,
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


def _box(scene: _Scene, v0: PerSlice, u0: PerSlice, reach: PerSlice, z0: float, depth: float) -> tuple[slice, ...]:
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


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], knots: Sequence[int]) -> Field:
    """A smooth random field of about unit standard deviation: white noise on a coarse grid, cubic between."""
    coarse = [max(2, min(size, knot)) for size, knot in zip(shape, knots, strict=True)]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    plane = resample_in_plane(noise, (shape[1], shape[2]))
    whole = resample_in_plane(plane.reshape(coarse[0], -1), (shape[0], plane[0].size)).reshape(shape)
    whole /= whole.std() + np.float32(1e-6)
    return whole


def _near_body_axes(rng: np.random.Generator, *, degrees: float) -> NDArray[np.float64]:
    """(3, 3) directions of the stored axes: LPS, turned a little about all three."""
    from scipy.spatial.transform import Rotation

    turned: NDArray[np.float64] = Rotation.from_euler(
        "xyz", rng.uniform(-degrees, degrees, 3), degrees=True
    ).as_matrix()
    return turned * (-1, -1, 1)


def _short_axis(rng: np.random.Generator, stored: Stored) -> NDArray[np.float64]:
    """(3, 3) directions of the stored axes of a short-axis stack: 3 to 8 degrees from halfway, tilted by 10 to 22."""
    from scipy.spatial.transform import Rotation

    halfway = np.array([[-1, -1, 0], [0, 0, -np.sqrt(2)], [1, -1, 0]]).T / np.sqrt(2)  # columns; rows run downwards
    side = {"LSP": -1, "PSR": 1}[stored]
    turned = Rotation.from_euler("z", side * rng.uniform(3, 8), degrees=True).as_matrix() @ halfway
    tilted = Rotation.from_euler("xz", (rng.uniform(10, 22), rng.uniform(-5, 5)), degrees=True).as_matrix()
    directions: NDArray[np.float64] = turned @ tilted * (1, -1, 1)
    return directions


def _placed(
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
