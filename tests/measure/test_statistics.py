"""Intervals: they cover, also with few subjects, and they know subjects from scans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lemis.measure import paired
from lemis.measure.statistics import Settings, estimate, known_mean


def test_mean_median_and_population_std():
    found = estimate([1.0, 2.0, 6.0], ["a", "b", "c"])
    assert (found.mean, found.median, found.scans, found.subjects) == (3.0, 2.0, 3, 3)
    assert found.std == pytest.approx(np.std([1, 2, 6], ddof=0))
    assert found.low <= found.mean <= found.high


def test_one_scan_a_subject_is_the_t_interval_of_textbooks():
    values = np.random.default_rng(3).normal(size=9)
    found = estimate(values, list("abcdefghi"), Settings(level=0.9))
    wanted = stats.t.interval(0.9, 8, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted)


def test_two_subjects_say_next_to_nothing():
    found = estimate([0.8, 0.9], ["a", "b"], within=(0, 1))
    assert (found.low, found.high) == pytest.approx((0.85 - 12.706 * 0.05, 1.0), abs=1e-3)


def test_the_interval_ends_where_values_do():
    found = estimate([0.0, 0.0, 0.3], ["a", "b", "c"], within=(0, 1))
    assert found.low == 0
    assert estimate([0.0, 0.0, 0.3], ["a", "b", "c"]).low < 0


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


@pytest.mark.parametrize("subjects", [3, 6, 20])
def test_covers_the_truth_as_often_as_it_says(subjects: int):
    rng, runs = np.random.default_rng(5), 800
    names = [str(k // 2) for k in range(2 * subjects)]
    hits = 0
    for _ in range(runs):
        scans = np.repeat(rng.normal(size=subjects), 2) + 0.5 * rng.normal(size=2 * subjects)
        found = estimate(scans, names)
        hits += found.low <= 0 <= found.high
    assert hits / runs == pytest.approx(0.95, abs=0.025)  # three standard errors


def test_the_interval_of_a_difference_is_that_of_paired():
    rng = np.random.default_rng(2)
    ours, theirs, names = rng.normal(size=30), rng.normal(size=30), [str(k // 3) for k in range(30)]
    found = paired.difference(ours, theirs, names)
    assert estimate(ours - theirs, names)[:3] == pytest.approx(found[:3])


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_order_of_scans_does_not_matter(rows: list[tuple[float, str]]):
    def numbers(rows: list[tuple[float, str]]) -> tuple[float, ...]:
        return estimate([value for value, _ in rows], [name for _, name in rows])

    assert numbers(rows) == pytest.approx(numbers(rows[::-1]), nan_ok=True, abs=1e-6)


def test_the_definition_names_the_level():
    assert Settings(level=0.9).definition.startswith("90 % confidence interval of the mean over scans (t")


def test_a_mean_leaves_out_what_does_not_exist():
    assert known_mean([1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(known_mean([math.nan]))
