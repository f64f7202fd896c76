"""TypiClust: the most typical subject of each cluster that has no label yet. G. Hacohen, A. Dekel, D. Weinshall, Active
learning on a budget: opposite strategies suit high and low budgets, ICML 2022, https://arxiv.org/abs/2202.02794.

    typicality(x) = ( 1/K sum over its K nearest of |x - x_i| )^-1,   k = M + n clusters of k-means

Clusters are taken in turn, those with fewest labelled subjects first, of these the largest; in each the most typical
unlabelled subject, its K nearest among the unlabelled of its own cluster. The released code leaves out clusters of five
and fewer, so that a second subject of a large cluster is taken before an outlier that is a cluster by itself. Five
would leave nothing of most data sets of scans: ours goes by the number of subjects, five at most. What is left out is
taken when nothing else is left.
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
    too_small: Annotated[int, Field(ge=0)] = 5  # subjects of a cluster that is left out, or fewer; released code
    # The same as a share of what a cluster has in the mean, where that is fewer, but one subject. INFERRED
    too_small_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    starts: Annotated[int, Field(gt=0)] = 10  # of k-means; scikit-learn's custom


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """One of each cluster in turn, until there are enough."""
    apart = coverage.distances(pool.embedding)
    left = ~pool.labelled
    picks: list[Pick] = []
    for clusters in _in_turn(_clusters(pool, number, settings, seed), pool, settings):
        while len(picks) < number and any(left[cluster].any() for cluster in clusters):
            for cluster in clusters:
                there = cluster[left[cluster]]
                if len(there) and len(picks) < number:
                    best, typicality = _most_typical(apart, there, settings)
                    picks.append(Pick(best, _why(pool, cluster), typicality))
                    left[best] = False
    return picks


def _clusters(pool: Pool, number: int, settings: Settings, seed: int) -> list[NDArray[np.intp]]:
    from sklearn.cluster import KMeans

    # k-means begins with rows that it draws: in an order of their own, these are the same in whatever order they come.
    order = np.lexsort(pool.embedding.T)
    points = pool.embedding[order]
    k = min(int(pool.labelled.sum()) + number, settings.most_clusters, len(np.unique(points, axis=0)))
    found = KMeans(k, n_init=settings.starts, random_state=seed).fit(points).labels_
    return [np.sort(order[found == cluster]) for cluster in range(k)]


def _in_turn(
    clusters: list[NDArray[np.intp]], pool: Pool, settings: Settings
) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]]:
    """Those that are large enough, and the others; each with fewest labelled subjects first, of these the largest."""
    share = int(settings.too_small_share * len(pool.names) / len(clusters))
    most = min(settings.too_small, max(1, share))

    def rank(cluster: NDArray[np.intp]) -> tuple[int, int, int]:
        return int(pool.labelled[cluster].sum()), -len(cluster), int(cluster[0])

    in_order = sorted((cluster for cluster in clusters if len(cluster)), key=rank)
    return [one for one in in_order if len(one) > most], [one for one in in_order if len(one) <= most]


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
