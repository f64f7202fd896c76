"""What is one piece in all labels is one piece in a label map: against a flood fill, and by cases known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flood_fill import flooded
from how_many import examples
from lemis.prediction.components import LEAST_SHARE, common, decide, effect, keep_largest, learned
from lemis.work_files.predictions import Kept
from lemis.work_files.run import OnePiece

NAMES = ("background", "RV", "MYO", "LV")
Map = NDArray[np.uint8]


def slow(classes: Map, kept: Kept) -> Map:
    """The rule as it is written down: all structures together first, then each."""
    out = classes.copy()
    wanted = [None] if kept.foreground else []
    for value in [*wanted, *(NAMES.index(name) for name in sorted(kept.structures, key=NAMES.index))]:
        pieces = flooded(out > 0 if value is None else out == value)
        most = max(map(len, pieces), default=0)
        if most >= kept.least_share * sum(map(len, pieces)):
            for place in (place for piece in pieces if len(piece) < most for place in piece):
                out[place] = 0
    return out


maps = st.builds(
    lambda shape, seed, empty: np.where(
        np.random.default_rng(seed).random(shape) < empty, 0, np.random.default_rng(seed + 1).integers(0, 4, shape)
    ).astype(np.uint8),
    st.one_of(st.tuples(*[st.integers(1, 7)] * 3), st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(1))),
    st.integers(0, 10**6),
    st.sampled_from([0.5, 0.7, 0.9, 1.0]),
)
choices = st.builds(
    Kept,
    foreground=st.booleans(),
    structures=st.lists(st.sampled_from(NAMES[1:]), unique=True).map(tuple),
    least_share=st.sampled_from([0.0, LEAST_SHARE, 0.8]),
)


@examples(150)
@given(classes=maps, kept=choices)
def test_islands_become_background_as_by_a_flood_fill(classes: Map, kept: Kept) -> None:
    expected, found = slow(classes, kept), classes.copy()
    told = keep_largest(found, NAMES, kept)
    np.testing.assert_array_equal(found, expected)
    assert told.voxels == np.count_nonzero(classes)
    gone = {name: int(np.sum((classes == value) & (expected == 0))) for value, name in enumerate(NAMES) if value}
    assert told.removed == {name: voxels for name, voxels in gone.items() if voxels}
    again = found.copy()
    keep_largest(again, NAMES, kept)
    if kept.least_share == 0:
        np.testing.assert_array_equal(again, slow(found, kept))
    for name in set(kept.structures) - set(told.in_pieces):
        sizes = set(map(len, flooded(found == NAMES.index(name))))
        assert len(sizes) < 2, "one piece, or several of one size"


@examples(60)
@given(labels=st.lists(maps, max_size=3))
def test_what_is_learned_is_one_piece_in_every_label(labels: list[Map]) -> None:
    def whole(masks: list[NDArray[np.bool_]]) -> bool:
        there = [mask for mask in masks if mask.any()]
        return bool(there) and all(len(flooded(mask)) == 1 for mask in there)

    structures = tuple(name for value, name in enumerate(NAMES) if value and whole([one == value for one in labels]))
    assert learned(iter(labels), NAMES) == OnePiece(
        foreground=whole([one > 0 for one in labels]), structures=structures
    )


def test_a_label_without_a_structure_says_nothing_of_it_and_no_label_nothing_at_all() -> None:
    one, other = np.zeros((4, 9, 9), np.uint8), np.zeros((4, 9, 9), np.uint8)
    one[1, 2:4, 2:4] = 1
    other[1, 2:4, 2:4] = 3
    other[1, 7:, 7:] = 3
    assert learned([one, other], NAMES) == OnePiece(foreground=False, structures=("RV",))
    assert learned([np.zeros((4, 9, 9), np.uint8)], NAMES) == learned([], NAMES) == OnePiece()


def heart() -> Map:
    """LV in MYO, RV beside it, over six slices."""
    label = np.zeros((20, 20, 6), np.uint8)
    label[8:16, 8:16, 1:5] = 2
    label[10:14, 10:14, 1:5] = 3
    label[3:8, 8:16, 1:5] = 1
    return label


def test_an_island_of_any_structure_that_touches_nothing_goes_with_all_structures_together() -> None:
    label, predicted = heart(), heart()
    predicted[0:2, 0:2, 0] = 1  # an island of RV far away
    predicted[18:, 18:, 5] = 2  # and one of MYO
    told = keep_largest(predicted, NAMES, Kept(foreground=True, least_share=LEAST_SHARE))
    np.testing.assert_array_equal(predicted, label)
    assert told.removed == {"RV": 4, "MYO": 4}


def test_an_island_within_another_structure_goes_with_its_own() -> None:
    label, predicted = heart(), heart()
    predicted[11, 11, 2] = 1  # in the middle of LV
    together = predicted.copy()
    assert keep_largest(together, NAMES, Kept(foreground=True)).removed == {}
    told = keep_largest(predicted, NAMES, Kept(structures=("RV",), least_share=LEAST_SHARE))
    assert told.removed == {"RV": 1}
    assert np.argwhere(predicted != label).tolist() == [[11, 11, 2]]
    assert predicted[11, 11, 2] == 0


def test_an_island_of_the_next_slice_is_connected_as_pieces_are_three_dimensional() -> None:
    predicted = np.zeros((9, 9, 2), np.uint8)
    predicted[1:4, 1:4, 0], predicted[4, 4, 1] = 1, 1
    assert keep_largest(predicted, NAMES, Kept(structures=("RV",))).removed == {}


@pytest.mark.parametrize(("second", "removed"), [(8, 8), (9, 0), (10, 9), (20, 9)])
def test_where_no_piece_is_large_enough_all_stay_and_it_is_said(second: int, removed: int) -> None:
    predicted = np.zeros((60, 1, 1), np.uint8)
    predicted[:9], predicted[20 : 20 + second] = 1, 1
    kept = Kept(structures=("RV",), least_share=LEAST_SHARE)
    told = keep_largest(predicted, NAMES, kept)
    assert sum(told.removed.values()) == removed  # of two of one size both stay
    assert told.in_pieces == ()

    several = np.zeros((60, 1, 1), np.uint8)
    several[:9], several[20:28], several[40:42] = 1, 1, 1
    told = keep_largest(several, NAMES, kept)
    assert (told.removed, told.in_pieces, told.foreground_in_pieces) == ({}, ("RV",), False)
    assert keep_largest(several, NAMES, Kept(foreground=True, least_share=LEAST_SHARE)).foreground_in_pieces
    assert keep_largest(several, NAMES, Kept(structures=("RV",))).removed == {"RV": 10}


# ---------------------------------------------------------------------------------------------- by held-out predictions


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = one.sum() + other.sum()
    return float(2 * (one & other).sum() / total) if total else float("nan")


def slow_decision(cases: list[tuple[Map, Map]]) -> OnePiece:
    """nnU-Net's rule, step by step, on all maps at once."""

    def per_class(maps: list[Map]) -> list[float]:
        means = []
        for value in range(1, len(NAMES)):
            pairs = [overlap(one == value, label == value) for one, (_, label) in zip(maps, cases, strict=True)]
            known = [dice for dice in pairs if not np.isnan(dice)]
            means.append(float(np.mean(known)) if known else float("nan"))
        return means

    now = [one for one, _ in cases]
    before = per_class(now)
    cleaned = [slow(one, Kept(foreground=True)) for one in now]
    after = per_class(cleaned)
    known = [(b, a) for b, a in zip(before, after, strict=True) if not (np.isnan(b) or np.isnan(a))]
    rises = bool(np.nanmean(after) > np.nanmean(before)) if not np.isnan(after).all() else False
    foreground = rises and all(a >= b for b, a in known)
    now, structures = (cleaned if foreground else now), []
    for value, name in enumerate(NAMES[1:]):
        before, tried = per_class(now), [slow(one, Kept(structures=(name,))) for one in now]
        if per_class(tried)[value] > before[value]:
            now = tried
            structures.append(name)
    return OnePiece(foreground=foreground, structures=tuple(structures))


