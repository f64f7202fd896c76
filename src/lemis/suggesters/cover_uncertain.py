"""Cover what is uncertain: facility location, in which a subject counts by how much the networks disagree on it. So a
subject is taken that stands for uncertain ones, is unlike what is labelled, and unlike what was taken before it. The
sum is that of K. Wei, R. Iyer, J. Bilmes, Submodularity in data subset selection and active learning, ICML 2015,
https://proceedings.mlr.press/v37/wei15.html; the weights are ours.

    next = argmax_j  F(S + j) - F(S),   F(S) = sum_i w_i max_{k in S} s_ik,   w_i = (u_i / mean u)^a of the unlabelled

s as in ``cover``, u as in ``disagreement``. With a = 0 it is ``cover``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
from pydantic import Field

from lemis.contracts import Pick, Pool
from lemis.parts import coverage

NETWORKS = 2
NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How far a subject stands for others, and how much the networks count."""

    width: Annotated[float, Field(gt=0, le=1)] = 0.5  # sigma, a quantile of all distances; INFERRED, as of cover
    power: Annotated[float, Field(ge=0, le=8)] = 1.0  # a; INFERRED: 1, 0 leaves the networks out


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """The largest gain again and again; the same for every seed."""
    del seed
    assert pool.disagreement is not None, "NETWORKS says so"
    unlabelled = ~pool.labelled
    doubt = np.where(unlabelled, pool.disagreement.mean(axis=1), 0.0)
    usual = doubt[unlabelled].mean() if unlabelled.any() else 0.0
    # Where the networks agree on everything, all count alike.
    weights = np.where(unlabelled, (doubt / usual) ** settings.power if usual > 0 else 1.0, 0.0)
    alike = coverage.similarities(coverage.distances(pool.embedding), settings.width)
    median = float(np.median(doubt[unlabelled])) if unlabelled.any() else 0.0
    picks = []
    for one in islice(coverage.greedy(alike, weights, pool.labelled), number):
        like_it = one.nearer & unlabelled
        like_it[one.point] = True  # itself too
        share = weights[like_it].sum() / weights.sum() if weights.sum() > 0 else 0.0
        others = int(like_it.sum()) - 1
        verb = "is" if others == 1 else "are"
        together = f"it and {others} that {verb} more like it than like any labelled or named before hold"
        why = (
            f"{together if others else 'it alone holds'} {share:.0%} of the networks' disagreement; on itself they "
            f"disagree by {doubt[one.point]:.2f}, where {median:.2f} is the median"
        )
        picks.append(Pick(one.point, why, one.gain))
    return picks
