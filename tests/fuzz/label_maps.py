"""One label map stored in two ways, on the same voxels or not: what is the same scores 1, what lies elsewhere nothing.

A label map and its reference, or a label map and its scan, differ in the order of their axes, in format and type, and
one of them may be cut to what it marks, as 3D Slicer does. Where one was moved, both must be refused; where it was not,
neither may be.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.affines import from_matvec

from fuzz.harness import Case
from scans_on_disk import write_itk

SHAPE = (9, 8, 6)
_NAMES = {"liver": 1, "spleen": 2}
_SUFFIXES = ("nii.gz", "nii", "mgz", "mha", "nrrd", "seg.nrrd")
_TYPES = (np.uint8, np.int16, np.int32, np.float32, np.float64)
# Parts of the smallest side of a voxel: up to a twentieth is rounding.
_NOTHING, _ROUNDING = 0.0, 0.03
# Voxels. By a whole one, what was cut lies on the lattice of its scan again, at another place that may be meant.
_MOVED = (0.3, 0.5, 1.5, 4.5)


class Stored(NamedTuple):
    """How a label map lies in its file."""

    suffix: str
    axes: tuple[int, int, int]  # that of the label map which each stored axis is
    mirrored: tuple[bool, bool, bool]  # of the stored axes
    kind: type[np.generic]
    big: bool  # endian, of NIfTI
    deep: bool  # a fourth axis of length 1, of NIfTI
    cut: bool  # to what is marked, of a .seg.nrrd
    turned: bool  # the numbers of the structures, of a .seg.nrrd
    moved: float  # along the first axis


def cases(rng: random.Random) -> Iterator[Case]:
    """Each command in turn."""
    while True:
        for make in (_evaluate, _check):
            yield make(rng)


def _evaluate(rng: random.Random) -> Case:
    affine, seed, off = _affine(rng), rng.randrange(10**6), rng.choice((_NOTHING, _NOTHING, _ROUNDING, *_MOVED))
    one, other = _stored(rng, _NOTHING), _stored(rng, off)
    pair = [one, other] if rng.random() < 0.5 else [other, one]

    def build(folder: Path) -> None:
        for name, stored in zip(("made", "right"), pair, strict=True):
            _write(folder / name / f"a.{stored.suffix}", _labels(seed), affine, stored)
        _declare(folder / "right")

    same = off in (_NOTHING, _ROUNDING)
    return Case(
        "evaluate",
        f"{'same' if same else f'moved by {off}'} {pair[0]} {pair[1]}",
        build,
        ("evaluate", "made", "--references", "right"),
        partial(_imperfect, same),
        good=same,
    )


def _imperfect(same: bool, folder: Path, _said: str) -> str | None:
    if not same:
        return "a label map that lies elsewhere than its reference was scored"
    with (folder / "made" / "evaluation" / "per_case.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = [row for row in rows if (float(row["dice"]), float(row["hd95_mm"])) != (1.0, 0.0)]
    return f"of the same label map: {wrong or rows}" if wrong or len(rows) != len(_NAMES) else None


def _check(rng: random.Random) -> Case:
    affine, seed, off = _affine(rng), rng.randrange(10**6), rng.choice((_NOTHING, _NOTHING, _ROUNDING, *_MOVED))
    whole = [suffix for suffix in _SUFFIXES if suffix != "seg.nrrd"]
    image = _stored(rng, _NOTHING)._replace(suffix=rng.choice(whole), kind=np.int16, cut=False)
    label = _stored(rng, off)

    def build(folder: Path) -> None:
        greys = np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.int16)
        _write(folder / "scans" / f"a.{image.suffix}", greys, affine, image)
        name = "a.seg.nrrd" if label.suffix == "seg.nrrd" else f"a_seg.{label.suffix}"
        _write(folder / "scans" / name, _labels(seed), affine, label)
        _declare(folder / "scans")

    same = off in (_NOTHING, _ROUNDING)
    return Case(
        "label of a scan",
        f"{'same' if same else f'moved by {off}'} {image} {label}",
        build,
        ("check", "scans", "-o", "work"),
        partial(_misplaced, same, affine, seed),
        good=same,
    )


def _misplaced(same: bool, affine: np.ndarray, seed: int, folder: Path, _said: str) -> str | None:
    from lemis.datasets import index as index_file
    from lemis.datasets.scans import image_grid, label_on

    if not same:
        return "a label that lies elsewhere than its scan was accepted"
    index = index_file.load(folder / "work" / "index.json")
    (scan,) = index.scans
    grid = image_grid(index, scan)
    label = label_on(index, scan, grid)
    places = np.argwhere(label)
    at = np.rint(_through(np.linalg.inv(affine) @ grid.canonical_affine, places)).astype(int)
    found = {(*map(int, place), int(value)) for place, value in zip(at, label[tuple(places.T)], strict=True)}
    right = _labels(seed)
    wanted = {(*map(int, place), int(right[tuple(place)])) for place in np.argwhere(right)}
    return None if found == wanted else f"{len(found ^ wanted)} voxels of the label are elsewhere"


def _through(affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    found: np.ndarray = places @ affine[:3, :3].T + affine[:3, 3]
    return found


# ---------------------------------------------------------------- label maps


def _labels(seed: int) -> np.ndarray:
    """Two structures, strewn, away from some of the borders."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    low, high = rng.integers(0, 3, 3), np.array(SHAPE) - rng.integers(0, 3, 3)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    labels[inside] = rng.choice(3, labels[inside].shape, p=(0.5, 0.3, 0.2))
    labels[tuple(low)], labels[tuple(high - 1)] = 1, 2
    return labels