@examples(60)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 4), density=st.sampled_from([0.05, 0.2, 0.5]))
def test_held_out_scans_decide_by_nnu_net_s_rule(seed: int, number: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(number):
        label = np.where(rng.random((6, 6, 3)) < 1 - density, 0, rng.integers(0, 4, (6, 6, 3))).astype(np.uint8)
        noise = np.where(rng.random(label.shape) < 0.1, rng.integers(0, 4, label.shape), label).astype(np.uint8)
        cases.append((noise, label))
    effects = [effect(predicted, reference, NAMES) for predicted, reference in cases]
    assert decide(effects, NAMES) == slow_decision(cases)


def test_what_lowers_dice_is_not_kept_and_one_structure_is_all_of_them() -> None:
    label, islands, pieces = heart(), heart(), heart()
    islands[0:2, 0:2, 0], islands[12, 12, 2] = 1, 1  # far away, and in the middle of LV
    pieces[5, :, :] = 0  # RV in two parts, both true
    gains = effect(islands, label, NAMES)
    assert decide([gains], NAMES) == OnePiece(foreground=True, structures=("RV",))
    assert decide([effect(pieces, label, NAMES)], NAMES) == decide([effect(label, label, NAMES)], NAMES) == OnePiece()
    one = [effect(np.minimum(islands, 1), np.minimum(label, 1), NAMES[:2])]
    assert decide(one, NAMES[:2]) == OnePiece(foreground=True)


def test_no_structure_may_fall_for_the_mean_to_rise() -> None:
    rv_rises_and_lv_falls = np.array([[[0.5, 0.5, 0.9], [0.5, 0.5, 0.9]], [[0.9, 0.5, 0.8], [0.9, 0.5, 0.95]]])
    assert decide([rv_rises_and_lv_falls], NAMES) == OnePiece()
    better = rv_rises_and_lv_falls.copy()
    better[1, 0, 2] = 0.9
    assert decide([better], NAMES) == OnePiece(foreground=True, structures=("LV",))


def test_an_ensemble_keeps_what_all_its_runs_have_learned() -> None:
    one, other = OnePiece(foreground=True, structures=("RV", "LV")), OnePiece(foreground=True, structures=("LV",))
    assert common([one]) == one
    assert common([one, other]) == OnePiece(foreground=True, structures=("LV",))
    assert common([one, None]) == OnePiece(), "a run that is older than the record"
