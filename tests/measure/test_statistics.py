"""Intervals: they cover, they know subjects from scans, and they repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.measure.statistics import Settings, estimate, paired_difference


def test_mean_median_and_population_std():
    found = estimate([1.0, 2.0, 6.0], ["a", "b", "c"])
    assert (found.mean, found.median, found.scans, found.subjects) == (3.0, 2.0, 3, 3)
    assert found.std == pytest.approx(np.std([1, 2, 6], ddof=0))
    assert found.low <= found.mean <= found.high


def test_repeats_and_depends_on_the_seed():
    rng = np.random.default_rng(3)
    values, names = rng.normal(size=40), [str(k // 2) for k in range(40)]
    assert estimate(values, names) == estimate(values, names)
    assert estimate(values, names) != estimate(values, names, Settings(seed=1))


def test_not_scored_values_are_left_out():
    assert estimate([1.0, math.nan, 3.0], ["a", "b", "c"]) == estimate([1.0, 3.0], ["a", "c"])


def test_nothing_scored_gives_no_number():
    found = estimate([math.nan], ["a"])
    assert math.isnan(found.mean)
    assert found.scans == 0


def test_one_subject_has_a_mean_but_no_interval():
    found = estimate([1.0, 2.0], ["a", "a"])
    assert found.mean == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_copies_of_a_scan_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    names = [f"s{k}" for k in range(12)]
    once, often = estimate(values, names), estimate(np.tile(values, 9), names * 9)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    as_if_independent = estimate(np.tile(values, 9), [str(k) for k in range(108)])
    assert as_if_independent.high - as_if_independent.low < 0.5 * (once.high - once.low)


def test_width_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=400)
    found = estimate(values, [str(k) for k in range(400)])
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    names = [str(k) for k in range(40)]
    hits = 0
    for _ in range(200):
        found = estimate(rng.normal(size=40), names, Settings(draws=400))
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_either_mean():
    rng = np.random.default_rng(2)
    theirs = rng.normal(size=30)
    ours = theirs + 0.1 + 0.01 * rng.normal(size=30)
    names = [str(k) for k in range(30)]
    found = paired_difference(ours, theirs, names)
    assert 0.08 < found.low < found.mean < found.high < 0.12
    assert paired_difference([1.0, math.nan], [0.5, 1.0], ["a", "b"]).scans == 1


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_order_of_scans_does_not_matter(rows: list[tuple[float, str]]):
    def numbers(rows: list[tuple[float, str]]) -> tuple[float, ...]:
        return estimate([value for value, _ in rows], [name for _, name in rows], Settings(draws=100))

    assert numbers(rows) == pytest.approx(numbers(rows[::-1]), nan_ok=True, abs=1e-6)


def test_the_definition_names_level_draws_and_seed():
    assert Settings(level=0.9, draws=500, seed=7).definition.startswith("90% percentile interval")
    assert "500 bootstrap draws of subjects" in Settings(draws=500).definition
