"""What more labels would bring: Dice against the number M of labelled subjects, extrapolated with its uncertainty.

    Dice(M) = ceiling - gap * (M / M_1)^(-decay)        0 < gap <= ceiling <= 1, decay > 0, M_1 the smallest M measured

A power law with a ceiling is the usual form of learning curves (Viering and Loog, IEEE TPAMI 45, 2023). Three or four
points determine its three numbers badly, and a least-squares curve hides that; so not one curve is taken but many, each
as often as the measured means make it likely:

- the means' errors: subjects with all their scores at every M (what a bootstrap of subjects tends to, so the same hard
  subject at every M is no evidence about the rise), and ``training_std`` for training anew at each M;
- before any measurement: ceiling even in 0 to 1, gap even in 0 to ceiling, decay log-normal.

Given ceiling and decay the gap is linear with normal errors, so its share is exact; the others lie on a grid.
Forecasts are of networks trained anew on M subjects like these and tested on subjects like these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special, stats

from lemis.errors import UsageError
from lemis.measure.tables import count
from lemis.settings import Seed

Array = NDArray[np.float64]

_LEAST_POINTS = 3  # as many as the curve has numbers
_CEILINGS = (np.arange(400) + 0.5) / 400
_DECAYS: Array = np.geomspace(0.1, 4.0, 80)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is assumed before measuring, and when to keep silent."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95  # of intervals, and of the test that Dice rises at all
    # Of mean Dice over folds, between trainings with as many labels. One network trained again from images that differ
    # in their last bits moved by 0.012 on ACDC, other labelled subjects move more, and five folds average this.
    training_std: Annotated[float, Field(gt=0)] = 0.01
    # Median before measuring; published ACDC curves from scratch have 0.8 to 1.1.
    decay: Annotated[float, Field(gt=0)] = 0.8
    decay_factor: Annotated[float, Field(gt=1)] = 2.0  # one standard deviation up or down
    times: Annotated[float, Field(gt=1)] = 10.0  # no answer beyond so many times the largest M measured
    least_subjects: Annotated[int, Field(ge=4)] = 6  # as for a comparison; with fewer the spread is anybody's guess
    draws: Annotated[int, Field(ge=100)] = 4000  # ends of intervals move by a thirtieth of their width between seeds
    seed: Seed = 0


class Prediction(NamedTuple):
    """A mean Dice with its interval; NaN where there is no curve."""

    mean: float
    low: float
    high: float


class Needed(NamedTuple):
    """How many labelled subjects; NaN where ``reason`` says why nobody can tell. ``high`` may be infinite."""

    low: float
    best: float
    high: float
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Curves through the measured means, each equally likely."""

    labelled: tuple[int, ...]
    means: tuple[float, ...]
    ceiling: Array  # (draws,); empty where there is no curve
    gap: Array  # (draws,) below the ceiling, at the smallest M
    decay: Array  # (draws,)
    training: Array  # (draws,) of one more training
    reason: str  # why a number of labels cannot be told; empty where it can
    settings: Settings

    def predict(self, labelled: float) -> Prediction:
        """Mean Dice of networks trained anew with so many labelled subjects (one or more)."""
        curve = self.ceiling - self.gap * (labelled / self.labelled[0]) ** -self.decay if self.labelled else self.gap
        return _prediction(np.clip(curve + self.training, 0, 1), self.settings.level)

    def limit(self) -> Prediction:
        """The ceiling: mean Dice with labels without end."""
        return _prediction(self.ceiling, self.settings.level)

    def needed(self, target: float) -> Needed:
        """How many labelled subjects a mean Dice of ``target`` takes, or why that cannot be told."""
        if self.reason:
            return Needed(math.nan, math.nan, math.nan, self.reason)
        tail = (1 - self.settings.level) / 2
        # "higher": between a number and infinity, which a ceiling below the target gives, there is nothing to average.
        found = np.quantile(self._reaching(target), [tail, 0.5, 1 - tail], method="higher")
        low, best, high = (max(float(np.rint(value)), float(self.labelled[0])) for value in found)
        end = self.settings.times * self.labelled[-1]
        if math.isinf(best):
            limit = self.limit()
            reason = f"it may never be reached: the ceiling is {limit.mean:.2f} [{limit.low:.2f}, {limit.high:.2f}]"
            return Needed(math.nan, math.nan, math.nan, reason)
        if best > end:
            reason = f"more than {self.settings.times:g} times the {self.labelled[-1]} that were measured"
            return Needed(math.nan, math.nan, math.nan, reason)
        return Needed(low, best, high if high <= end else math.inf, "")

    def sentence(self, target: float) -> str:
        """The answer of ``needed`` in words, without a full stop."""
        low, best, high, reason = self.needed(target)
        if reason:
            return f"How many labelled subjects a mean Dice of {target:g} takes: cannot say ({reason})"
        if high <= self.labelled[0]:
            return f"A mean Dice of {target:g} is reached with {_subjects(self.labelled[0])} or fewer"
        about = f"A mean Dice of {target:g} takes about {_subjects(best)}"
        if math.isinf(high):
            return f"{about} (at least {low:g}; the upper end lies beyond {self.settings.times * self.labelled[-1]:g})"
        return f"{about} [{low:g}, {high:g}]"

    def _reaching(self, target: float) -> Array:
        rest = np.maximum(self.ceiling - target, 0)
        with np.errstate(divide="ignore", over="ignore"):
            times: Array = np.where(rest > 0, (self.gap / rest) ** (1 / self.decay), math.inf)
        return self.labelled[0] * times


