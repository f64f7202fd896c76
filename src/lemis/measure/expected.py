"""The Dice that a label map can be expected to have, from how well views of its scan agree, with an interval.

From held-out scans, of which both are known, a line is fitted, shrunk towards slope 1:

    Dice = a_c + b s,   b = (S_xy + w) / (S_xx + w),   a_c = mean y - b mean s of structure c

b is that of all structures together where subjects are fewer than ``OWN_LINES``. The interval is jackknife+, and CV+ of
more than ``MANY`` subjects (Barber et al., Annals of Statistics 2021, equations 1.2 and 6): with f_-i the line without
subject i (CV+: without all that its networks held out), s_i(x) the agreement on the new scan by the networks that held
out i, and R_i the largest |y - f_-i(s)| over the scans of i,

    [q-{f_-i(s_i(x)) - R_i}, q+{f_-i(s_i(x)) + R_i}],   q+ the ceil(level (n + 1))-th smallest, q- = -q+ of the negative

A new scan gets the label map of an ensemble, which is better than those of its networks, and whose views agree better.
Held-out scans have single networks alone, so their line is asked at the agreement that one network as good as the
ensemble would have, half of the way from that of the networks to that of the ensemble (INFERRED; docs/decisions/0023):

    s' = s + (s_ensemble - mean over networks of s) / 2

Guaranteed is a coverage of 2 level - 1 where subjects are drawn alike, in practice it is about the level, on average
over sets of labelled subjects. Below ``LEAST`` subjects nothing is said; nor where the rank is beyond the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

LEAST = 5  # subjects: with fewer, agreement gives an order and no number
OWN_LINES = 15  # subjects from which on each structure has its own slope
MANY = 30  # subjects above which folds are left out instead of subjects
SHRINKAGE = 0.04  # w: two scans whose agreement is 0.14 from the mean; a sober prior for a few (not tuned)

STEADIER = 0.5  # share of the rise in agreement from networks to their ensemble that a rise in Dice goes with

Array = NDArray[np.float64]


class Held(NamedTuple):
    """One structure of a held-out scan, segmented by networks that never saw its label."""

    subject: str
    runs: tuple[str, ...]  # the networks
    structure: str
    agreement: float  # mean over the networks
    dice: float  # of their label map


def as_of_one(alone: Mapping[str, float], together: float | None) -> dict[str, float]:
    """Agreement by network as if each were as good as their ensemble: s' above.

    Args:
        alone: By network, at least one.
        together: Of their ensemble; None where it was not measured, and s stays as it is.
    """
    rise = 0.0 if together is None else STEADIER * (together - float(np.mean(list(alone.values()))))
    return {run: agreement + rise for run, agreement in alone.items()}


class Line(NamedTuple):
    """Dice by agreement."""

    offset: Mapping[str, float]  # by structure
    slope: Mapping[str, float]

    def at(self, structure: str, agreement: float) -> float:
        """Not clipped to what a Dice can be."""
        return self.offset[structure] + self.slope[structure] * agreement


class Expected(NamedTuple):
    """Of one structure of one scan."""

    dice: float
    low: float
    high: float


def line(held: Sequence[Held], *, own: bool) -> Line:
    """The shrunk line.

    Args:
        held: At least one.
        own: A slope for each structure, else one for all.
    """
    groups: dict[str, list[Held]] = {}
    for one in held:
        groups.setdefault(one.structure, []).append(one)
    means, sums = {}, {}
    for structure, rows in groups.items():
        s, y = (np.array([getattr(row, key) for row in rows]) for key in ("agreement", "dice"))
        means[structure] = s.mean(), y.mean()
        sums[structure] = float(((s - s.mean()) * (y - y.mean())).sum()), float(((s - s.mean()) ** 2).sum())
    together = (math.fsum(xy for xy, _ in sums.values()), math.fsum(xx for _, xx in sums.values()))
    slopes = {name: _shrunk(*(sums[name] if own else together)) for name in groups}
    return Line({name: float(y - slopes[name] * s) for name, (s, y) in means.items()}, slopes)


def _shrunk(xy: float, xx: float) -> float:
    return (xy + SHRINKAGE) / (xx + SHRINKAGE)


def rank(level: float, subjects: int) -> int:
    """ceil(level (n + 1)): which of n values is the quantile; more than n where there is none."""
    return math.ceil(level * (subjects + 1) - 1e-9)


def upper(values: Array, level: float) -> float:
    """q+ of the values; infinite where they are too few."""
    place = rank(level, len(values))
    return float(np.sort(values)[place - 1]) if place <= len(values) else math.inf


@final
class Calibration:
    """Held-out scans, and what they say of a new one.

    Args:
        held: Of subjects that each appear with one set of networks.
        level: Share of intervals that are to hold the true Dice.
    """

    def __init__(self, held: Iterable[Held], level: float) -> None:
        self.held = [one for one in held if not math.isnan(one.dice)]
        self.level = level

    @cached_property
    def subjects(self) -> int:
        """How many there are."""
        return len({one.subject for one in self.held})

    def without(self, subject: str) -> Calibration:
        """What the others say, as of a scan of this subject itself."""
        others = [one for one in self.held if one.subject != subject]
        return self if len(others) == len(self.held) else Calibration(others, self.level)

    def expected(self, structure: str, agreement: Mapping[str, float]) -> Expected | None:
        """Of a new scan; None where too few subjects are known.

        Args:
            structure: Name.
            agreement: By network; for one that is not there, the mean of the others stands.
        """
        mean = float(np.mean(list(agreement.values())))
        own = [one for one in self.held if one.structure == structure]
        people = list(dict.fromkeys(one.subject for one in own))
        if len(people) < LEAST or rank(self.level, len(people)) > len(people):
            return None
        lows, highs = [], []
        for subject in people:
            rows = [one for one in own if one.subject == subject]
            without = self._lines[subject]
            if structure not in without.offset:
                return None  # all that is known of it is of one fold
            reach = max(abs(row.dice - without.at(structure, row.agreement)) for row in rows)
            middle = without.at(structure, float(np.mean([agreement.get(run, mean) for run in rows[0].runs])))
            lows.append(middle - reach)
            highs.append(middle + reach)
        dice = _clipped(self._line.at(structure, mean))
        low, high = -upper(-np.array(lows), self.level), upper(np.array(highs), self.level)
        return Expected(dice, min(_clipped(low), dice), max(_clipped(high), dice))

    @cached_property
    def _own(self) -> bool:
        return self.subjects >= OWN_LINES

    @cached_property
    def _line(self) -> Line:
        return line(self.held, own=self._own)

    @cached_property
    def _lines(self) -> dict[str, Line]:
        """Without each subject; without its whole fold where there are many."""
        runs = {one.subject: one.runs for one in self.held}
        many = self.subjects > MANY
        found: dict[object, Line] = {}
        for subject, by in runs.items():
            key = by if many else subject
            if key not in found:
                kept = [one for one in self.held if (one.runs if many else one.subject) != key]
                found[key] = line(kept, own=self._own)
        return {subject: found[by if many else subject] for subject, by in runs.items()}


def _clipped(dice: float) -> float:
    return min(max(dice, 0.0), 1.0)


def risk_curve(trust: Sequence[float], risk: Sequence[float]) -> float:
    """AURC: the mean over k of the mean risk of the k most trusted (Geifman and El-Yaniv, NeurIPS 2017).

    Args:
        trust: Higher is better; of equal ones the order given.
        risk: Such as 1 - Dice.
    """
    order = np.argsort(-np.asarray(trust, float), kind="stable")
    ordered = np.asarray(risk, float)[order]
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1)).mean())
