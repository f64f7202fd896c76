"""k-medoids: those subjects to which all are nearest together. L. Kaufman, P. J. Rousseeuw, Partitioning around
medoids, in Finding groups in data, 1990, https://doi.org/10.1002/9780470316801.ch2.

    min_S  sum_i min_{j in S + L} d_ij,   |S| = n,   L the labelled subjects, which stay

BUILD adds the best subject n times; SWAP then replaces one of them by another, always by the swap that helps most,
until none does. Not greedy, so the best three need not be among the best five. A subject unlike all others is one term
of the sum, as any other is, and a far one is a large term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lemis.contracts import Pick, Pool
from lemis.parts import coverage

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to improve."""

    most_swaps: Annotated[int, Field(ge=0)] = 200  # our bound; it ends by itself, mostly after fewer than n


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """The medoids, that one first without which the sum would grow most; the same for every seed."""
    del seed
    apart, free = coverage.distances(pool.embedding), ~pool.labelled
    # Of no medoid at all, farther than any.
    fixed = apart[:, pool.labelled].min(axis=1, initial=apart.max(initial=0.0) + 1)
    chosen = _built(apart, fixed, free, min(number, int(free.sum())))
    for _ in range(settings.most_swaps):
        swap = _best_swap(apart, fixed, free, chosen)
        if swap is None:
            break
        chosen[swap[0]] = swap[1]
    near = np.minimum(fixed, apart[:, chosen].min(axis=1, initial=np.inf))
    losses = [float((_without(apart, fixed, chosen, place) - near).sum()) for place in range(len(chosen))]
    order = sorted(range(len(chosen)), key=lambda place: (-losses[place], chosen[place]))
    return [Pick(chosen[place], _why(apart, fixed, free, chosen, place), losses[place]) for place in order]


def _built(apart: Array, fixed: Array, free: NDArray[np.bool_], number: int) -> list[int]:
    chosen: list[int] = []
    near, left = fixed, free.copy()
    for _ in range(number):
        costs = np.minimum(near[:, None], apart).sum(axis=0)
        best = int(np.argmin(np.where(left, costs, np.inf)))
        chosen.append(best)
        left[best] = False
        near = np.minimum(near, apart[:, best])
    return chosen


def _best_swap(apart: Array, fixed: Array, free: NDArray[np.bool_], chosen: list[int]) -> tuple[int, int] | None:
    """Place in ``chosen`` and the subject for it; None where no swap makes the sum smaller."""
    allowed = free.copy()
    allowed[chosen] = False
    near = np.minimum(fixed, apart[:, chosen].min(axis=1, initial=np.inf))
    cost = near.sum()
    best: tuple[float, int, int] = (cost * (1 - 1e-12), -1, -1)  # less by more than the rounding of a sum
    for place in range(len(chosen)):
        costs = np.minimum(_without(apart, fixed, chosen, place)[:, None], apart).sum(axis=0)
        other = int(np.argmin(np.where(allowed, costs, np.inf)))
        if allowed[other]:
            best = min(best, (float(costs[other]), place, other))
    return None if best[1] < 0 else best[1:]


def _without(apart: Array, fixed: Array, chosen: list[int], place: int) -> Array:
    others = chosen[:place] + chosen[place + 1 :]
    near: Array = np.minimum(fixed, apart[:, others].min(axis=1, initial=np.inf))
    return near


def _why(apart: Array, fixed: Array, free: NDArray[np.bool_], chosen: list[int], place: int) -> str:
    own = apart[:, chosen[place]] < _without(apart, fixed, chosen, place)
    own[chosen[place]] = False
    return (
        f"in the middle of {int((own & free).sum())} of {int(free.sum()) - 1} other unlabelled, which it is nearest to"
    )
