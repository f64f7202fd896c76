"""The pool does not know in which order scans came; a subject is chosen once; embeddings are of one scale."""

from __future__ import annotations

from math import dist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis import plugins
from lemis.contracts import Pool
from lemis.selection import pool as pools
from lemis.selection.pool import Seen
from lemis.selection.uncertainty import Uncertainty


def scans(subjects: int = 14, each: int = 2, features: int = 7, labelled: int = 3, seed: int = 0) -> list[Seen]:
    rng = np.random.default_rng(seed)
    made = []
    for subject in range(subjects):
        own = rng.normal(size=features)
        for number in range(each):
            is_labelled = subject < labelled and number == 0
            doubt = None if subject < labelled else Uncertainty(rng.uniform(0, 1, 2), float(rng.uniform(0, 1)))
            place = own + 0.1 * rng.normal(size=features)
            made.append(Seen(f"p{subject}_t{number}", f"p{subject}", is_labelled, place, doubt))
    return made


@given(order=st.permutations(range(28)), seed=st.integers(0, 5))
@examples(12)
def test_the_order_of_scans_does_not_matter_to_any_way(order: list[int], seed: int) -> None:
    usual = scans()
    one, other = (pools.subjects(some, ("a", "b"), 3) for some in (usual, [usual[place] for place in order]))
    for before, after in zip(one.pool, other.pool, strict=True):
        if isinstance(before, np.ndarray):
            assert np.array_equal(before, after, equal_nan=True)
        else:
            assert before == after
    assert one.scans == other.scans
    for name in plugins.names("suggesters"):
        way = plugins.load("suggesters", name)
        assert way.suggest(one.pool, 5, way.Settings(), seed) == way.suggest(other.pool, 5, way.Settings(), seed)


def test_a_subject_is_a_row_and_labelled_where_one_of_its_scans_is() -> None:
    made = pools.subjects(scans(12, labelled=2), ("a", "b"), 3)
    assert made.pool.names == tuple(f"p{number}" for number in range(12))  # as people count
    assert made.pool.labelled.tolist() == [True] * 2 + [False] * 10
    assert made.pool.disagreement is not None
    assert np.isnan(made.pool.disagreement[:2]).all()
    assert not np.isnan(made.pool.disagreement[2:]).any()
    assert made.scans[0] == "p0_t1"  # the one without a label


def test_the_scan_to_label_is_nearest_to_the_subjects_mean_and_uncertainty_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    told = [Uncertainty(np.array([value]), value) for value in (0.2, 0.3, 0.7)]
    own = [Seen(f"a{n}", "a", False, np.array([float(x)]), told[n]) for n, x in enumerate((0, 4, 10))]
    others = [Seen(f"b{n}", f"b{n}", False, rng.normal(size=1), told[0]) for n in range(5)]
    made = pools.subjects([*own, *others], ("s",), 2)
    assert made.scans[0] == "a1"
    assert made.pool.disagreement is not None
    assert made.pool.entropy is not None
    assert made.pool.disagreement[0] == pytest.approx([0.4])
    assert made.pool.entropy[0] == pytest.approx(0.4)


def test_components_keep_distances_of_standardised_features() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3)) * [1, 100, 0.01] + [5, 0, -3]
    features = np.column_stack([features, np.full(40, 7.0)])  # a constant one tells nothing
    reduced, held = pools.reduce(features, 40)
    z = (features[:, :3] - features[:, :3].mean(0)) / features[:, :3].std(0)
    assert held == pytest.approx(1)
    for i, j in ((0, 1), (5, 17), (30, 39)):
        assert dist(reduced[i], reduced[j]) == pytest.approx(dist(z[i], z[j]))
    assert np.allclose(np.cov(reduced.T) - np.diag(np.diag(np.cov(reduced.T))), 0)


def test_components_hold_most_of_the_variance_and_are_fewer_than_subjects() -> None:
    rng = np.random.default_rng(0)
    wide, held = pools.reduce(
        rng.normal(size=(300, 3)) @ rng.normal(size=(3, 90)) + 0.01 * rng.normal(size=(300, 90)), 300
    )
    assert wide.shape[1] == 3
    assert held > 0.95
    assert pools.reduce(rng.normal(size=(60, 90)), 60)[0].shape[1] == pools.MOST_COMPONENTS
    assert pools.reduce(rng.normal(size=(6, 90)), 6)[0].shape[1] <= 5
    assert pools.reduce(np.ones((6, 90)), 6)[0].tolist() == [[0.0]] * 6


def a_pool(**more: Any) -> Pool:
    rows = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]])
    return Pool(tuple("abcde"), rows, np.array([True, False, False, False, False]), **more)


def test_who_is_near_to_a_labelled_subject() -> None:
    near = pools.nearest_labelled(a_pool(), 3)
    assert near is not None
    assert (near.name, near.distance, near.rank) == ("a", 10, 0.5)
    assert pools.nearest_labelled(a_pool()._replace(labelled=np.zeros(5, bool)), 3) is None
    # distances of pairs 1 2 10 11 1 9 10 8 9 1: half of them up to 8.5
    assert pools.covered(a_pool()) == 0.5
    assert pools.covered(a_pool(), [3]) == 1
    assert pools.covered(a_pool()._replace(labelled=np.zeros(5, bool))) == 0
    assert pools.covered(a_pool()._replace(labelled=np.zeros(5, bool)), [4]) == 0.4
