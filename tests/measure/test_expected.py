"""The expected Dice and its interval: against slow loops, by simulation, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.measure.expected import (
    LEAST,
    MANY,
    OWN_LINES,
    SHRINKAGE,
    Calibration,
    Expected,
    Held,
    as_of_one,
    line,
    rank,
    risk_curve,
    upper,
)


def drawn(seed: int, subjects: int, structures: int = 1, scans: int = 1, folds: int = 5) -> list[Held]:
    """Dice = 0.1 + 0.85 s with skewed noise, and one of ten far below."""
    rng = np.random.default_rng(seed)
    held = []
    for subject in range(subjects):
        for _ in range(scans):
            for structure in range(structures):
                s = float(rng.beta(8, 2))
                y = 0.1 + 0.85 * s - 0.03 * structure - float(rng.exponential(0.03)) - 0.2 * (rng.random() < 0.1)
                held.append(Held(f"p{subject}", (f"fold{subject % folds}",), f"c{structure}", s, min(max(y, 0.0), 1.0)))
    return held


def slow(held: Sequence[Held], structure: str, x: dict[str, float], level: float) -> Expected | None:
    """Straight from the formulas."""

    def fit(rows: Sequence[Held], own: bool) -> tuple[float, float]:
        mine = [row for row in rows if row.structure == structure]
        xy = xx = 0.0
        for name in {row.structure for row in rows}:
            if own and name != structure:
                continue
            group = [row for row in rows if row.structure == name]
            s0 = sum(row.agreement for row in group) / len(group)
            y0 = sum(row.dice for row in group) / len(group)
            for row in group:
                xy += (row.agreement - s0) * (row.dice - y0)
                xx += (row.agreement - s0) ** 2
        b = (xy + 2 * 0.02) / (xx + 2 * 0.02)
        a = sum(row.dice for row in mine) / len(mine) - b * sum(row.agreement for row in mine) / len(mine)
        return a, b

    people = {row.subject for row in held}
    own, many = len(people) >= 15, len(people) > 30
    known = sorted({row.subject for row in held if row.structure == structure})
    n = len(known)
    place = math.ceil(round(level * (n + 1), 9))
    if n < 5 or place > n:
        return None
    lows, highs = [], []
    for subject in known:
        mine = [row for row in held if row.subject == subject and row.structure == structure]
        others = [row for row in held if (row.runs != mine[0].runs if many else row.subject != subject)]
        a, b = fit(others, own)
        reach = max(abs(row.dice - a - b * row.agreement) for row in mine)
        middle = a + b * x[mine[0].runs[0]]
        lows.append(middle - reach)
        highs.append(middle + reach)
    a, b = fit(held, own)
    dice = min(max(a + b * sum(x.values()) / len(x), 0.0), 1.0)
    low, high = sorted(lows, reverse=True)[place - 1], sorted(highs)[place - 1]
    return Expected(dice, min(dice, max(low, 0.0)), max(dice, min(high, 1.0)))


@pytest.mark.parametrize("subjects", [4, 5, 8, OWN_LINES - 1, OWN_LINES, MANY, MANY + 1])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_are_those_of_a_slow_loop(subjects: int, level: float) -> None:
    held = drawn(subjects, subjects, structures=2, scans=2)
    x = {f"fold{k}": 0.7 + 0.03 * k for k in range(5)}
    found, wanted = Calibration(held, level).expected("c1", x), slow(held, "c1", x, level)
    assert (found is None) == (wanted is None) == (rank(level, subjects) > subjects or subjects < LEAST)
    if found is not None and wanted is not None:
        assert found == pytest.approx(wanted, abs=1e-9)


def test_the_order_of_scans_and_subjects_does_not_matter() -> None:
    held, x = drawn(3, 8, structures=2, scans=2), {f"fold{k}": 0.8 for k in range(5)}
    turned = Calibration(held[::-1], 0.8).expected("c0", x)
    assert turned == pytest.approx(Calibration(held, 0.8).expected("c0", x), abs=1e-12)


def test_a_scan_of_two_counts_once_and_by_its_larger_residual() -> None:
    held, x = drawn(4, 9), {f"fold{k}": 0.8 for k in range(5)}
    assert Calibration([*held, *held], 0.8).subjects == 9
    worse = [one._replace(dice=one.dice - 0.3) for one in held[:1]]
    one, two = (Calibration(rows, 0.9).expected("c0", x) for rows in (held, [*held, *worse]))
    assert one is not None
    assert two is not None
    assert two.high - two.low > one.high - one.low


@pytest.mark.parametrize(
    ("subjects", "level", "known"),
    [(4, 0.8, False), (5, 0.8, True), (8, 0.9, False), (9, 0.9, True), (18, 0.95, False), (19, 0.95, True)],
)
def test_nothing_is_said_of_too_few(subjects: int, level: float, known: bool) -> None:
    calibration = Calibration(drawn(0, subjects), level)
    assert (calibration.expected("c0", {f"fold{k}": 0.8 for k in range(5)}) is not None) == known


def test_scans_without_a_dice_are_left_out() -> None:
    held = drawn(1, 5)
    gone = [one._replace(dice=math.nan) if one.subject == "p0" else one for one in held]
    calibration = Calibration(gone, 0.8)
    assert calibration.subjects == 4
    assert calibration.expected("c0", {f"fold{k}": 0.8 for k in range(5)}) is None


def test_without_a_subject_is_as_if_it_had_never_been() -> None:
    held, x = drawn(2, 7), {f"fold{k}": 0.8 for k in range(5)}
    others = [one for one in held if one.subject != "p3"]
    assert Calibration(held, 0.8).without("p3").expected("c0", x) == Calibration(others, 0.8).expected("c0", x)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_slope_lies_between_that_of_least_squares_and_one(points: list[tuple[float, float]]) -> None:
    held = [Held(f"p{i}", ("a",), "c", s, y) for i, (s, y) in enumerate(points)]
    found = line(held, own=True)
    s, y = np.array(points).T
    assert found.at("c", float(s.mean())) == pytest.approx(y.mean())
    xx = float(((s - s.mean()) ** 2).sum())
    if xx < 1e-12:
        assert found.slope["c"] == pytest.approx(1, abs=1e-5)
    else:
        slope = float(((s - s.mean()) * (y - y.mean())).sum()) / xx
        assert min(slope, 1) - 1e-9 <= found.slope["c"] <= max(slope, 1) + 1e-9
        assert found.slope["c"] == pytest.approx((slope * xx + SHRINKAGE) / (xx + SHRINKAGE))


def test_quantiles_at_the_limits() -> None:
    values = np.array([3.0, 1.0, 2.0, 4.0])
    assert upper(values, 0.8) == 4  # ceil(0.8 x 5) = 4, which float arithmetic must not make 5
    assert upper(values, 0.9) == math.inf
    assert [rank(0.9, n) for n in (8, 9)] == [9, 9]


@pytest.mark.parametrize(("subjects", "level"), [(6, 0.8), (10, 0.8), (10, 0.9), (20, 0.9), (40, 0.9)])
def test_intervals_hold_what_they_promise_on_average(subjects: int, level: float) -> None:
    held = 0
    runs = 300
    for seed in range(runs):
        *known, new = drawn(1000 + seed, subjects + 1)
        found = Calibration(known, level).expected("c0", {f"fold{k}": new.agreement for k in range(5)})
        assert found is not None
        held += found.low <= new.dice <= found.high
    # Three standard errors of 300 runs are 0.07 and 0.05; jackknife+ rounds up, so that few subjects hold more.
    assert level - (0.07 if level == 0.8 else 0.05) <= held / runs <= 0.97


def test_risk_over_coverage() -> None:
    risk = [0.1, 0.4, 0.2, 0.3]
    means = [0.1, 0.15, 0.2, 0.25]
    assert risk_curve([-r for r in risk], risk) == pytest.approx(np.mean(means))
    assert risk_curve([1, 1, 1, 1], risk) == pytest.approx(np.mean([0.1, 0.25, 0.7 / 3, 0.25]))
    everyone = [[risk[i] for i in order] for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1])]
    assert np.mean([risk_curve([4, 3, 2, 1], one) for one in everyone]) == pytest.approx(np.mean(risk))


def test_an_ensemble_is_judged_as_one_network_half_way_between() -> None:
    assert as_of_one({"a": 0.7, "b": 0.8}, 0.85) == pytest.approx({"a": 0.75, "b": 0.85})
    assert as_of_one({"a": 0.7, "b": 0.8}, None) == {"a": 0.7, "b": 0.8}
    assert as_of_one({"a": 0.7}, 0.7) == {"a": 0.7}, "one network is its own ensemble"