def _declare(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **_NAMES}}))


def _affine(rng: random.Random) -> np.ndarray:
    """A grid of any spacing, upright or oblique, voxel -> mm RAS."""
    spacing = np.diag([rng.choice((0.3, 0.75, 1.0, 1.3, 6.0)) for _ in range(3)])
    turn = np.eye(3)
    if rng.random() < 0.5:
        turn, _ = np.linalg.qr(np.random.default_rng(rng.randrange(10**6)).normal(size=(3, 3)))
    return from_matvec(turn @ spacing, [rng.uniform(-150, 150) for _ in range(3)])


def _stored(rng: random.Random, moved: float) -> Stored:
    axes, mirrored = rng.sample(range(3), 3), [rng.random() < 0.5 for _ in range(3)]
    return Stored(
        rng.choice(_SUFFIXES),
        (axes[0], axes[1], axes[2]),
        (mirrored[0], mirrored[1], mirrored[2]),
        rng.choice(_TYPES),
        rng.random() < 0.3,
        rng.random() < 0.3,
        rng.random() < 0.6,
        rng.random() < 0.5,
        moved,
    )


def _write(path: Path, array: np.ndarray, affine: np.ndarray, stored: Stored) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    moved = stored.moved if stored.moved in _MOVED else stored.moved * sides.min() / sides[0]
    affine = affine @ from_matvec(np.eye(3), [moved, 0, 0])
    names = {}
    if stored.suffix == "seg.nrrd":
        names = {"liver": 2, "spleen": 1} if stored.turned else _NAMES
        array = np.choose(array, (0, names["liver"], names["spleen"]))
        if stored.cut:
            marked = np.argwhere(array)
            first, last = marked.min(axis=0), marked.max(axis=0) + 1
            array = array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
            affine = affine @ from_matvec(np.eye(3), first)
    array, affine = array.transpose(stored.axes), affine @ from_matvec(np.eye(3)[:, stored.axes])
    for axis, mirrored in enumerate(stored.mirrored):
        if mirrored:
            flip, end = np.ones(3), np.zeros(3)
            flip[axis], end[axis] = -1, array.shape[axis] - 1
            array, affine = np.flip(array, axis), affine @ from_matvec(np.diag(flip), end)
    array = np.ascontiguousarray(array).astype(np.uint8 if names else stored.kind)
    if path.suffix in (".nrrd", ".mha"):
        write_itk(array, affine, path, _segments(names), packed=True)
    elif path.suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(array.astype(np.int32 if array.dtype.kind == "i" else np.float32), affine), path)
    else:
        header = nibabel.Nifti1Header(endianness=">" if stored.big else "<")
        header.set_data_dtype(array.dtype)
        image: Any = nibabel.Nifti1Image(array[..., None] if stored.deep else array, affine, header)
        image.set_sform(affine, code=1)
        nibabel.save(image, path)


def _segments(names: dict[str, int]) -> dict[str, str]:
    """The fields of a .seg.nrrd that name its structures."""
    found = {}
    for number, (name, value) in enumerate(names.items()):
        found |= {f"Segment{number}_Name": name, f"Segment{number}_LabelValue": str(value)}
    return found
