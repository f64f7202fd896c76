"""How well several label maps of one scan agree: the Dice of each two of them, structure by structure.

    Dice_c(k, l) = 2 |A_k and A_l| / (|A_k| + |A_l|),   1 where both are empty, 0 where one is

Slab after slab of a scan is added; only voxels are counted, K (K - 1) / 2 overlaps of each structure, and in each slice
those on which not all maps are of one mind.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray


class Agreement:
    """Counts over the slabs of one scan.

    Args:
        maps: K, how many there are.
        classes: Background, which is not counted, included.
    """

    def __init__(self, maps: int, classes: int) -> None:
        self._pairs = list(combinations(range(maps), 2))
        self._classes = classes
        self._voxels = np.zeros((maps, classes), np.int64)
        self._shared = np.zeros((len(self._pairs), classes), np.int64)
        self._apart: list[NDArray[np.int64]] = []

    def add(self, labels: NDArray[np.uint8]) -> None:
        """(K, slices, ...) class indices of the same voxels."""
        self._apart.append(self._differing(labels))
        flat = labels.reshape(len(labels), -1)
        for number, row in enumerate(flat):
            self._voxels[number] += np.bincount(row, minlength=self._classes)
        for number, (one, other) in enumerate(self._pairs):
            same = flat[one][flat[one] == flat[other]]
            self._shared[number] += np.bincount(same, minlength=self._classes)

    def _differing(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        differ = (labels != labels[0]).any(axis=0)
        number, of = np.nonzero(differ)[0], labels[:, differ]
        size = labels.shape[1]
        counts = [np.bincount(number[(of == c).any(axis=0)], minlength=size) for c in range(1, self._classes)]
        return np.array(counts, np.int64).reshape(self._classes - 1, size)

    def apart(self) -> NDArray[np.int64]:
        """(structures, slices) voxels that some maps, and not all, give to the structure."""
        return np.concatenate(self._apart, axis=1)

    def in_all(self) -> NDArray[np.bool_]:
        """(structures,) whether every map has the structure."""
        there: NDArray[np.bool_] = self._voxels[:, 1:].min(axis=0) > 0
        return there

    def disagreement(self) -> NDArray[np.float64]:
        """(structures,) 1 - Dice, the mean over all pairs; 0 everywhere of a single map."""
        if not self._pairs:
            return np.zeros(self._classes - 1)
        totals = np.array([self._voxels[one] + self._voxels[other] for one, other in self._pairs])
        dice = np.where(totals > 0, 2 * self._shared / np.maximum(totals, 1), 1.0)
        missing: NDArray[np.float64] = 1 - dice[:, 1:].mean(axis=0)
        return missing
