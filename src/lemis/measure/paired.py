"""Is a method better than another on the same scans: paired differences, with subjects as the unit.

A difference ``d = ours - theirs`` belongs to a scan (and structure) and, where training was repeated, to a seed. Scans
of a subject are alike, and so are all scans of a seed, whose network they share; neither are independent observations.

Estimand: the mean of d over scans, each as heavy as any other, so that a subject with two scans weighs twice as much as
one with a single scan (as ``statistics.estimate``).

Interval: that of ``statistics``, t with the variance of subjects. With several seeds the variance is clustered both
ways (Cameron, Gelbach and Miller, J Bus Econ Stat 29, 2011: subjects + seeds - cells), and the squared quantile is that
of t for subjects and that of t for seeds, each weighed by its share of the variance (as Cochran weighs them:
Satterthwaite's degrees of freedom give too many false alarms with 3 seeds). It then speaks of new subjects *and* of
networks trained anew; with one seed, of new subjects and the networks as they are.

One seed is little: where trainings differ by 1 Dice point, one of five methods equal to the baseline was called
different in 18 % of comparisons with 20 subjects and in 65 % with 100; with three seeds in 1 and 2 %. Without such
noise: 4 and 5 %.

Test: signs of whole subjects are flipped, all 2^n patterns where these are few. With several seeds the p-value is not
smaller than that of the t test which belongs to the interval: flipped subjects know nothing of seeds.

Multiplicity: Holm over the methods that meet the baseline at one number of labelled subjects. Not over the numbers of
labelled subjects: each is a question of its own, and the answers to neighbouring ones are nearly the same.

Folds: a subject is tested in one fold, so pooled subjects are distinct; but the training sets of folds overlap, and no
unbiased estimate of the variance that this adds exists (Bengio and Grandvalet, JMLR 5, 2004). It is a caveat, not a
correction. Where the folds' differences are farther apart than their subjects explain, ``folds_p`` is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy import optimize, special, stats

from lemis.errors import UsageError
from lemis.measure.statistics import variance
from lemis.measure.tables import count
from lemis.records import each_row, read_table
from lemis.settings import Seed

Array = NDArray[np.float64]

_EXACT_UP_TO = 13  # subjects: 8192 patterns of signs, fewer than would be drawn
_SMALLEST_P = 1e-12
_FOLDS_DISAGREE = 0.01  # stricter than 0.05: it is asked of every method and number of labelled subjects


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How differences are judged."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95  # of intervals; 1 - level is the error of tests
    interval: Literal["t", "bootstrap"] = "t"  # covers as it says from 6 subjects; bootstrap: its skew, stretched to t
    test: Literal["sign_flips", "wilcoxon"] = "sign_flips"  # of means, as the interval; wilcoxon: of ranks
    draws: Annotated[int, Field(ge=100)] = 9999  # p-values of 0.05 move by 0.002 between seeds
    seed: Seed = 0
    least_subjects: Annotated[int, Field(ge=2)] = 6  # with 5 the smallest two-sided p of sign flips is 0.0625


DEFINITION = (
    "Intervals are 95 % confidence intervals of the mean difference over scans, by the t distribution, with subjects "
    "as the independent units. p is from a permutation test that flips the signs of whole subjects, with Holm's "
    "correction over the methods at each number of labelled subjects. With several seeds, both also take the seeds "
    "into account and hold for networks that are trained anew; with one seed, they hold for new subjects segmented by "
    "these very networks. Reliable: adjusted p below 0.05, an interval without 0, and at least 6 test subjects."
)


class Difference(NamedTuple):
    """A mean difference over scans; NaN where a number cannot be had (no pair, or the interval of one subject)."""

    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float  # equal to p until ``compare`` knows how many methods there are
    subjects: int
    scans: int
    seeds: int
    left_out: int = 0  # values without a scored partner


class Case(NamedTuple):
    """What a row scored on one scan, or on one structure of it."""

    row: str
    labelled: int
    seed: int
    subject: str
    scan: str
    value: float  # NaN: not scored
    structure: str = ""
    fold: str = ""


class Comparison(NamedTuple):
    """A row against the baseline, both with ``labelled`` subjects."""

    row: str
    labelled: int
    difference: Difference
    baseline: str
    folds_p: float = math.nan  # of one mean in all folds, by analysis of variance over subjects; NaN with one fold


def difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    subjects: Sequence[str],
    seeds: Sequence[int] | None = None,
    settings: Settings | None = None,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Difference:
    """Mean of ``ours - theirs`` with interval and p-value.

    Args:
        ours: (N,) one value per scan (and seed), paired with ``theirs``; NaN: not scored, left out and counted.
        theirs: (N,).
        subjects: (N,) whose scan it is.
        seeds: (N,) of which training; one seed by default.
        settings: Level, interval, test.
        within: Least and most that a difference can be; the interval ends there.
    """
    settings = settings or Settings()
    values = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    kept = ~np.isnan(values)
    left_out, values = int(kept.size - kept.sum()), values[kept]
    if not values.size:
        return Difference(math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0, 0, left_out)
    subject = np.unique(np.asarray(subjects, dtype=str)[kept], return_inverse=True)[1]
    seed = np.zeros_like(subject) if seeds is None else np.unique(np.asarray(seeds)[kept], return_inverse=True)[1]
    sums, sizes = _cells(values, subject, seed)
    mean = float(values.mean())
    low, high, p = _judged(sums, sizes, mean, settings) if len(sums) > 1 else (math.nan,) * 3
    scans = int(np.bincount(seed).max())
    low, high = (float(np.clip(end, *within)) for end in (low, high))
    return Difference(mean, low, high, p, p, len(sums), scans, sums.shape[1], left_out)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order. NaN stays NaN and is not counted as a test."""
    array = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(array))
    order = tested[np.argsort(array[tested], kind="stable")]
    adjusted = np.full(array.shape, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * np.arange(len(order), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def compare(
    cases: Sequence[Case],
    *,
    baseline: str,
    settings: Settings | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> list[Comparison]:
    """Every row against the baseline with as many labelled subjects, Holm over the rows at each number of these.

    Args:
        cases: Of all rows.
        baseline: Title of a row.
        settings: How differences are judged.
        within: Least and most that a difference can be; -1 and 1 of Dice.

    Returns:
        Rows as they come in ``cases``, each with its numbers of labelled subjects in order. Where there is no pair
        the mean is NaN.

    Raises:
        UsageError: The baseline has no case, or there are two values for the same thing.
    """
    settings = settings or Settings()
    groups = _grouped(cases)
    rows = list(dict.fromkeys(case.row for case in cases))
    if baseline not in rows:
        raise UsageError(
            f"baseline {baseline!r}",
            allowed=f"a row that has results: {', '.join(rows) or 'there are none'}",
            next="name another baseline, or wait for its cells",
        )
    found = [
        _compared(groups, row, labelled, baseline, settings, within)
        for row in rows
        if row != baseline
        for labelled in sorted({of for name, of in groups if name == row})
    ]
    for labelled in {one.labelled for one in found}:
        own = [k for k, one in enumerate(found) if one.labelled == labelled]
        for k, p in zip(own, holm([found[k].difference.p for k in own]), strict=True):
            found[k] = found[k]._replace(difference=found[k].difference._replace(p_adjusted=p))
    return found


_COLUMNS = ("row", "labelled", "fold", "seed", "subject", "scan", "structure")  # of ``cases.csv``


def read(path: Path, *, metric: str = "dice", structure: str | None = None) -> list[Case]:
    """The cases of a ``cases.csv``: one structure, or all (each scored structure of a scan is then one value).

    Raises:
        UsageError: There is no such column or structure.
    """
    again = "run the same `lemis compare` again: it writes the table anew and trains only what is missing"
    rows = read_table(path, _COLUMNS, next=again)
    if rows and metric not in rows[0]:
        raise UsageError(f"metric {metric!r}", allowed=f"a column of {path}: {', '.join(rows[0])}", next="metric dice")
    own = [row for row in rows if (row["structure"] == structure if structure else row["structure"] != "mean")]
    if rows and not own:
        there = ", ".join(sorted({row["structure"] for row in rows}))
        raise UsageError(f"structure {structure!r}", allowed=f"one in {path}: {there}", next="leave it out for all")
    return each_row(path, own, partial(_case, metric), next=again)


def _case(metric: str, row: Mapping[str, str]) -> Case:
    return Case(
        row["row"], int(row["labelled"]), int(row["seed"]), row["subject"], row["scan"],
        float(row[metric] or "nan"), row["structure"], row["fold"],
    )  # fmt: skip


def reliable(found: Difference, settings: Settings | None = None) -> bool:
    """Whether a difference may be called one: enough subjects, adjusted p below the error, 0 outside the interval."""
    settings = settings or Settings()
    return enough(found, settings) and found.p_adjusted < 1 - settings.level and not found.low <= 0 <= found.high


def enough(found: Difference, settings: Settings | None = None) -> bool:
    """Whether there are test subjects enough to say anything."""
    return found.subjects >= (settings or Settings()).least_subjects


def verdict(
    comparisons: Iterable[Comparison],
    *,
    row: str,
    names: Mapping[str, str] | None = None,
    unit: str = "Dice points",
    scale: float = 100.0,
    settings: Settings | None = None,
) -> str:
    """One sentence on a row over all numbers of labelled subjects, without a full stop.

    ``SAL gains 4.1 [1.9, 6.3] Dice points over scratch at 2 labelled subjects; no reliable gain at 10``

    Args:
        comparisons: Of ``compare``; those of other rows are left out.
        row: Which one.
        names: How rows are called, where not by their titles.
        unit: Of the printed differences; more is better.
        scale: From values to that unit (Dice 0 to 1: 100).
        settings: As in ``compare``.

    Raises:
        UsageError: There is no comparison of that row.
    """
    settings, names = settings or Settings(), names or {}
    own = sorted((one for one in comparisons if one.row == row), key=lambda one: one.labelled)
    if not own:
        raise UsageError(f"row {row!r}", allowed="a row that was compared", next="leave out the baseline")
    first = _Phrases(names.get(row, row), names.get(own[0].baseline, own[0].baseline), unit)
    clauses: list[str] = []
    for verb, better in (("gains", True), ("loses", False)):
        sure = [one for one in own if reliable(one.difference, settings) and (one.difference.mean > 0) == better]
        if sure:
            clauses.append(first.effects(verb, [(one.labelled, _interval(one.difference, scale)) for one in sure]))
    unsure = [
        one.labelled for one in own if not reliable(one.difference, settings) and enough(one.difference, settings)
    ]
    if unsure:
        clauses.append(first.nothing(unsure))
    for one in own:
        if not enough(one.difference, settings):
            clauses.append(first.too_few(one.labelled, one.difference.subjects, settings.least_subjects))
    apart = [str(one.labelled) for one in own if one.folds_p < _FOLDS_DISAGREE]
    if apart:
        clauses.append(f"the folds at {_list(apart)} disagree by more than their subjects explain")
    return "; ".join(clauses)


class _Phrases:
    """The clauses of one sentence: the first says who is compared with whom, and of what the numbers are."""

    def __init__(self, name: str, baseline: str, unit: str) -> None:
        self.name, self.baseline, self.unit, self.fresh = name, baseline, unit, True

    def _first(self) -> bool:
        fresh, self.fresh = self.fresh, False
        return fresh

    def effects(self, verb: str, at: Sequence[tuple[int, str]]) -> str:
        (labelled, interval), *more = at
        if self._first():
            to = "over" if verb == "gains" else "against"
            start = f"{self.name} {verb} {interval} {self.unit} {to} {self.baseline} at {_labelled([labelled])}"
        else:
            start = f"{verb} {interval} at {labelled}"
        return _list([start, *(f"{interval} at {labelled}" for labelled, interval in more)])

    def nothing(self, at: Sequence[int]) -> str:
        if self._first():
            return f"{self.name} has no reliable gain over {self.baseline} at {_labelled(at)}"
        return f"no reliable gain at {_list([str(labelled) for labelled in at])}"

    def too_few(self, labelled: int, subjects: int, needed: int) -> str:
        at = f"{self.name} against {self.baseline}: " if (fresh := self._first()) else ""
        number = _labelled([labelled]) if fresh else str(labelled)
        return f"{at}cannot say at {number} ({count(subjects, 'test subject')}, {needed} are needed)"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _labelled(numbers: Sequence[int]) -> str:
    noun = "labelled subject" if numbers[-1] == 1 else "labelled subjects"
    return f"{_list([str(number) for number in numbers])} {noun}"


def _interval(found: Difference, scale: float) -> str:
    # A loss is printed as a positive number, with its interval turned round.
    low, high = (found.low, found.high) if found.mean > 0 else (-found.high, -found.low)
    return f"{abs(found.mean) * scale:.1f} [{low * scale:.1f}, {high * scale:.1f}]"


def _grouped(cases: Sequence[Case]) -> dict[tuple[str, int], dict[tuple[int, str, str, str], Case]]:
    groups: dict[tuple[str, int], dict[tuple[int, str, str, str], Case]] = {}
    for case in cases:
        key = (case.seed, case.subject, case.scan, case.structure)
        if groups.setdefault((case.row, case.labelled), {}).setdefault(key, case) is not case:
            what = f"row {case.row!r}, {case.labelled} labelled, seed {case.seed}, scan {case.scan} {case.structure}"
            raise UsageError(
                f"two values for {what.rstrip()}",
                allowed="one value for each row, number of labelled subjects, seed, scan and structure",
                next="give each row its own title, and take each fold once",
            )
    return groups


def _compared(
    groups: Mapping[tuple[str, int], Mapping[Any, Case]],
    row: str,
    labelled: int,
    baseline: str,
    settings: Settings,
    within: tuple[float, float],
) -> Comparison:
    ours, theirs = groups[row, labelled], groups.get((baseline, labelled), {})
    # In order, so that the bits of a mean do not depend on which cell was finished first.
    pairs = sorted(key for key in ours.keys() & theirs if not math.isnan(ours[key].value - theirs[key].value))
    values = np.array([(ours[key].value, theirs[key].value) for key in pairs]).reshape(-1, 2)
    subjects = [key[1] for key in pairs]
    found = difference(values[:, 0], values[:, 1], subjects, [key[0] for key in pairs], settings, within=within)
    found = found._replace(
        scans=len({key[1:3] for key in pairs}), left_out=len(ours.keys() | theirs.keys()) - len(pairs)
    )
    folds_p = _folds_p(values[:, 0] - values[:, 1], subjects, [ours[key].fold for key in pairs])
    return Comparison(row, labelled, found, baseline, folds_p)


def _folds_p(values: Array, subjects: Sequence[str], folds: Sequence[str]) -> float:
    means: dict[str, dict[str, list[float]]] = {}
    for value, subject, fold in zip(values, subjects, folds, strict=True):
        means.setdefault(fold, {}).setdefault(subject, []).append(float(value))
    groups = [[sum(own) / len(own) for own in of.values()] for of in means.values() if len(of) > 1]
    if len(groups) < 2 or not any(np.ptp(group) for group in groups):
        return math.nan
    return float(stats.f_oneway(*groups).pvalue)


def _cells(values: Array, subject: NDArray[np.intp], seed: NDArray[np.intp]) -> tuple[Array, Array]:
    """Sums of d and their numbers, (subjects, seeds)."""
    shape = (int(subject.max()) + 1, int(seed.max()) + 1)
    cell = np.ravel_multi_index((subject, seed), shape)
    size = shape[0] * shape[1]
    sums: Array = np.bincount(cell, weights=values, minlength=size).reshape(shape).astype(np.float64)
    sizes: Array = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    return sums, sizes


def _judged(sums: Array, sizes: Array, mean: float, settings: Settings) -> tuple[float, float, float]:
    """Interval and p-value of the mean of cells."""
    error = _error((sums - mean * sizes) / sizes.sum())
    reach = error.reach(1 - settings.level)
    low, high = mean - reach, mean + reach
    if settings.interval == "bootstrap" and reach:
        low, high = _bootstrapped(sums, sizes, mean, reach, settings)
    # With sums a subject weighs as much as it has scans.
    flips = settings.test == "sign_flips"
    p = _sign_flips(sums.sum(1), settings) if flips else _wilcoxon(sums.sum(1) / sizes.sum(1))
    return low, high, p if sums.shape[1] == 1 else max(p, error.p(abs(mean)))


class _Error(NamedTuple):
    """The error of a mean over ``subjects`` and ``seeds``."""

    variance: float
    of_seeds: float  # share of the variance
    subjects: int
    seeds: int

    def reach(self, p: float) -> float:
        """How far from the mean a two-sided test with error ``p`` goes."""
        squared = (1 - self.of_seeds) * special.stdtrit(self.subjects - 1, 1 - p / 2) ** 2
        if self.of_seeds:
            squared += self.of_seeds * special.stdtrit(self.seeds - 1, 1 - p / 2) ** 2
        return math.sqrt(self.variance * squared)

    def p(self, mean: float) -> float:
        """The error at which the test goes just as far as ``mean``."""
        if not mean or self.reach(_SMALLEST_P) <= mean:
            return _SMALLEST_P if mean else 1.0
        return math.exp(optimize.brentq(lambda log: self.reach(math.exp(log)) - mean, math.log(_SMALLEST_P), 0.0))


def _error(u: Array) -> _Error:
    """From what each cell (subject, seed) adds to the error of a mean."""
    n, seeds = u.shape
    subject = variance(u.sum(1))
    if seeds == 1:
        return _Error(subject, 0.0, n, seeds)
    seed, both = variance(u.sum(0)), variance(u)
    share = seed / (subject + seed) if seed else 0.0
    return _Error(max(subject + seed - both, subject, seed), share, n, seeds)


def _bootstrapped(sums: Array, sizes: Array, mean: float, reach: float, settings: Settings) -> tuple[float, float]:
    # Percentiles of resampled subjects and seeds are too narrow where either is few: their shape is kept, and their
    # spread is stretched to the half width ``reach`` of the t interval.
    rng = np.random.default_rng(settings.seed)
    subject, seed = (rng.multinomial(n, np.full(n, 1 / n), size=settings.draws) for n in sums.shape)
    means = ((subject @ sums) * seed).sum(1) / np.maximum(((subject @ sizes) * seed).sum(1), 1)
    tail = (1 - settings.level) / 2
    stretch = reach / (float(stats.norm.ppf(1 - tail)) * float(means.std()))
    low, high = mean + stretch * (np.quantile(means, [tail, 1 - tail]) - mean)
    return float(low), float(high)


def _sign_flips(sums: Array, settings: Settings) -> float:
    n, total = len(sums), abs(sums.sum())
    least = total - 1e-12 * np.abs(sums).sum()  # patterns that give the same sum in another order are as extreme
    if n <= _EXACT_UP_TO:
        positive = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((2 * positive - 1) @ sums) >= least).mean())
    signs = np.random.default_rng(settings.seed).integers(0, 2, size=(settings.draws, n), dtype=np.int8)
    extreme = int((np.abs(2 * (signs @ sums) - sums.sum()) >= least).sum())
    return (extreme + 1) / (settings.draws + 1)


def _wilcoxon(means: Array) -> float:
    return float(stats.wilcoxon(means, zero_method="pratt").pvalue) if means.any() else 1.0
