"""Facts of label maps against a slow version, and sentences on planted failures; silent on maps like the labelled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flood_fill import flooded
from lemis.measure import anatomy
from lemis.measure.anatomy import PIXELS, Shape, limits, shapes, unlike

NAMES = ("background", "left", "right")
SPACING = (1.0, 2.0, 5.0)
Map = NDArray[np.uint8]


def drawn(seed: int) -> Map:
    """Two balls side by side along X, the second one higher; no two scans alike."""
    rng = np.random.default_rng(seed)
    x, y, z = np.ogrid[:40, :24, :14]
    out = np.zeros((40, 24, 14), np.uint8)
    for number, (middle, height) in enumerate(((12, 5), (28, 8)), start=1):
        at = np.array([middle, 12, height]) + rng.normal(0, 0.4, 3)
        radii = np.array([6, 5, 3.4]) * rng.uniform(0.92, 1.08)
        out[((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 + ((z - at[2]) / radii[2]) ** 2 < 1] = number
    return out


def shaped(label: Map) -> dict[str, Shape]:
    return shapes(label, NAMES, SPACING, 2)


LABELLED = [shaped(drawn(seed)) for seed in range(8)]


def said(label: Map, structure: str = "left") -> str:
    return "; ".join(unlike(shaped(label), LABELLED, len(LABELLED))[structure])


def altered(how: Callable[[Map], object]) -> Map:
    label = drawn(100)
    how(label)
    return label


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_facts_are_those_of_a_slow_version(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice(3, size=(5, 4, 6), p=(0.5, 0.3, 0.2)).astype(np.uint8)
    found = shapes(label, NAMES, SPACING, axis)
    for value, name in enumerate(NAMES[1:], start=1):
        mask, own = label == value, found[name]
        where = np.argwhere(mask)
        sizes = sorted(len(piece) for piece in flooded(mask))
        assert own.ml == pytest.approx(len(where) * 10 / 1000)
        assert (own.pieces, own.extra) == (len(sizes), pytest.approx(1 - sizes[-1] / len(where)))
        assert own.centre_mm == pytest.approx((where.mean(0) + 0.5) * SPACING)
        filled = [number for number in range(label.shape[axis]) if mask.take(number, axis).any()]
        assert own.gaps == filled[-1] - filled[0] + 1 - len(filled)
        steps = []
        for number in range(filled[0] + 1, filled[-1] - 1):
            one, other = mask.take(number, axis), mask.take(number + 1, axis)
            if one.any() and other.any():
                steps.append(2 * (one & other).sum() / (one.sum() + other.sum()))
        assert own.step == pytest.approx(min(steps, default=math.nan), nan_ok=True)
        for side in range(3):
            areas = [int(mask.take(number, side).sum()) for number in range(label.shape[side])]
            assert own.cut[2 * side : 2 * side + 2] == pytest.approx((areas[0] / max(areas), areas[-1] / max(areas)))


def test_holes_are_background_and_not_another_structure() -> None:
    label = np.zeros((9, 9, 3), np.uint8)
    label[2:7, 2:7, 1] = 1
    label[4, 4, 1] = 0
    assert shaped(label)["left"].holes == pytest.approx(1 / 24)
    label[4, 4, 1] = 2
    assert shaped(label)["left"].holes == 0


def test_what_is_not_there_has_no_shape() -> None:
    found = shaped(np.zeros((4, 4, 4), np.uint8))["left"]
    assert (found.ml, found.pieces, found.gaps) == (0, 0, 0)
    assert math.isnan(found.extra)
    assert math.isnan(found.step)


def test_a_picture_is_not_cut_along_its_only_slice() -> None:
    label = np.zeros((9, 9, 1), np.uint8)
    label[2:5, 2:5] = 1
    assert shaped(label)["left"].cut == (0,) * 6


def test_maps_like_the_labelled_are_rarely_flagged() -> None:
    flags = [
        one for seed in range(200, 260) for own in unlike(shaped(drawn(seed)), LABELLED, 8).values() for one in own
    ]
    assert len(flags) <= 6  # one of ten scans


@pytest.mark.parametrize(
    ("how", "structure", "words"),
    [
        (lambda label: label.__setitem__(label == 1, 0), "left", "missing; all 8 labelled scans have it"),
        (lambda label: label.__setitem__((slice(0, 12), Ellipsis), 0), "left", "ml; labelled ones have"),
        (lambda label: label.__setitem__((slice(2, 6), slice(0, 4), slice(10, 14)), 1), "left", "in 2 pieces"),
        (lambda label: label.__setitem__((slice(10, 13), slice(11, 14), slice(4, 7)), 0), "left", "holes of"),
        (lambda label: label.__setitem__((Ellipsis, 5), 0), "left", "1 empty slice in it"),
        (lambda label: label.__setitem__(..., np.roll(label, -8, 2)), "right", "cut by the border"),
        (lambda label: label.__setitem__((..., 5), np.roll(label[..., 5], 9, 1)), "left", "jumps from slice to slice"),
        (lambda label: label.__setitem__(..., label[::-1].copy()), "left", "lies to the right of right"),
        (lambda label: label.__setitem__(..., label[..., ::-1].copy()), "left", "lies above right"),
    ],
)  # fmt: skip
def test_planted_failures_are_said(how: Callable[[Map], object], structure: str, words: str) -> None:
    assert words in said(altered(how), structure)
    assert not said(drawn(100), structure)


def test_a_structure_that_no_label_has_and_one_that_some_lack() -> None:
    none = [{**one, "left": shaped(np.zeros((4, 4, 4), np.uint8))["left"]} for one in LABELLED]
    found = shaped(drawn(3))
    assert "none of the 8 labelled scans has any" in unlike(found, none, 8)["left"][0]
    gone = altered(lambda label: label.__setitem__(label == 1, 0))
    assert unlike(shaped(gone), [*LABELLED[:7], none[7]], 8)["left"] == []  # not all have it, so it may be missing


def test_of_few_subjects_more_is_let_pass() -> None:
    large = {**LABELLED[0], "left": LABELLED[0]["left"]._replace(ml=2 * max(one["left"].ml for one in LABELLED))}
    assert any("ml; labelled" in one for one in unlike(large, LABELLED, 8)["left"])
    assert not unlike(large, LABELLED[:2], 2)["left"]


def test_sizes_of_pictures_are_said_in_pixels() -> None:
    large = {**LABELLED[0], "left": LABELLED[0]["left"]._replace(ml=12.345)}
    words = unlike(large, LABELLED, 8, PIXELS)["left"][0]
    assert words.startswith("12300 pixels; labelled ones have ")
    assert words.endswith(" pixels")
    turned = unlike(shaped(drawn(100)[::-1]), LABELLED, 8, PIXELS)["left"]
    assert any("to the right of right, by" in one and "pixels; in all 8" in one for one in turned)
    assert "mm" not in " ".join(turned)


def test_large_volumes_are_said_in_full() -> None:
    liver = {**LABELLED[0], "left": LABELLED[0]["left"]._replace(ml=1530.0)}
    assert unlike(liver, LABELLED, 8)["left"][0].startswith("1530 ml; labelled ones have ")


def test_limits_are_a_prediction_interval() -> None:
    rng = np.random.default_rng(0)
    missed = sum(limits(row[:-1], 6).beyond(row[-1]) for row in rng.normal(size=(4000, 7)))
    assert missed / 4000 == pytest.approx(1 - anatomy.SURE, abs=0.004)
