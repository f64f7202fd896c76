"""Connected parts of label maps. Voxels that share a corner are connected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


class Parts(NamedTuple):
    """The connected parts of a mask."""

    of: NDArray[np.int32]  # the part of each voxel, 1, 2, ...; 0 outside
    voxels: NDArray[np.int64]  # of each part; [0] is 0

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.voxels) - 1


def parts(mask: NDArray[np.bool_]) -> Parts:
    """The connected parts of a mask of any number of dimensions, in the order of their first voxels."""
    of, count = ndimage.label(mask, structure=np.ones([3] * mask.ndim))
    voxels = np.zeros(count + 1, np.int64)
    for plane in of:  # bincount makes int64 of what it is given
        voxels += np.bincount(plane.ravel(), minlength=count + 1)
    voxels[0] = 0
    return Parts(of, voxels)


def largest(label: Tensor) -> Tensor:
    """Label maps in which each structure of each row is its largest connected part; the rest becomes background.

    Of parts of the same size the first one is kept. Computed on the CPU, by SciPy.

    Args:
        label: (B, *space) int64, 0 is the background.
    """
    rows = label.cpu().numpy()
    kept = np.zeros_like(rows)
    for row, out in zip(rows, kept, strict=True):
        for value in np.unique(row[row > 0]):
            found = parts(row == value)
            out[found.of == found.voxels.argmax()] = value
    return torch.from_numpy(kept).to(label.device)
