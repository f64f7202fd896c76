"""Means with intervals. Scans of one subject are alike, so subjects are resampled, not scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

INTERVAL = (
    "{level:.0%} percentile interval of the mean, {draws} bootstrap draws of subjects with all their scans, seed {seed}"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How intervals are drawn."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    draws: Annotated[int, Field(ge=100)] = 2000  # seeds move the ends by less than a tenth of the width
    seed: int = 0

    @property
    def definition(self) -> str:
        """What an interval is, in words."""
        return INTERVAL.format(level=self.level, draws=self.draws, seed=self.seed)


class Estimate(NamedTuple):
    """A mean over scans and its interval; NaN where it cannot be had (no scan, or one subject's interval)."""

    mean: float
    low: float
    high: float
    median: float
    std: float  # population form (ddof 0), as the papers print it
    scans: int
    subjects: int


def estimate(values: ArrayLike, subjects: Sequence[str], settings: Settings | None = None) -> Estimate:
    """Mean of ``values`` with a subject-cluster bootstrap interval.

    Args:
        values: (N,) one per scan; NaN means not scored and is left out (the caller counts and prints those).
        subjects: (N,) the subject of each scan.
        settings: Level, draws and seed.
    """
    settings = settings or Settings()
    array = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(array)
    array, names = array[kept], np.asarray(subjects, dtype=str)[kept]
    if not array.size:
        return Estimate(np.nan, np.nan, np.nan, np.nan, np.nan, 0, 0)
    _, cluster = np.unique(names, return_inverse=True)
    count = int(cluster.max()) + 1
    low, high = _interval(array, cluster, settings) if count > 1 else (np.nan, np.nan)
    return Estimate(float(array.mean()), low, high, float(np.median(array)), float(array.std()), int(array.size), count)


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, subjects: Sequence[str], settings: Settings | None = None
) -> Estimate:
    """Mean of ``ours - theirs`` on the same scans, with interval; where either is NaN it is left out."""
    return estimate(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), subjects, settings)


def _interval(values: NDArray[np.float64], cluster: NDArray[np.intp], settings: Settings) -> tuple[float, float]:
    sums, sizes = np.bincount(cluster, weights=values), np.bincount(cluster)
    count = len(sizes)
    # How often each subject is drawn: (draws, subjects). The mean of a draw is over scans, as ours is.
    times = np.random.default_rng(settings.seed).multinomial(count, np.full(count, 1 / count), size=settings.draws)
    means = (times @ sums) / (times @ sizes)
    tail = (1 - settings.level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
