"""Each way to choose against a slow version of what it says, and on planted clusters with outliers."""

from __future__ import annotations

from itertools import combinations
from math import dist
from typing import Any

import numpy as np
import pytest

from lemis.contracts import Pool
from lemis.suggesters import (
    cover,
    cover_uncertain,
    disagreement,
    entropy,
    farthest_point,
    k_medoids,
    random,
    typical,
)
from pools import planted, pool


def chosen(way: Any, given: Pool, number: int, seed: int = 0, **settings: Any) -> list[int]:
    return [pick.subject for pick in way.suggest(given, number, way.Settings(**settings), seed)]


@pytest.mark.parametrize("labelled", [0, 1, 4])
def test_the_farthest_point_is_the_one_whose_nearest_is_farthest(labelled: int) -> None:
    given = pool(labelled=labelled)
    taken = np.flatnonzero(given.labelled).tolist()
    wanted = []
    for _ in range(5):
        left = [i for i in range(12) if i not in taken]
        if taken:
            near = {i: min(dist(given.embedding[i], given.embedding[j]) for j in taken) for i in left}
            best = max(left, key=lambda i: near[i])
        else:
            best = min(left, key=lambda i: sum(dist(given.embedding[i], other) for other in given.embedding))
        wanted.append(best)
        taken.append(best)
    assert chosen(farthest_point, given, 5) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_the_farthest_points_leave_at_most_twice_the_least_radius(seed: int) -> None:
    given = pool(10, labelled=0, seed=seed)

    def radius(some: Any) -> float:
        return max(min(dist(one, given.embedding[j]) for j in some) for one in given.embedding)

    assert radius(chosen(farthest_point, given, 3)) <= 2 * min(radius(some) for some in combinations(range(10), 3))


def cost(given: Pool, some: Any) -> float:
    centres = [*np.flatnonzero(given.labelled), *some]
    return sum(min(dist(one, given.embedding[j]) for j in centres) for one in given.embedding)


