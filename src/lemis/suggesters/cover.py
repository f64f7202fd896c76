"""Cover: the subjects that stand for most of those that no labelled subject stands for. Facility location, as in:
K. Wei, R. Iyer, J. Bilmes, Submodularity in data subset selection and active learning, ICML 2015,
https://proceedings.mlr.press/v37/wei15.html; MaxHerding (W. Bae, J. Noh, D. J. Sutherland, Generalized coverage for
more robust low-budget active learning, ECCV 2024, https://arxiv.org/abs/2407.12212) maximises the same sum.

    next = argmax_j  F(S + j) - F(S),   F(S) = sum_i max_{k in S} s_ik,   S = the labelled subjects at first

Needs no label, and goes on from those that there are. Published with s_jj = 1; ours is the similarity to the nearest
other subject, so that a subject unlike all others is not taken for its own sake (parts/coverage.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
from pydantic import Field

from lemis.contracts import Pick, Pool
from lemis.parts import coverage

NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How far a subject stands for others."""

    width: Annotated[float, Field(gt=0, le=1)] = 0.5  # sigma, a quantile of all distances; INFERRED: 0.1 does as well


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """The largest gain again and again; the same for every seed."""
    del seed
    alike = coverage.similarities(coverage.distances(pool.embedding), settings.width)
    covers = islice(coverage.greedy(alike, np.ones(len(alike)), pool.labelled), number)
    return [Pick(one.point, _why(pool, one, is_first=place == 0), one.gain) for place, one in enumerate(covers)]


def _why(pool: Pool, one: coverage.Cover, *, is_first: bool) -> str:
    others = ~pool.labelled
    others[one.point] = False
    if is_first and not pool.labelled.any():
        return f"the one that all {others.sum()} others are most like"
    than = "any labelled subject" if is_first else "any labelled subject or any named before it"
    than = than if pool.labelled.any() else "any named before it"
    return f"{(one.nearer & others).sum()} of the {others.sum()} other unlabelled are more like it than {than}"
