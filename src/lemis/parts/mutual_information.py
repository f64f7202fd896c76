"""Mutual information of two cluster maps, over small displacements (IIC: Ji, Henriques, Vedaldi 2019).

For a displacement t the joint distribution of the clusters at a pixel u of one map and at u + t of the other,

    P_t = sum_u phi_u phi'_{u+t}^T,   made symmetric, sum 1,

and the loss is - sum_ij P_ij (log P_ij - lamb log P_i - lamb log P_j), with lamb = 1 minus their mutual information: at
least -ln K, which says that the clusters agree and are equally large; 0 where one map says nothing of the other.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.layers.basic import precise

Over = Literal["uncollapsed", "collapsed"]


def loss(
    phi: Tensor,
    other: Tensor,
    inside: Tensor | None = None,
    *,
    reach_px: int = 0,
    lamb: float = 1.0,
    over: Over = "uncollapsed",
) -> Tensor:
    """Minus the mutual information of the clusters, image by image.

    Args:
        phi: (N, K, H, W) probabilities, sum 1 over K; at least float32 is computed in.
        other: (N, K, H, W), of the same images in the same frame.
        inside: (N, H, W) bool, pixels that count in both maps; all by default.
        reach_px: T; displacements are the (2T + 1)^2 of at most T pixels along each axis, as far as the image is large.
        lamb: Weight of the marginals' entropy; above 1 it favours clusters of equal size.
        over: ``uncollapsed``: mean of the loss over displacements; ``collapsed``: loss of the sum of P.

    Returns:
        (N,)
    """
    P = joint(phi, other, inside, reach_px)  # (T', N, K, K)
    if over == "collapsed":
        P = P.sum(0, keepdim=True)
    P = (P + P.transpose(-1, -2)) / 2
    eps = torch.finfo(P.dtype).eps
    P = P / P.sum((-1, -2), keepdim=True).clamp(min=eps)
    row, column = P.sum(-1, keepdim=True), P.sum(-2, keepdim=True)
    P, row, column = (x.clamp(min=eps) for x in (P, row, column))
    return -(P * (P.log() - lamb * row.log() - lamb * column.log())).sum((-1, -2)).mean(0)


def joint(phi: Tensor, other: Tensor, inside: Tensor | None, reach_px: int) -> Tensor:
    """sum_u phi_u other_{u+t}^T for each displacement t: (N, K, H, W), twice -> (displacements, N, K, K).

    Displacements go row by row, from the most negative; those that take the image off itself are left out.
    """
    phi, other = precise(phi), precise(other)
    if inside is not None:
        phi, other = phi * inside[:, None], other * inside[:, None]
    rows, columns = phi.shape[-2:]
    down, right = min(reach_px, rows - 1), min(reach_px, columns - 1)
    # With ``right`` zeros after each row, a displacement is a shift of the flattened image: no map is copied for it.
    width = columns + right
    margin = down * width + right
    phi, other = (F.pad(x, (0, right)).flatten(2) for x in (phi, other))
    other = F.pad(other, (margin, margin)).transpose(1, 2)
    shifts = [y * width + x for y in range(-down, down + 1) for x in range(-right, right + 1)]
    return torch.stack([phi @ other.narrow(1, margin + shift, rows * width) for shift in shifts])