@pytest.mark.parametrize("labelled", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_no_swap_makes_medoids_better(labelled: int, seed: int) -> None:
    given = pool(11, labelled=labelled, seed=seed)
    found = chosen(k_medoids, given, 3)
    free = [i for i in range(11) if not given.labelled[i] and i not in found]
    others = [[*found[:k], i, *found[k + 1 :]] for k in range(3) for i in free]
    assert cost(given, found) <= min(cost(given, some) for some in others) + 1e-9
    losses = [cost(given, found[:k] + found[k + 1 :]) - cost(given, found) for k in range(3)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_medoids_of_clear_clusters_are_the_best_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([10 * np.eye(3)[c] + rng.normal(size=(4, 3)) for c in range(3)])
    given = Pool(tuple("abcdefghijkl"), rows, np.zeros(12, bool))
    best = min(combinations(range(12), 3), key=lambda some: cost(given, some))
    assert sorted(chosen(k_medoids, given, 3)) == list(best)


def test_the_most_typical_of_a_cluster_is_nearest_to_its_neighbours() -> None:
    given, of = planted(0)
    inside = [np.flatnonzero(of == c) for c in range(3)]
    clusters = Pool(given.names[:95], given.embedding[:95], given.labelled[:95])
    found = chosen(typical, clusters, 3)

    def typicality(i: int, members: np.ndarray) -> float:
        near = sorted(dist(given.embedding[i], given.embedding[j]) for j in members if j != i)
        return 1 / (np.mean(near[: max(1, min(20, len(members) // 2))]) + 1e-5)

    # the two large clusters first, the one that begins first before the other
    assert found == [max(members, key=lambda i: typicality(i, members)) for members in inside]


@pytest.mark.parametrize("seed", range(10))
def test_a_second_of_a_large_cluster_comes_before_an_outlier(seed: int) -> None:
    given, of = planted(seed)
    found = of[chosen(typical, given, 4)].tolist()
    assert -1 not in found  # though k-means gives an outlier a cluster of its own
    assert -1 in of[chosen(typical, given, 4, too_small=0)].tolist() or len(set(found)) == 4


def test_what_is_too_small_is_taken_when_nothing_else_is_left() -> None:
    given, of = planted(0)
    few = Pool(given.names[90:], given.embedding[90:], np.zeros(13, bool))
    found = chosen(typical, few, 13)
    assert sorted(found) == list(range(13))
    assert set(of[90:][found[-3:]]) == {-1}


def test_typical_finds_the_same_groups_in_whatever_order_rows_come() -> None:
    given = pool(40, features=4, labelled=3)

    def groups(some: Pool) -> set[str]:
        return {pick.why for pick in typical.suggest(some, 5, typical.Settings(), 0)}

    def members(some: Pool) -> set[frozenset[str]]:
        found = typical._clusters(some, 5, typical.Settings(), 0)
        return {frozenset(some.names[i] for i in cluster) for cluster in found}

    for seed in range(4):
        order = np.random.default_rng(seed).permutation(40)
        turned = given._replace(
            names=tuple(given.names[i] for i in order), embedding=given.embedding[order], labelled=given.labelled[order]
        )
        assert members(turned) == members(given)
        assert groups(turned) == groups(given)


def test_clusters_without_a_label_come_first() -> None:
    given, of = planted(1, labelled=(0, 1))  # both of the first cluster
    clusters = Pool(given.names[:95], given.embedding[:95], given.labelled[:95])
    assert of[chosen(typical, clusters, 1)].tolist() == [1]


@pytest.mark.parametrize("over", ["mean", "worst"])
def test_the_largest_disagreement_comes_first(over: str) -> None:
    given = pool(labelled=4)
    assert given.disagreement is not None
    told = {i: given.disagreement[i] for i in range(12) if not given.labelled[i]}
    of = {i: sum(row) / len(row) if over == "mean" else max(row) for i, row in told.items()}
    assert chosen(disagreement, given, 5, over=over) == sorted(of, key=lambda i: -of[i])[:5]
    first = disagreement.suggest(given, 1, disagreement.Settings(), 0)[0]
    worst = int(np.argmax(told[first.subject]))
    assert f"3 networks disagree on s{worst}: {told[first.subject][worst]:.2f}" in first.why


def test_the_largest_entropy_comes_first() -> None:
    given = pool(labelled=4)
    assert given.entropy is not None
    told = {i: float(given.entropy[i]) for i in range(12) if not given.labelled[i]}
    assert chosen(entropy, given, 5) == sorted(told, key=lambda i: -told[i])[:5]


def test_without_power_it_is_cover() -> None:
    given = pool(30, labelled=4)
    assert chosen(cover_uncertain, given, 26, power=0.0) != chosen(cover_uncertain, given, 26)
    # cover counts labelled subjects too, which gain nothing
    assert chosen(cover_uncertain, given, 26, power=0.0) == chosen(cover, given, 26)


def test_what_the_networks_agree_on_is_not_chosen_for_itself() -> None:
    given, of = planted(2)
    doubt = np.where(of == 2, 0.5, 0.0)[:, None]
    sure = given._replace(structures=("a",), networks=2, disagreement=doubt, entropy=doubt[:, 0])
    assert of[chosen(cover_uncertain, sure, 3)].tolist() == [2, 2, 2]


@pytest.mark.parametrize("seed", range(10))
def test_cover_takes_clusters_and_no_outliers_where_the_farthest_point_takes_outliers(seed: int) -> None:
    given, of = planted(seed)
    few = of[chosen(cover, given, 4)].tolist()
    assert -1 not in few
    assert len(set(few)) >= 3
    assert set(of[chosen(cover, given, 6)].tolist()) - {-1} == {0, 1, 2, 3}
    assert of[chosen(farthest_point, given, 4)].tolist().count(-1) == 3


def test_what_is_like_a_labelled_subject_is_left_for_later() -> None:
    given, of = planted(3, labelled=(0,))
    for way in (cover, typical, k_medoids):
        assert 0 not in of[chosen(way, given, 2)], way


def test_at_random_all_are_as_likely() -> None:
    given = pool(10, labelled=4)
    counts = np.zeros(10)
    for seed in range(600):
        counts[chosen(random, given, 2, seed)] += 1
    assert counts[given.labelled].sum() == 0
    assert np.abs(counts[~given.labelled] - 200).max() < 50
