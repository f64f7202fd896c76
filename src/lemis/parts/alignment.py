"""Alignment of the feature maps of two slices: full, and inside windows (SAL: Li et al., ISBI 2024).

Nothing larger than windows x (slices x cells of a window)^2 is ever built; the full form is one window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment_loss(
    features: Tensor,
    pairs: Tensor,
    window: int | tuple[int, int] | None,
    valid: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Mean over pairs (i, j), windows r and cells a of |1 - max_b <x_i^r[a], x_j^r[b]>|.

    Args:
        features: (S, C, h, w), unit length over C (a zero vector is a match for nothing).
        pairs: (S, S) bool, the ordered pairs (i, j) to align; i's cells look for their best match in j.
        window: Side of the square windows in cells, or their rows and columns; None is one window, the whole map. Where
            it does not divide the map, the right and bottom windows are smaller: padded cells are neither matched nor
            counted.
        valid: (S, h, w) bool, cells that may match and count; None is all of them.
        target: (S, C, h, w), the x_j where they differ from the x_i (a detached copy, say); None is ``features``.

    Returns:
        Scalar in [0, 2]; 0 when ``pairs`` is empty or no pair shares a valid cell.
    """
    slices, _, height, width = features.shape
    if valid is None:
        valid = torch.ones(slices, height, width, dtype=torch.bool, device=features.device)
    rows_cols = (window, window) if isinstance(window, int) else window
    side = rows_cols or (height, width)
    cells = _windows(features, side)  # (R, S, a, C)
    matched = cells if target is None else _windows(target, side)
    counts = _windows(valid[:, None].to(features.dtype), side)[..., 0] > 0  # (R, S, a)
    if bool(counts.all()):
        best = _best_match(cells, matched, None)
        rows = pairs.expand(len(cells), -1, -1)[..., None].expand_as(best)
    else:
        best = _best_match(cells, matched, counts)
        rows = pairs[None, :, :, None] & counts[:, :, None] & counts.any(2)[:, None, :, None]
    losses = (1 - best).abs().masked_fill(~rows, 0)
    return losses.sum() / rows.sum().clamp(min=1)


def _best_match(cells: Tensor, matched: Tensor, valid: Tensor | None) -> Tensor:
    """Twice (R, S, a, C) -> (R, S, S, a): for cell a of slice i, its best cosine among the cells of slice j."""
    count, slices, size, _ = cells.shape
    with torch.autocast(cells.device.type, enabled=False):
        similarity = cells.flatten(1, 2) @ matched.flatten(1, 2).mT  # (R, S a, S b)
    similarity = similarity.view(count, slices, size, slices, size)
    if valid is not None:
        similarity = similarity.masked_fill(~valid[:, None, None], -2)  # below any cosine; such rows are dropped
    return similarity.amax(-1).transpose(2, 3)


def _windows(x: Tensor, side: tuple[int, int]) -> Tensor:
    """(S, C, h, w) -> (R, S, side * side, C), zero-padded at the right and bottom to whole windows."""
    slices, channels, height, width = x.shape
    rows, cols = -(-height // side[0]), -(-width // side[1])
    x = F.pad(x, (0, cols * side[1] - width, 0, rows * side[0] - height))
    x = x.view(slices, channels, rows, side[0], cols, side[1])
    return x.permute(2, 4, 0, 3, 5, 1).reshape(rows * cols, slices, side[0] * side[1], channels)
