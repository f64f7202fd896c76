"""How well some points stand for all: distances, similarities, and which point covers most of what is not covered yet.

    F(S) = sum_i w_i max_{j in S} s_ij,   s_ij = exp(-d_ij^2 / (2 sigma^2)),   s_jj = max_{i != j} s_ij

F is monotone and submodular, so that taking the largest gain again and again comes to (1 - 1/e) of the best there is
(Nemhauser et al., Mathematical Programming 1978, https://doi.org/10.1007/BF01588971). With s_jj = 1 a point that is
unlike all others gains 1 by itself, and is taken as soon as the clusters are covered; with the similarity to its
nearest other it gains next to nothing (ours; docs/suggest.md has the figures).

Distances are of pairs alone, so they are the same numbers in whatever order the points come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def distances(points: Array) -> Array:
    """(N, D) -> (N, N) Euclidean distances, symmetric to the last bit, 0 on the diagonal."""
    from scipy.spatial.distance import pdist, squareform

    found: Array = squareform(pdist(points)) if len(points) > 1 else np.zeros((len(points), len(points)))
    return found


def similarities(apart: Array, width: float = 0.5) -> Array:
    """(N, N) distances -> (N, N) similarities in [0, 1], of a point to itself as to its nearest other.

    Args:
        apart: From ``distances``.
        width: sigma is this quantile of the distances of pairs, 0.5 their median; 1 everywhere where sigma is 0.
    """
    number = len(apart)
    if number < 2:
        return np.ones_like(apart)
    sigma = float(np.quantile(apart[np.triu_indices(number, 1)], width))
    alike: Array = np.exp(-((apart / sigma) ** 2) / 2) if sigma > 0 else np.ones_like(apart)
    np.fill_diagonal(alike, 0)
    np.fill_diagonal(alike, alike.max(axis=1))
    return alike


class Cover(NamedTuple):
    """A point that was taken."""

    point: int
    gain: float  # in F
    nearer: NDArray[np.bool_]  # (N,) points that nothing taken before is as similar to


def greedy(alike: Array, weights: Array, taken: NDArray[np.bool_]) -> Iterator[Cover]:
    """The free points, each time the one with the largest gain in F, of equal ones the first.

    Args:
        alike: (N, N) similarities.
        weights: (N,) w, none below 0.
        taken: (N,) S at the beginning.
    """
    best = alike[:, taken].max(axis=1, initial=0.0)
    free = ~taken
    while free.any():
        places = np.flatnonzero(free)
        gains = np.array([weights @ np.maximum(alike[:, place] - best, 0) for place in places])
        first = int(np.argmax(gains))
        point = int(places[first])
        yield Cover(point, float(gains[first]), alike[:, point] > best)
        best = np.maximum(best, alike[:, point])
        free[point] = False


def value(alike: Array, weights: Array, chosen: Sequence[int]) -> float:
    """F of some points; 0 of none."""
    return float(weights @ alike[:, list(chosen)].max(axis=1, initial=0.0))
