"""Labelled batches, and beside each row one of the pool: scans whose labels are not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from lemis.contracts import Batch, Sampling
from lemis.preparation.store import Store
from lemis.sampling.patches import Patches
from lemis.sampling.samples import Slices
from lemis.training import supervised


def with_pool(
    labelled: Slices | Patches,
    pool: Sequence[int],
    settings: supervised.Settings,
    sampling: Sampling,
    keypoints: int,
    taught: Store | None = None,
) -> Paired:
    """Labelled batches, and beside each row one of a scan whose label is not read.

    Args:
        labelled: From ``of_labels``.
        pool: The scans whose labels are not used, as positions in the store's ``scans``.
        settings: Of the objective.
        sampling: From ``of_labels``.
        keypoints: Of a slice, as many at most.
        taught: The store with label maps of a teacher as labels, where rows of the pool are to have those.
    """
    others: Slices | Patches
    store, device, with_labels = taught or labelled.store, labelled.device, taught is not None
    if sampling.patch_px is None:
        others = Slices(store, pool, device, with_labels=with_labels, keypoints=keypoints)
    else:
        others = Patches(store, pool, device, sampling, settings.spatial, with_labels=with_labels)
    return Paired(labelled, others)


@final
class Paired:
    """Labelled batches as they are without the pool; with each row one of the pool, which becomes ``unlabelled``.

    An epoch is a pass over the labelled rows. Those of the pool come from shuffles of it without end: row n of the run
    is a function of (seed, n), so a resumed run sees those that it would have seen.

    Args:
        labelled: Where labelled batches come from.
        pool: Where the others come from.
    """

    def __init__(self, labelled: Slices | Patches, pool: Slices | Patches) -> None:
        self.labelled, self.pool = labelled, pool

    def draw(self, sampling: Sampling, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """(B, 2) rows of the two sets, or (B, 8) patches of both, of every batch of one epoch."""
        batches = [_columns(rows) for rows in self.labelled.draw(sampling, seed=seed, epoch=epoch)]
        count = sum(map(len, batches))
        others = self._others(sampling, seed, epoch * count, count)
        ends = np.cumsum([len(rows) for rows in batches])[:-1]
        return [np.concatenate(both, axis=1) for both in zip(batches, np.split(others, ends), strict=True)]

    def stream(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Labelled batches with their ``unlabelled`` rows, in order."""
        halves = [np.split(rows, 2, axis=1) for rows in batches]
        labelled, pool = (
            source.stream([_rows(half[which]) for half in halves])
            for which, source in enumerate((self.labelled, self.pool))
        )
        for batch, others in zip(labelled, pool, strict=True):
            yield batch._replace(unlabelled=others)

    def scans_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Ids of the scans of a batch, of the pool too."""
        labelled, pool = (_rows(half) for half in np.split(rows, 2, axis=1))
        return sorted({*self.labelled.scans_of(labelled), *self.pool.scans_of(pool)})

    def _others(self, sampling: Sampling, seed: int, first: int, count: int) -> NDArray[np.int64]:
        """(count, c) rows ``first``, ``first + 1``, ... of the endless shuffles of the pool."""
        one_by_one = replace(sampling, batch_size=1, foreground_share=0.0)
        size = len(self.pool)
        shuffles = range(first // size, (first + count - 1) // size + 1)
        # A key of their own: no epoch of the labelled set is as late as that.
        drawn = [
            np.concatenate([_columns(row) for row in self.pool.draw(one_by_one, seed=seed, epoch=2**32 + number)])
            for number in shuffles
        ]
        return np.concatenate(drawn)[first % size : first % size + count]


def _columns(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) or (B, 4) -> (B, 1) or (B, 4)."""
    return rows.reshape(len(rows), -1)


def _rows(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B, 1) or (B, 4) -> (B,) or (B, 4), contiguous."""
    return np.ascontiguousarray(columns[:, 0] if columns.shape[1] == 1 else columns)
