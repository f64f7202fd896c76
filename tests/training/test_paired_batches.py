"""Labelled batches with unlabelled rows beside them: who is in the pool, and in which order it comes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lemis.contracts import Sampling
from lemis.datasets.split import Split
from lemis.errors import UsageError
from lemis.preparation.store import Store, open_store
from lemis.training import paired, pool, sources, supervised
from lemis.training.paired import Paired
from lemis.training.pool import Settings

SCANS = [("a", True), ("a", False), ("b", True), ("c", False), ("d", True), ("d", False)]
SPLIT = Split(train_subjects=("a", "b"), labelled_subjects=("a",), test_subjects=("d",), source="")


def test_the_pool_has_scans_whose_labels_are_not_used_and_no_test_subject() -> None:
    assert pool.chosen(SCANS, SPLIT, Settings()) == [1, 2, 3]
    assert pool.chosen(SCANS, SPLIT, Settings(transductive=True)) == [1, 2, 3, 4, 5]


def test_an_empty_pool_is_refused_in_words() -> None:
    pool.refuse_empty([1], "bcp")
    with pytest.raises(UsageError, match="--semi bcp without an unlabelled scan, in row x") as error:
        pool.refuse_empty([], "bcp", ", in row x")
    assert "fewer --labelled" in str(error.value)


@pytest.fixture(scope="module")
def store(prepared_work: Path) -> Store:
    return open_store(prepared_work / "prepared")


def made(store: Store, patch_px: tuple[int, ...] | None = None, batch_size: int = 4) -> tuple[Paired, Sampling]:
    settings = supervised.Settings(batch_size=batch_size, size_px=16)
    labelled = [i for i, facts in enumerate(store.scans) if facts.labelled]
    others = [i for i, facts in enumerate(store.scans) if not facts.labelled]
    source, sampling = sources.of_labels(store, labelled, torch.device("cpu"), settings, patch_px, 0)
    return paired.with_pool(source, others, settings, sampling, 0), sampling


@pytest.mark.parametrize("patch_px", [None, (4, 16, 16)])
def test_labelled_rows_are_those_of_fine_tuning_without_a_pool(store: Store, patch_px: tuple[int, ...] | None) -> None:
    source, sampling = made(store, patch_px)
    for epoch in (0, 3):
        alone = source.labelled.draw(sampling, seed=1, epoch=epoch)
        both = source.draw(sampling, seed=1, epoch=epoch)
        columns = 1 if patch_px is None else 4
        for rows, own in zip(both, alone, strict=True):
            assert rows.shape == (len(own), 2 * columns)
            assert np.array_equal(rows[:, :columns].reshape(own.shape), own)
    expected = next(source.labelled.stream(alone))
    found = next(source.stream(both))
    assert torch.equal(found.image, expected.image)
    assert found.label is not None
    assert expected.label is not None
    assert torch.equal(found.label, expected.label)
    assert found.unlabelled is not None
    assert found.unlabelled.image.shape[0] == len(found.image)
    assert found.unlabelled.label is None
    named = source.scans_of(both[0])
    assert set(source.labelled.scans_of(alone[0])) < set(named)


def test_the_pool_comes_in_shuffles_without_end(store: Store) -> None:
    source, sampling = made(store)
    size, seen = len(source.pool), []
    for epoch in range(8):
        seen += [int(row) for rows in source.draw(sampling, seed=1, epoch=epoch) for row in rows[:, 1]]
    for first in range(0, len(seen) - size, size):
        assert sorted(seen[first : first + size]) == list(range(size)), "each scan once before any comes again"
    assert seen[:size] != seen[size : 2 * size]
    assert [int(row) for rows in source.draw(sampling, seed=2, epoch=0) for row in rows[:, 1]] != seen[: len(seen) // 8]


@pytest.mark.parametrize("patch_px", [None, (4, 16, 16)])
def test_the_pool_goes_on_after_a_smaller_last_batch(store: Store, patch_px: tuple[int, ...] | None) -> None:
    source, sampling = made(store, patch_px, batch_size=4 if patch_px is None else 2)
    size, columns, seen = len(source.pool), 1 if patch_px is None else 4, []
    for epoch in range(6):
        batches = source.draw(sampling, seed=1, epoch=epoch)
        assert [len(rows) for rows in batches] == ([4, 4, 4, 3] if patch_px is None else [2, 1])
        seen += [int(row) for rows in batches for row in rows[:, columns]]
        for rows, batch in zip(batches, source.stream(batches), strict=True):
            assert batch.unlabelled is not None
            assert len(batch.image) == len(batch.unlabelled.image) == len(rows)
    for first in range(0, len(seen) - size, size):
        assert sorted(seen[first : first + size]) == list(range(size)), "no row is left out at the end of an epoch"


def test_a_pool_smaller_than_a_batch_comes_again_within_it(store: Store) -> None:
    settings = supervised.Settings(batch_size=12, size_px=16)
    labelled, sampling = sources.of_labels(store, [0, 1, 2], torch.device("cpu"), settings, (4, 16, 16), 0)
    source = paired.with_pool(labelled, [3, 4], settings, sampling, 0)
    (rows,) = source.draw(sampling, seed=0, epoch=0)
    assert Counter(rows[:, 4].tolist()) == {0: 6, 1: 6}
    assert next(source.stream([rows])).unlabelled is not None
