"""Facility location against its formula, and values known from theory."""

from __future__ import annotations

from itertools import combinations, islice, pairwise
from math import dist, e, exp

import numpy as np
import pytest

from lemis.parts import coverage


def points(number: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 3))


def slow_similarities(rows: np.ndarray, width: float) -> list[list[float]]:
    number = len(rows)
    pairs = [dist(rows[i], rows[j]) for i, j in combinations(range(number), 2)]
    sigma = float(np.quantile(pairs, width))
    alike = [[exp(-(dist(a, b) ** 2) / (2 * sigma**2)) for b in rows] for a in rows]
    for j in range(number):
        alike[j][j] = max(alike[i][j] for i in range(number) if i != j)
    return alike


def slow_value(alike: list[list[float]], weights: np.ndarray, chosen: list[int]) -> float:
    if not chosen:
        return 0.0
    return sum(float(w) * max(row[j] for j in chosen) for w, row in zip(weights, alike, strict=True))


def test_distances_are_those_of_pairs_in_any_order() -> None:
    rows = points()
    apart = coverage.distances(rows)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert apart[i, j] == pytest.approx(dist(one, other))
    order = np.random.default_rng(1).permutation(len(rows))
    assert np.array_equal(coverage.distances(rows[order]), apart[np.ix_(order, order)])
    assert np.array_equal(apart, apart.T)


@pytest.mark.parametrize("width", [0.1, 0.5])
def test_similarities_are_those_of_the_formula(width: float) -> None:
    rows = points()
    assert np.allclose(coverage.similarities(coverage.distances(rows), width), slow_similarities(rows, width))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_points_that_are_all_the_same_are_alike(number: int) -> None:
    assert np.array_equal(coverage.similarities(coverage.distances(np.ones((number, 2)))), np.ones((number, number)))


@pytest.mark.parametrize("labelled", [(), (2,), (0, 5)])
def test_each_step_takes_the_largest_gain(labelled: tuple[int, ...]) -> None:
    rows, weights = points(), np.random.default_rng(7).uniform(0, 2, 9)
    alike = slow_similarities(rows, 0.5)
    taken = np.isin(np.arange(9), labelled)
    chosen = list(labelled)
    for one in coverage.greedy(np.array(alike), weights, taken):
        before = slow_value(alike, weights, chosen)
        gains = {j: slow_value(alike, weights, [*chosen, j]) - before for j in range(9) if j not in chosen}
        best = max(gains, key=lambda j: gains[j])
        assert one.point == best
        assert one.gain == pytest.approx(gains[best])
        covered = [max((row[j] for j in chosen), default=0.0) for row in alike]
        assert one.nearer.tolist() == [row[best] > had for row, had in zip(alike, covered, strict=True)]
        chosen.append(best)
        assert coverage.value(np.array(alike), weights, chosen) == pytest.approx(slow_value(alike, weights, chosen))
    assert sorted(chosen) == list(range(9))


@pytest.mark.parametrize("seed", range(6))
def test_it_comes_near_to_the_best_and_gains_never_grow(seed: int) -> None:
    alike = coverage.similarities(coverage.distances(points(10, seed)))
    weights = np.random.default_rng(seed).uniform(0, 2, 10)
    covers = list(islice(coverage.greedy(alike, weights, np.zeros(10, bool)), 3))
    best = max(coverage.value(alike, weights, some) for some in combinations(range(10), 3))
    found = coverage.value(alike, weights, [one.point for one in covers])
    assert best >= found >= (1 - 1 / e) * best
    gains = [one.gain for one in coverage.greedy(alike, weights, np.zeros(10, bool))]
    assert all(later <= before + 1e-12 for before, later in pairwise(gains))