def fit(values: Mapping[int, Mapping[str, float]], settings: Settings | None = None) -> Forecast:
    """Curves through the mean Dice at each number of labelled subjects.

    Args:
        values: For each number of labelled subjects, the Dice (0 to 1) of each test subject, mean over its scans and
            seeds. NaN: not scored. Not every subject must be there at every number.
        settings: What is assumed, and when to keep silent.

    Raises:
        UsageError: A value is no Dice, or a number of labelled subjects is not positive.
    """
    settings = settings or Settings()
    table = _table(values)
    labelled = tuple(table)
    means = tuple(sum(of.values()) / len(of) for of in table.values())
    reason = _too_little(table, settings)
    if reason:
        none = np.empty(0)
        return Forecast(
            labelled=labelled, means=means, ceiling=none, gap=none, decay=none, training=none, reason=reason,
            settings=settings,
        )  # fmt: skip
    covariance = _covariance(list(table.values()), means, settings)
    rng = np.random.default_rng(settings.seed)
    ceiling, gap, decay = _curves(np.array(labelled) / labelled[0], np.array(means), covariance, settings, rng)
    return Forecast(
        labelled=labelled, means=means, ceiling=ceiling, gap=gap, decay=decay,
        training=settings.training_std * rng.standard_normal(settings.draws),
        reason=_not_rising(np.log(labelled), np.array(means), covariance, settings), settings=settings,
    )  # fmt: skip


def _table(values: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
    table = {}
    for labelled in sorted(values):
        scored = {subject: float(value) for subject, value in values[labelled].items() if not math.isnan(value)}
        wrong = next((f"{value:g} of {subject}" for subject, value in scored.items() if not 0 <= value <= 1), None)
        if wrong or labelled < 1:
            raise UsageError(
                f"{wrong or 'scores'} at {labelled} labelled subjects",
                allowed="Dice from 0 to 1 at one labelled subject or more",
                next="give Dice as a fraction, not in per cent",
            )
        if scored:
            table[labelled] = scored
    return table


def _too_little(table: Mapping[int, Mapping[str, float]], settings: Settings) -> str:
    if len(table) < _LEAST_POINTS:
        return f"a curve needs {_LEAST_POINTS} different numbers of labelled subjects, there are {len(table)}"
    labelled, fewest = min(((labelled, len(of)) for labelled, of in table.items()), key=lambda one: one[1])
    if fewest < settings.least_subjects:
        return f"{count(fewest, 'test subject')} at {labelled}, {settings.least_subjects} are needed"
    return ""


def _covariance(scores: Sequence[Mapping[str, float]], means: Sequence[float], settings: Settings) -> Array:
    """(K, K) of the means' errors: of subjects, paired over M, and of training."""
    subjects = sorted({subject for of in scores for subject in of})
    parts = [
        [(of[subject] - mean) / len(of) if subject in of else 0.0 for of, mean in zip(scores, means, strict=True)]
        for subject in subjects
    ]
    u, n = np.array(parts), min(len(of) for of in scores)
    # n / (n - 1) as for any variance; (n - 1) / (n - 3) because with few subjects it is itself uncertain (that of t).
    covariance: Array = n / (n - 3) * (u.T @ u)
    return covariance + settings.training_std**2 * np.eye(len(means))


def _not_rising(logs: Array, means: Array, covariance: Array, settings: Settings) -> str:
    slope = logs - logs.mean()
    error = math.sqrt(slope @ covariance @ slope)
    if slope @ means > stats.norm.ppf((1 + settings.level) / 2) * error:
        return ""
    return "Dice does not rise reliably with the number of labelled subjects that were measured"


def _curves(
    times: Array, means: Array, covariance: Array, settings: Settings, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Draws of (ceiling, gap, decay), each (draws,), by their probability given the means at ``times`` M_1."""
    ceiling, decay = (grid.ravel() for grid in np.meshgrid(_CEILINGS, _DECAYS))
    precision: Array = np.linalg.inv(covariance).astype(np.float64)
    best, root, misfit = _gap(ceiling, decay, times, means, precision)
    inside = special.ndtr((ceiling - best) * root) - special.ndtr(-best * root)
    prior = -0.5 * (np.log(decay / settings.decay) / math.log(settings.decay_factor)) ** 2 - np.log(ceiling)
    with np.errstate(divide="ignore"):
        logs = prior - 0.5 * misfit - np.log(root) + np.log(np.maximum(inside, 0))
    weights = np.exp(logs - logs.max())
    drawn = rng.choice(len(weights), size=settings.draws, p=weights / weights.sum())
    # Anywhere in the cells of the grid; the gap follows from where.
    ceiling = ceiling[drawn] + (rng.random(settings.draws) - 0.5) / len(_CEILINGS)
    decay = decay[drawn] * (_DECAYS[1] / _DECAYS[0]) ** (rng.random(settings.draws) - 0.5)
    best, root, _ = _gap(ceiling, decay, times, means, precision)
    gap: Array = stats.truncnorm.rvs(-best * root, (ceiling - best) * root, loc=best, scale=1 / root, random_state=rng)
    return ceiling, gap, decay


def _gap(ceiling: Array, decay: Array, times: Array, means: Array, precision: Array) -> tuple[Array, Array, Array]:
    """Per curve the gap that fits best, the root of its precision, and the misfit that is left."""
    shape = times ** -decay[:, None]  # (curves, K)
    below = ceiling[:, None] - means
    weighted = shape @ precision
    square, product = (weighted * shape).sum(1), (weighted * below).sum(1)
    return product / square, np.sqrt(square), ((below @ precision) * below).sum(1) - product**2 / square


def _prediction(values: Array, level: float) -> Prediction:
    if not values.size:
        return Prediction(math.nan, math.nan, math.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Prediction(float(values.mean()), float(low), float(high))


def _subjects(number: float) -> str:
    return f"{number:g} labelled subject{'' if number == 1 else 's'}"
