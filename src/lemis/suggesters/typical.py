"""TypiClust: the most typical subject of each cluster that has no label yet. G. Hacohen, A. Dekel, D. Weinshall, Active
learning on a budget: opposite strategies suit high and low budgets, ICML 2022, https://arxiv.org/abs/2202.02794.

    typicality(x) = ( 1/K sum over its K nearest of |x - x_i| )^-1,   k = M + n clusters of k-means

Clusters are taken in turn, those with fewest labelled subjects first, of these the largest; in each the most typical
unlabelled subject, its K nearest among the unlabelled of its own cluster. The released code leaves out clusters of five
and fewer, which would leave nothing of most data sets of scans: ours go by the number of subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lemis.contracts import Pick, Pool
from lemis.parts import coverage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Those of the paper and its code."""

    neighbours: Annotated[int, Field(gt=0)] = 20  # K, paper; at most half of a cluster, released code
    most_clusters: Annotated[int, Field(gt=0)] = 500  # released code
    # Clusters that are smaller come last: this share of what a cluster has in the mean. Released code: 5 and fewer.
    least_share: Annotated[float, Field(ge=0, le=1)] = 0.25  # INFERRED
    starts: Annotated[int, Field(gt=0)] = 10  # of k-means; scikit-learn's custom


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """One of each cluster in turn, until there are enough."""
    apart = coverage.distances(pool.embedding)
    clusters = _in_turn(_clusters(pool, number, settings, seed), pool, settings)
    picks: list[Pick] = []
    left = ~pool.labelled
    while len(picks) < number and left.any():
        for cluster in clusters:
            there = cluster[left[cluster]]
            if len(there) and len(picks) < number:
                best, typicality = _most_typical(apart, there, settings)
                picks.append(Pick(best, _why(pool, cluster), typicality))
                left[best] = False
    return picks


def _clusters(pool: Pool, number: int, settings: Settings, seed: int) -> list[NDArray[np.intp]]:
    from sklearn.cluster import KMeans

    different = len(np.unique(pool.embedding, axis=0))
    k = min(int(pool.labelled.sum()) + number, settings.most_clusters, different)
    found = KMeans(k, n_init=settings.starts, random_state=seed).fit(pool.embedding).labels_
    return [np.flatnonzero(found == cluster) for cluster in range(k)]


def _in_turn(
    clusters: list[NDArray[np.intp]], pool: Pool, settings: Settings
) -> list[NDArray[np.intp]]:  # fmt: skip
    """Small ones last; of the others those with fewest labelled subjects first, of these the largest."""
    least = settings.least_share * len(pool.names) / len(clusters)

    def rank(cluster: NDArray[np.intp]) -> tuple[bool, int, int, int]:
        return len(cluster) < least, int(pool.labelled[cluster].sum()), -len(cluster), int(cluster[0])

    return sorted((cluster for cluster in clusters if len(cluster)), key=rank)


def _most_typical(apart: NDArray[np.float64], members: NDArray[np.intp], settings: Settings) -> tuple[int, float]:
    """Of some subjects; of equal ones the first."""
    nearest = max(1, min(settings.neighbours, len(members) // 2))
    inside = np.sort(apart[np.ix_(members, members)], axis=1)[:, 1 : nearest + 1]  # without the distance to itself
    typicality = 1 / (inside.mean(axis=1) + 1e-5) if len(members) > 1 else np.zeros(1)
    best = int(np.argmax(typicality))
    return int(members[best]), float(typicality[best])


def _why(pool: Pool, cluster: NDArray[np.intp]) -> str:
    marked = int(pool.labelled[cluster].sum())
    with_label = f"{marked} of them labelled" if marked else "none of them labelled"
    return f"the most typical of a group of {len(cluster)} subjects that are alike, {with_label}"
