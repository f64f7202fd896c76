"""Connected parts of label maps."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def largest(label: Tensor) -> Tensor:
    """Label maps in which each structure of each row is its largest connected part; the rest becomes background.

    Pixels that share a corner are connected. Of parts of the same size the first one is kept. Computed on the
    CPU, by SciPy.

    Args:
        label: (B, *space) int64, 0 is the background.
    """
    rows = label.cpu().numpy()
    kept = np.zeros_like(rows)
    touching = np.ones([3] * (rows.ndim - 1))
    for row, out in zip(rows, kept, strict=True):
        for value in np.unique(row[row > 0]):
            parts, _ = ndimage.label(row == value, structure=touching)
            size = np.bincount(parts.ravel())
            size[0] = 0
            out[parts == size.argmax()] = value
    return torch.from_numpy(kept).to(label.device)
