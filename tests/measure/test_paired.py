"""Differences of methods: what is certain from theory, what simulations with a known truth say, and the sentences."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from how_many import examples
from lemis.errors import UsageError
from lemis.measure.paired import (
    DEFINITION,
    Case,
    Comparison,
    Difference,
    Settings,
    compare,
    difference,
    holm,
    read,
    reliable,
    verdict,
)

FAST = Settings(draws=499)


def names(count: int) -> list[str]:
    return [f"s{k}" for k in range(count)]


def drawn(
    rng: np.random.Generator, subjects: int, seeds: int, *, between: float, training: float = 0.0, cell: float = 0.0
) -> np.ndarray:
    """(subjects, seeds, 2 scans)"""
    return (
        between * rng.standard_normal((subjects, 1, 1))
        + training * rng.standard_normal((1, seeds, 1))
        + cell * rng.standard_normal((subjects, seeds, 1))
        + 0.01 * rng.standard_normal((subjects, seeds, 2))
    )


def judged(values: np.ndarray, settings: Settings = FAST) -> Difference:
    subject, seed, _ = (index.ravel() for index in np.indices(values.shape))
    return difference(values.ravel(), np.zeros(values.size), subject.astype(str), seed.tolist(), settings)


def at_most(share: float, runs: int) -> float:
    """What a share of exactly this is exceeded by in one of a thousand simulations."""
    return float(stats.binom.ppf(0.999, runs, share)) / runs


# ---- theory


def test_one_scan_a_subject_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.8, 0.05, 25), rng.normal(0.78, 0.05, 25)
    found, known = difference(ours, theirs, names(25)), stats.ttest_rel(ours, theirs)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert (found.subjects, found.scans, found.seeds, found.left_out) == (25, 25, 1, 0)


def test_few_subjects_are_flipped_in_every_way():
    values = np.random.default_rng(1).normal(0.02, 0.04, 9)
    known = stats.permutation_test((values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf)
    assert difference(values, np.zeros(9), names(9)).p == pytest.approx(known.pvalue)


def test_drawn_flips_agree_with_all_of_them():
    values = np.random.default_rng(4).normal(0.015, 0.04, 16)
    signs = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    exact = (np.abs((2 * signs - 1) @ values) >= abs(values.sum()) - 1e-12).mean()
    assert difference(values, np.zeros(16), names(16)).p == pytest.approx(exact, abs=0.01)


def test_five_subjects_cannot_be_significant():
    assert difference([0.1, 0.2, 0.3, 0.4, 0.5], np.zeros(5), names(5)).p == 2 / 2**5


def test_the_mean_is_over_scans_and_copies_of_a_scan_do_not_narrow_it():
    assert difference([1.0, 1.0, 4.0], np.zeros(3), ["a", "a", "b"]).mean == 2.0
    values = np.random.default_rng(2).normal(0.01, 0.04, 12)
    once = difference(values, np.zeros(12), names(12))
    often = difference(np.tile(values, 5), np.zeros(60), names(12) * 5)
    assert (often.low, often.high, often.p) == pytest.approx((once.low, once.high, once.p))


def test_seeds_that_agree_change_nothing_and_seeds_that_differ_widen():
    values = np.random.default_rng(3).normal(0.03, 0.03, (20, 1, 2))
    same, apart = np.repeat(values, 3, axis=1), values + np.array([-0.03, 0.0, 0.03])[:, None]
    one, three, wide = judged(values), judged(same), judged(apart)
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert (three.seeds, three.scans, three.subjects) == (3, 40, 20)
    assert wide.high - wide.low > 3 * (one.high - one.low)
    assert one.p < 0.01 < 0.05 < wide.p


def test_the_p_value_of_seeds_belongs_to_the_interval():
    for shift in (0.0, 0.01, 0.02, 0.05, 0.08):
        values = drawn(np.random.default_rng(6), 30, 3, between=0.04, training=0.01, cell=0.02)
        found = judged(values + shift)
        assert found.p >= 0.05 or not found.low <= 0 <= found.high


def test_the_stretched_bootstrap_is_as_wide_and_keeps_the_skew():
    values = np.random.default_rng(0).exponential(0.05, 18)
    t, boot = (
        difference(values, np.zeros(18), names(18), settings=Settings(interval=way)) for way in ("t", "bootstrap")
    )
    assert boot.high - boot.low == pytest.approx(t.high - t.low, rel=0.1)
    assert boot.high - boot.mean > 1.1 * (boot.mean - boot.low)
    assert judged(drawn(np.random.default_rng(0), 20, 3, between=0.04), Settings(interval="bootstrap")).low < 0


def test_wilcoxon_is_of_subjects():
    values = np.random.default_rng(5).normal(0.02, 0.04, 12)
    found = difference(np.repeat(values, 2), np.zeros(24), np.repeat(names(12), 2), settings=Settings(test="wilcoxon"))
    assert found.p == pytest.approx(stats.wilcoxon(values).pvalue)
    assert difference(np.zeros(8), np.zeros(8), names(8), settings=Settings(test="wilcoxon")).p == 1


# ---- degenerate


def test_not_scored_pairs_are_left_out_and_counted():
    found = difference([1.0, math.nan, 3.0, 4.0], [0.0, 0.0, math.nan, 0.0], names(4))
    assert (found.mean, found.subjects, found.left_out) == (2.5, 2, 2)


def test_nothing_scored_and_one_subject():
    nothing = difference([math.nan], [1.0], ["a"])
    assert math.isnan(nothing.mean)
    assert (nothing.subjects, nothing.scans, nothing.left_out) == (0, 0, 1)
    one = difference([1.0, 2.0], [0.0, 0.0], ["a", "a"])
    assert one.mean == 1.5
    assert all(math.isnan(number) for number in (one.low, one.high, one.p))
    assert not reliable(one)


@pytest.mark.parametrize("seeds", [1, 2])
def test_equal_methods_and_equal_differences(seeds: int):
    zero, equal = judged(np.zeros((8, seeds, 2))), judged(np.full((8, seeds, 2), 0.25))
    assert (zero.mean, zero.low, zero.high, zero.p) == (0, 0, 0, 1)
    assert (equal.mean, equal.low, equal.high) == (0.25, 0.25, 0.25)
    assert equal.p == pytest.approx(2 / 2**8)
    assert reliable(equal)
    assert not reliable(zero)


# ---- properties

P = st.lists(st.floats(0, 1), min_size=1, max_size=8)
ROWS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcdefg"), st.integers(0, 2)), min_size=2, max_size=25
)


@given(P)
def test_holm_is_monotone_and_never_below_p(p: list[float]):
    found = holm(p)
    assert all(high >= low and high <= 1 for high, low in zip(found, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= 0)
    assert holm([*p, math.nan])[:-1] == found


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert math.isnan(holm([math.nan])[0])


@examples(40)
@given(ROWS, st.randoms(use_true_random=False))
def test_turning_round_reordering_and_renaming(rows, random):
    def numbers(rows, turn: int = 1) -> tuple[float, ...]:
        ours, theirs, subjects, seeds = zip(*rows, strict=True)
        found = difference(ours, theirs, subjects, seeds, Settings(draws=100))
        low, high = (found.low, found.high) if turn == 1 else (-found.high, -found.low)
        return (turn * found.mean, low, high, found.p, found.subjects, found.seeds)

    straight = numbers(rows)
    # The variance of a difference that is the same everywhere is rounding, and so is the interval's width then.
    close = {"nan_ok": True, "abs": 1e-6}
    assert numbers([(b, a, *rest) for a, b, *rest in rows], -1) == pytest.approx(straight, **close)
    shuffled = random.sample(rows, len(rows))
    assert numbers(shuffled) == pytest.approx(straight, **close)
    assert numbers([(a, b, f"_{s}", 7 - k) for a, b, s, k in shuffled]) == pytest.approx(straight, **close)


# ---- simulations with a known truth


def cases_of_equals(rng: np.random.Generator, rows: int, subjects: int, seeds: int, training: float) -> list[Case]:
    hard = 0.75 + 0.08 * rng.standard_normal((subjects, 1, 1))
    values = [hard + drawn(rng, subjects, seeds, between=0.03, training=training, cell=training) for _ in range(rows)]
    return [
        Case(f"row {row}", 2, seed, f"s{subject}", f"s{subject}_{scan}", float(value))
        for row, of in enumerate(values)
        for (subject, seed, scan), value in np.ndenumerate(of)
    ]


@pytest.mark.parametrize(("seeds", "training"), [(1, 0.0), (3, 0.01)])
def test_identical_methods_are_rarely_called_different(seeds: int, training: float):
    rng, runs, alarms = np.random.default_rng(11), 500, 0
    for _ in range(runs):
        found = compare(cases_of_equals(rng, 4, 20, seeds, training), baseline="row 0", settings=FAST)
        alarms += any(reliable(one.difference, FAST) for one in found)
    assert alarms / runs <= at_most(0.05, runs)
    assert alarms / runs <= 0.05  # this seed; the line above is what any seed must keep


@pytest.mark.parametrize("subjects", [20, 100])
def test_a_gain_of_three_points_is_found(subjects: int):
    rng, runs = np.random.default_rng(12), 200
    found = [judged(0.03 + drawn(rng, subjects, 1, between=0.042)) for _ in range(runs)]
    assert sum(reliable(one) and one.mean > 0 for one in found) / runs >= 0.8


@pytest.mark.parametrize(("subjects", "seeds", "training"), [(10, 1, 0.0), (40, 1, 0.0), (20, 3, 0.01), (40, 5, 0.03)])
def test_intervals_cover(subjects: int, seeds: int, training: float):
    rng, runs, cover = np.random.default_rng(13), 800, Settings(draws=100)
    values = (drawn(rng, subjects, seeds, between=0.045, training=training, cell=training) for _ in range(runs))
    missed = sum(not one.low <= 0 <= one.high for one in (judged(value, cover) for value in values)) / runs
    tolerance = at_most(0.05, runs) - 0.05
    assert missed <= 0.05 + tolerance
    if seeds == 1:  # with seeds the interval may be wider than it says, not narrower
        assert missed >= 0.05 - tolerance


# ---- a whole comparison


def case(row: str, labelled: int, subject: int, value: float, **more) -> Case:
    return Case(row, labelled, more.pop("seed", 0), f"s{subject}", f"s{subject}_ED", value, **more)


def test_pairs_are_of_the_same_seed_scan_and_structure():
    rng = np.random.default_rng(0)
    cases = [
        case(row, m, k, float(rng.random()), structure=s, seed=r)
        for row in ("scratch", "sal", "pcl") for m in (6, 2) for k in range(8) for s in ("LV", "MYO") for r in (0, 1)
    ]  # fmt: skip
    found = compare(cases, baseline="scratch")
    assert [(one.row, one.labelled) for one in found] == [("sal", 2), ("sal", 6), ("pcl", 2), ("pcl", 6)]
    assert all((d.subjects, d.scans, d.seeds, d.left_out) == (8, 8, 2, 0) for *_, d, _, _ in found)
    assert found == compare(cases[::-1], baseline="scratch")[2:] + compare(cases[::-1], baseline="scratch")[:2]
    by_hand = np.mean([c.value for c in cases if c[:2] == ("sal", 2)]) - np.mean(
        [c.value for c in cases if c[:2] == ("scratch", 2)]
    )
    assert found[0].difference.mean == pytest.approx(by_hand)
    at_two = [one.difference for one in found if one.labelled == 2]
    assert [one.p_adjusted for one in at_two] == holm([one.p for one in at_two])
    fewer = [c for c in cases if c[:3] != ("scratch", 2, 1)]
    missing = compare(fewer, baseline="scratch")[0].difference
    assert (missing.seeds, missing.left_out) == (1, 16)


def test_a_row_whose_baseline_is_missing_has_no_number():
    cases = [case("scratch", 2, k, 0.5) for k in range(7)] + [case("sal", 6, k, 0.6) for k in range(7)]
    (found,) = compare(cases, baseline="scratch")
    assert math.isnan(found.difference.mean)
    assert math.isnan(found.difference.p_adjusted)
    assert (
        verdict([found], row="sal")
        == "sal against scratch: cannot say at 6 labelled subjects (0 test subjects, 6 are needed)"
    )


def test_folds_that_disagree_are_seen():
    rng = np.random.default_rng(8)
    shift = {0: 0.06, 1: -0.06, 2: 0.0}
    cases = []
    for k in range(30):
        for row, gain in (("scratch", 0.0), ("kaf", shift[k % 3]), ("pcl", 0.0)):
            cases.append(case(row, 2, k, 0.7 + gain + 0.02 * float(rng.standard_normal()), fold=str(k % 3)))
    kaf, pcl = compare(cases, baseline="scratch")
    assert kaf.folds_p < 1e-6 < 0.01 < pcl.folds_p
    assert verdict([kaf, pcl], row="kaf").endswith("; the folds at 2 disagree by more than their subjects explain")
    assert "folds" not in verdict([kaf, pcl], row="pcl")
    assert math.isnan(compare([c._replace(fold="0") for c in cases], baseline="scratch")[0].folds_p)


def test_bad_cases_are_refused():
    with pytest.raises(UsageError, match="baseline 'scrach'"):
        compare([case("scratch", 2, 0, 0.5)], baseline="scrach")
    with pytest.raises(UsageError, match="two values for row 'sal', 2 labelled, seed 0, scan s1_ED"):
        compare([case("sal", 2, 1, 0.5), case("sal", 2, 1, 0.6)], baseline="sal")


def test_reading_cases(tmp_path: Path):
    path = tmp_path / "cases.csv"
    columns = "row,labelled,fold,seed,subject,scan,structure,dice,hd95_mm,assd_mm,status,cell\n"
    lines = [
        ["sal, 2", 2, 0, 1, "s1", "s1_ED", "LV", 0.5, "", "", "scored", "ab"],
        ["sal, 2", 2, 0, 1, "s1", "s1_ED", "MYO", "", "", "", "absent", "ab"],
        ["sal, 2", 2, 0, 1, "s1", "s1_ED", "mean", 0.5, "", "", "scored", "ab"],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(columns)
        csv.writer(file).writerows(lines)
    first, second = read(path)
    assert first == Case("sal, 2", 2, 1, "s1", "s1_ED", 0.5, "LV", "0")
    assert math.isnan(second.value)
    assert [one.structure for one in read(path, structure="LV")] == ["LV"]
    with pytest.raises(UsageError, match="metric 'nsd'"):
        read(path, metric="nsd")
    with pytest.raises(UsageError, match="structure 'RV'"):
        read(path, structure="RV")


# ---- sentences


def made(labelled: int, mean: float, half: float = 0.02, subjects: int = 20) -> Comparison:
    p = 0.001 if abs(mean) > half else 0.4
    return Comparison("sal", labelled, Difference(mean, mean - half, mean + half, p, p, subjects, 40, 1), "scratch")


@pytest.mark.parametrize(
    ("comparisons", "sentence"),
    [
        (
            [made(10, 0.01), made(2, 0.041, 0.022)],
            "SAL gains 4.1 [1.9, 6.3] Dice points over scratch at 2 labelled subjects; no reliable gain at 10",
        ),
        (
            [made(2, 0.05), made(6, 0.04), made(8, 0.03)],
            "SAL gains 5.0 [3.0, 7.0] Dice points over scratch at 2 labelled subjects, 4.0 [2.0, 6.0] at 6 and "
            "3.0 [1.0, 5.0] at 8",
        ),
        (
            [made(1, -0.05), made(6, 0.0), made(8, -0.01)],
            "SAL loses 5.0 [3.0, 7.0] Dice points against scratch at 1 labelled subject; no reliable gain at 6 and 8",
        ),
        (
            [made(2, -0.05), made(6, 0.03)],
            "SAL gains 3.0 [1.0, 5.0] Dice points over scratch at 6 labelled subjects; loses 5.0 [3.0, 7.0] at 2",
        ),
        ([made(1, 0.0)], "SAL has no reliable gain over scratch at 1 labelled subject"),
        ([made(2, 0.0), made(6, 0.01)], "SAL has no reliable gain over scratch at 2 and 6 labelled subjects"),
        (
            [made(2, 0.05, subjects=5)],
            "SAL against scratch: cannot say at 2 labelled subjects (5 test subjects, 6 are needed)",
        ),
        (
            [made(2, 0.05), made(6, 0.05, subjects=1)],
            "SAL gains 5.0 [3.0, 7.0] Dice points over scratch at 2 labelled subjects; cannot say at 6 "
            "(1 test subject, 6 are needed)",
        ),
    ],
)
def test_verdicts(comparisons: list[Comparison], sentence: str):
    assert verdict(comparisons, row="sal", names={"sal": "SAL"}) == sentence


def test_a_verdict_needs_a_comparison_and_takes_a_unit():
    with pytest.raises(UsageError, match="row 'scratch'"):
        verdict([made(2, 0.1)], row="scratch")
    assert "0.05 [" not in verdict([made(2, 0.05)], row="sal")
    assert verdict([made(2, 5.0)], row="sal", unit="points of NSD", scale=1).startswith(
        "sal gains 5.0 [5.0, 5.0] points"
    )


def test_the_definition_says_what_one_seed_cannot():
    assert "with one seed, they hold for new subjects segmented by these very networks" in DEFINITION
    assert "0.05" in DEFINITION
    assert Settings().level == 0.95
    assert Settings().least_subjects == 6


def test_no_difference_is_larger_than_it_can_be():
    dice = {"scratch": (0.9, 0.1, 0.9), "sal": (0.1, 0.9, 0.9)}
    cases = [Case(row, 2, 0, f"p{n}", f"p{n}", value) for row, found in dice.items() for n, value in enumerate(found)]
    (free,) = compare(cases, baseline="scratch")
    (found,) = compare(cases, baseline="scratch", within=(-1, 1))
    assert (free.difference.low < -1, free.difference.high > 1) == (True, True)
    assert (found.difference.low, found.difference.high) == (-1, 1)
