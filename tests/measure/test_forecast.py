"""Forecasts: a known curve is found again, intervals hold what is measured later, and silence where nobody knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import UsageError
from lemis.measure.forecast import Forecast, Settings, fit

Values = dict[int, dict[str, float]]


def scores(
    means: dict[int, float], *, subjects: int = 20, hard: float = 0.06, own: float = 0.0, seed: int = 0
) -> Values:
    """Subjects who are hard at every M, with their mean exactly as wanted where ``own`` is 0."""
    rng = np.random.default_rng(seed)
    common = hard * rng.standard_normal(subjects)
    common -= common.mean()
    return {
        m: {f"s{k}": float(v) for k, v in enumerate(np.clip(mean + common + own * rng.standard_normal(subjects), 0, 1))}
        for m, mean in means.items()
    }


def curve(ceiling: float, gap: float, decay: float, *labelled: int) -> dict[int, float]:
    return {m: ceiling - gap * (m / labelled[0]) ** -decay for m in labelled}


EXACT = Settings(training_std=0.001)


@pytest.mark.parametrize(("ceiling", "gap", "decay"), [(0.85, 0.3, 1.0), (0.7, 0.4, 1.5), (0.9, 0.35, 0.6)])
def test_an_exact_power_law_is_found_again(ceiling: float, gap: float, decay: float):
    known = curve(ceiling, gap, decay, 2, 4, 8, 16, 32, 128)
    found = fit(scores({m: known[m] for m in (2, 4, 8, 16, 32)}, hard=0.001), EXACT)
    assert found.predict(128).mean == pytest.approx(known[128], abs=0.005)
    assert found.limit().mean == pytest.approx(ceiling, abs=0.015)
    target = known[16]
    assert found.needed(target).best == pytest.approx(16, abs=1)


def test_subjects_that_are_hard_everywhere_say_nothing_about_the_rise():
    means = curve(0.85, 0.3, 1.0, 2, 4, 8)
    alike, apart = fit(scores(means, hard=0.1)), fit(scores(means, hard=0.0, own=0.1))
    assert not alike.reason
    wide = alike.needed(0.7)
    assert wide.low <= 4 <= wide.high
    assert fit(scores({m: 0.6 + 0.01 * m for m in (2, 4, 6)}, hard=0.0, own=0.2)).reason
    assert apart.predict(8).high - apart.predict(8).low > 0.02


def test_more_points_and_more_subjects_narrow_it():
    means = curve(0.88, 0.3, 0.9, 2, 4, 8, 16)
    few = fit(scores({m: means[m] for m in (2, 4, 8)}))
    more = fit(scores(means))
    many = fit(scores({m: means[m] for m in (2, 4, 8)}, subjects=200))

    def width(found: Forecast) -> float:
        return found.predict(32).high - found.predict(32).low

    assert width(more) < 0.8 * width(few)
    assert width(many) < 0.97 * width(few)  # not by much: training anew and the curve itself are uncertain too


def test_it_is_wider_the_farther_it_goes():
    found = fit(scores(curve(0.88, 0.3, 0.9, 2, 4, 8)))
    widths = [found.predict(m).high - found.predict(m).low for m in (8, 16, 32, 64)]
    assert widths == sorted(widths)


@pytest.mark.parametrize(("ceiling", "gap", "decay"), [(0.9, 0.3, 0.8), (0.9, 0.2, 0.4), (0.85, 0.35, 1.5)])
def test_what_is_measured_later_lies_in_the_interval(ceiling: float, gap: float, decay: float):
    rng, runs, inside = np.random.default_rng(3), 60, {16: 0, 32: 0}
    means = curve(ceiling, gap, decay, 2, 4, 8, 16, 32)
    for run in range(runs):
        trained = {m: mean + 0.01 * float(rng.standard_normal()) for m, mean in means.items()}
        values = scores(trained, subjects=30, own=0.04, seed=run)
        found = fit({m: values[m] for m in (2, 4, 8)}, Settings(draws=1000))
        for m in inside:
            inside[m] += found.predict(m).low <= np.mean(list(values[m].values())) <= found.predict(m).high
    assert min(inside.values()) >= 52  # of 60 at 95 %: fewer happen in one of 200 simulations
    widest = found.predict(32)
    assert widest.high - widest.low < 0.2  # and the interval says something


def test_how_many_are_needed_rises_with_the_target_and_agrees_with_the_curve():
    found = fit(scores(curve(0.9, 0.4, 1.0, 2, 4, 8, 16)))
    answers = [found.needed(target) for target in (0.6, 0.7, 0.8, 0.83)]
    assert not any(answer.reason for answer in answers)
    assert [answer.best for answer in answers] == sorted(answer.best for answer in answers)
    assert all(answer.low <= answer.best <= answer.high for answer in answers)
    assert answers[2].low <= 8 <= answers[2].high
    assert found.predict(answers[2].best).mean == pytest.approx(0.8, abs=0.02)


def test_sentences():
    found = fit(scores(curve(0.9, 0.4, 1.0, 2, 4, 8, 16, 32), hard=0.001), EXACT)
    assert found.sentence(0.8) == "A mean Dice of 0.8 takes about 8 labelled subjects [8, 8]"
    assert found.sentence(0.4) == "A mean Dice of 0.4 is reached with 2 labelled subjects or fewer"
    loose = fit(scores(curve(0.9, 0.3, 0.9, 2, 4, 8)))
    assert loose.sentence(0.86).startswith("A mean Dice of 0.86 takes about ")
    assert loose.sentence(0.86).endswith("; the upper end lies beyond 80)")
    assert math.isinf(loose.needed(0.86).high)


@pytest.mark.parametrize(
    ("values", "target", "reason"),
    [
        (scores({2: 0.5, 8: 0.8}), 0.85, "a curve needs 3 different numbers of labelled subjects, there are 2"),
        ({}, 0.85, "there are 0"),
        (scores(curve(0.9, 0.4, 1, 2, 4, 8), subjects=5), 0.8, "5 test subjects at 2, 6 are needed"),
        (scores({2: 0.7, 4: 0.7, 8: 0.7}), 0.8, "Dice does not rise reliably"),
        (scores({2: 0.8, 4: 0.7, 8: 0.6}), 0.85, "Dice does not rise reliably"),
        (scores(curve(0.8, 0.4, 1.2, 2, 4, 8, 16)), 0.95, "it may never be reached: the ceiling is 0.8"),
        (scores(curve(1.0, 0.4, 0.2, 2, 4, 8, 16)), 0.8, "more than 10 times the 16 that were measured"),
    ],
)
def test_it_cannot_say(values: Values, target: float, reason: str):
    found = fit(values)
    answer = found.needed(target)
    assert reason in answer.reason
    assert all(math.isnan(number) for number in answer[:3])
    assert f"a mean Dice of {target:g} takes: cannot say (" in found.sentence(target)


def test_without_a_curve_there_is_no_prediction():
    assert all(math.isnan(number) for number in fit({}).predict(4))
    two = fit(scores({2: 0.5, 8: 0.8}))
    assert all(math.isnan(number) for number in (*two.predict(16), *two.limit()))
    assert two.means == pytest.approx((0.5, 0.8))


def test_flat_scores_still_have_a_band():
    found = fit(scores({2: 0.7, 4: 0.7, 8: 0.7}))
    assert found.predict(16).low < 0.7 < found.predict(16).high


def test_scores_that_are_not_there_are_left_out():
    values = scores(curve(0.9, 0.3, 1.0, 2, 4, 8))
    holes = {m: {**of, "s99": math.nan} for m, of in values.items()} | {16: {"s0": math.nan}}
    assert fit(holes).predict(16) == fit(values).predict(16)
    gaps = {m: {s: v for k, (s, v) in enumerate(of.items()) if k % 3 or m != 4} for m, of in values.items()}
    assert not fit(gaps).reason


def test_scores_that_are_no_dice_are_refused():
    with pytest.raises(UsageError, match="85 of s0 at 4 labelled subjects"):
        fit({2: {"s0": 0.5}, 4: {"s0": 85.0}})
    with pytest.raises(UsageError, match="scores at 0 labelled subjects"):
        fit({0: {"s0": 0.5}})


@examples(15)
@given(
    st.lists(st.integers(1, 80), min_size=3, max_size=5, unique=True),
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=6, max_size=9),
)
def test_whatever_was_measured_predictions_are_dice(labelled: list[int], table: list[list[float]]):
    values = {m: {f"s{k}": row[place] for k, row in enumerate(table)} for place, m in enumerate(labelled)}
    found, turned = (fit(of, Settings(draws=200)) for of in (values, dict(reversed(values.items()))))
    for m in (1, 10, 1000):
        mean, low, high = found.predict(m)
        assert 0 <= low <= high <= 1
        assert 0 <= mean <= 1
    assert found.predict(50) == turned.predict(50)
    answer = found.needed(0.9)
    assert answer.reason or answer.low <= answer.best <= answer.high
