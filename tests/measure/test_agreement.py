"""Pairwise Dice against a slow version, with structures that are in one map only, or in none."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lemis.measure.agreement import Agreement


def slow(maps: np.ndarray, classes: int) -> list[float]:
    found = []
    for c in range(1, classes):
        scores = []
        for one, other in combinations(maps, 2):
            a, b = {tuple(p) for p in np.argwhere(one == c)}, {tuple(p) for p in np.argwhere(other == c)}
            scores.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
        found.append(1 - sum(scores) / len(scores))
    return found


@pytest.mark.parametrize("number", [2, 3, 5])
def test_it_is_one_minus_the_mean_dice_of_all_pairs(number: int) -> None:
    maps = np.random.default_rng(0).integers(0, 4, (number, 5, 6, 7)).astype(np.uint8)
    maps[1][maps[1] == 3] = 0  # a structure that one map does not have
    whole = Agreement(number, 5)  # the fifth is in none
    whole.add(maps)
    assert whole.disagreement() == pytest.approx(slow(maps, 5))
    assert whole.disagreement()[3] == 0
    slabs = Agreement(number, 5)
    for first in (0, 2, 3):
        slabs.add(maps[:, first : {0: 2, 2: 3, 3: 5}[first]])
    assert np.array_equal(slabs.disagreement(), whole.disagreement())


def test_slices_count_the_voxels_that_some_maps_and_not_all_give_to_a_structure() -> None:
    maps = np.random.default_rng(1).integers(0, 3, (3, 6, 4, 5)).astype(np.uint8)
    maps[:, 2] = maps[0, 2]  # all of one mind
    slabs = Agreement(3, 4)
    slabs.add(maps[:, :4])
    slabs.add(maps[:, 4:])
    found = slabs.apart()
    assert found.shape == (3, 6)
    for c, number in np.ndindex(3, 6):
        given = maps[:, number] == c + 1
        assert found[c, number] == sum(0 < voxel.sum() < 3 for voxel in given.reshape(3, -1).T)
    assert found[:, 2].tolist() == [0, 0, 0]
    assert found[0].sum() > 0


def test_maps_that_are_equal_agree_and_those_that_share_nothing_do_not() -> None:
    for other, wanted in ((1, 0.0), (0, 1.0)):
        both = Agreement(2, 2)
        both.add(np.array([[1, 1, 0], [other, other, 0]], np.uint8))
        assert both.disagreement().tolist() == [wanted]


def test_a_single_map_does_not_disagree() -> None:
    alone = Agreement(1, 3)
    alone.add(np.array([[0, 1, 2]], np.uint8))
    assert alone.disagreement().tolist() == [0, 0]
