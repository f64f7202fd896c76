"""Modulated deformable convolution: each tap reads beside its place, as an offset says, and counts as a mask says.

J. Dai et al., ICCV 2017, https://arxiv.org/abs/1703.06211; the mask: X. Zhu et al., CVPR 2019,
https://arxiv.org/abs/1811.11168.

    y(p) = sum_k w_k m_k(p) x(p + p_k + o_k(p)),     x between pixels bilinear, and 0 outside the image

In plain PyTorch, with a network's weights for each image. A tap is a bag of four pixels with their weights, which is
what ``embedding_bag`` sums: faster than ``grid_sample`` on a CPU, the mask included, and whole offsets are
exact shifts. Taps and offsets are in the order of ``torchvision.ops.deform_conv2d``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """A k x k convolution (k odd) of N images with N weights, at stride 1; the output has the image's size.

    Args:
        x: (N, C, H, W).
        offset: (N, 2 k k, H, W) in pixels: row and column of the first tap, of the second one, ...; taps row by row.
        mask: (N, k k, H, W).
        weight: (N, out, C, k, k).

    Returns:
        (N, out, H, W).
    """
    n, channels, height, width = x.shape
    taps = mask.shape[1]
    pixels = x.flatten(2).transpose(1, 2).reshape(-1, channels)  # (N H W, C)
    bags, shares = _bags(_places(offset, taps), mask)
    read = F.embedding_bag(bags, pixels, mode="sum", per_sample_weights=shares)  # (N H W taps, C)
    w = weight.flatten(3).permute(0, 3, 2, 1).flatten(1, 2)  # (N, taps C, out)
    return (read.view(n, height * width, taps * channels) @ w).transpose(1, 2).reshape(n, -1, height, width)


def _places(offset: Tensor, taps: int) -> Tensor:
    """(N, 2 taps, H, W) -> (N, H, W, taps, 2), the pixel coordinates that each tap reads at."""
    n, _, height, width = offset.shape
    reach = round(taps**0.5) // 2
    along = torch.arange(-reach, reach + 1, device=offset.device)
    home = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).view(taps, 2)
    rows, columns = torch.arange(height, device=offset.device), torch.arange(width, device=offset.device)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)  # (H, W, 2)
    return offset.view(n, taps, 2, height, width).permute(0, 3, 4, 1, 2) + (grid[:, :, None] + home)


def _bags(places: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around each place, as rows of all images' pixels, and their shares: (N H W taps, 4) each."""
    n, height, width = places.shape[:3]
    # A network that has diverged must spoil its own image alone, and NaN is no index.
    low = torch.nan_to_num(places.detach()).floor()
    beyond = places - low
    first = torch.arange(n, device=places.device).view(n, 1, 1, 1) * (height * width)
    amount = mask.permute(0, 2, 3, 1)
    bags, shares = [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = low[..., 0] + down, low[..., 1] + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        bags.append(first + row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long())
        share = (beyond[..., 0] if down else 1 - beyond[..., 0]) * (beyond[..., 1] if right else 1 - beyond[..., 1])
        shares.append(share * inside * amount)
    return torch.stack(bags, -1).view(-1, 4), torch.stack(shares, -1).view(-1, 4)
