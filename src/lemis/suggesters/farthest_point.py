"""Farthest point: the subject farthest from all that are labelled, again and again; greedy k-centre. O. Sener,
S. Savarese, Active learning for convolutional neural networks: a core-set approach, ICLR 2018,
https://arxiv.org/abs/1708.00489; T. F. Gonzalez, Clustering to minimize the maximum intercluster distance, 1985,
https://doi.org/10.1016/0304-3975(85)90224-5, who shows that the largest distance left is at most twice the least.

    next = argmax_i min_{j in S} d_ij,   S = the labelled subjects at first

It takes outliers first: that is what it looks for. Where some scans are broken or of another body part it finds these,
which is worth a look, and poor as a choice of what to label (docs/suggest.md). Without a label it begins with the
subject in the middle of all; published is a random one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemis.contracts import Pick, Pool
from lemis.parts import coverage

NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """There is nothing to set."""


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """The farthest one again and again, of equal ones the first by name; the same for every seed."""
    del settings, seed
    apart = coverage.distances(pool.embedding)
    picks: list[Pick] = []
    taken = pool.labelled.copy()
    if not taken.any():
        first = _middle(apart)
        picks.append(Pick(first, "in the middle of all subjects", float(apart[first].mean())))
        taken[first] = True
    while len(picks) < number and not taken.all():
        near = np.where(taken, -1.0, apart[:, taken].min(axis=1))
        far = int(np.argmax(near))
        picks.append(Pick(far, _why(pool, apart[far], taken), float(near[far])))
        taken[far] = True
    return picks


def _middle(apart: NDArray[np.float64]) -> int:
    return int(np.argmin(apart.sum(axis=1)))


def _why(pool: Pool, apart: NDArray[np.float64], taken: NDArray[np.bool_]) -> str:
    nearest = int(np.argmin(np.where(taken, apart, np.inf)))
    named = "labelled" if pool.labelled[nearest] else "named before it"
    typical = float(np.median(apart))
    kind = "labelled subject and every one named before it" if pool.labelled.any() else "one named before it"
    return (
        f"unlike every {kind}; nearest is {pool.names[nearest]} ({named}) at {apart[nearest]:.2f}, where the others "
        f"are {typical:.2f} from it in the median"
    )
