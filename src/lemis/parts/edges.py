"""Edges of maps by Sobel filters, differentiable, and two measures of them for losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sobel(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation of each map with three filters; at the border maps are mirrored, the edge pixel not repeated.

        -1 0 1      -1 -2 -1      -1 0  1
        -2 0 2       0  0  0       0 0  0
        -1 0 1       1  2  1       1 0 -1

    Args:
        maps: (N, K, H, W).

    Returns:
        Gx, Gy and Gxy, (N, K, H, W) each.
    """
    # By differences along an axis: a convolution of single channels takes longer.
    m = _mirrored(maps)
    across, down = m[..., 2:] - m[..., :-2], m[..., 2:, :] - m[..., :-2, :]
    x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return x, y, across[..., :-2, :] - across[..., 2:, :]


def disagreement(maps: Tensor) -> Tensor:
    """|Gx - Gy| + |Gx - Gxy| + |Gy - Gxy|: (N, K, H, W) -> (N, K), a mean over the pixels of each map.

    0 in a constant map. Along an edge it depends on the direction: |Gx - Gy| is 0 where a map grows as much
    downwards as to the right.
    """
    x, y, xy = sobel(maps)
    return ((x - y).abs() + (x - xy).abs() + (y - xy).abs()).mean((2, 3))


def total_variation(maps: Tensor) -> Tensor:
    """|Gx| + |Gy|: (N, K, H, W) -> (N, K), a mean over the pixels of each map."""
    x, y, _ = sobel(maps)
    return (x.abs() + y.abs()).mean((2, 3))


def _mirrored(x: Tensor) -> Tensor:
    # An axis of one pixel has nothing to mirror.
    for pad, size in (((1, 1, 0, 0), x.shape[3]), ((0, 0, 1, 1), x.shape[2])):
        x = F.pad(x, pad, mode="reflect" if size > 1 else "replicate")
    return x
