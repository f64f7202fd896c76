"""Attention among the points of an image (KAF: Yang et al., NeurIPS 2023; Vaswani et al. 2017).

Images have different numbers of points. Layers that treat every point alike see them *packed*, (N, C), N the points of
the whole batch; only attention itself sees them padded, (B, K, C), with the padding masked. So nothing that a layer
computes depends on how many rows are padding, nor, outside batch statistics, on the other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import lcm
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm, precise

HIDDEN_SHARE = 8  # the narrowest layer of ``PlaceEncoding`` has that part of its width


class Points(NamedTuple):
    """Which rows of a padded (B, K, ...) are points."""

    valid: Tensor  # (B, K) bool
    rows: Tensor  # (N,) int64, their places in (B * K)


def points_of(keypoints: Tensor) -> Points:
    """The points among (B, K, 2) places, of which NaN rows are none."""
    valid = ~keypoints.isnan().any(-1)
    return Points(valid, valid.flatten().nonzero()[:, 0])


def compact(keypoints: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """(B, K, 2) and what belongs to its rows, points first in their order, as few rows as the fullest image needs.

    Packed features are the same before and after.
    """
    valid = ~keypoints.isnan().any(-1)
    order = (~valid).int().argsort(dim=1, stable=True)[:, : max(1, int(valid.sum(1).max()))]
    return tuple(x.gather(1, order[..., None].expand(-1, -1, x.shape[2])) for x in (keypoints, *others))


def pack(x: Tensor, points: Points) -> Tensor:
    """(B, K, C) -> (N, C)."""
    return x.flatten(0, 1).index_select(0, points.rows)


def unpack(x: Tensor, points: Points) -> Tensor:
    """(N, C) -> (B, K, C), zero where there is no point."""
    padded = x.new_zeros(points.valid.numel(), x.shape[1]).index_copy(0, points.rows, x)
    return padded.view(*points.valid.shape, -1)


def mean_of_points(x: Tensor, points: Points) -> Tensor:
    """(N, C) -> (B, C), the mean over the points of each image, zero where it has none."""
    return unpack(x, points).sum(1) / points.valid.sum(1, keepdim=True).clamp(min=1)


@final
class PointMLP(nn.Module):
    """Linear, BatchNorm, ReLU, ..., Linear, the same for every point; the last bias begins at zero.

    Args:
        widths: Of input, hidden layers and output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), BatchNorm(o), nn.ReLU(inplace=True)]
        last: nn.Linear = layers[-3]  # type: ignore[assignment]
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, x: Tensor) -> Tensor:
        """(N, widths[0]) -> (N, widths[-1])."""
        out: Tensor = self.layers(x)
        return out


@final
class PointAttention(nn.Module):
    """m = W_o concat_h softmax(Q_h^T K_h / sqrt(width / heads)) V_h;  d + MLP([d ; m]).

    Args:
        width: Of a point's feature.
        heads: Divide ``width``.

    Raises:
        UsageError: They do not.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _refuse_heads(width, heads)
        self.heads = heads
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.mlp = PointMLP((2 * width, 2 * width, width))

    def forward(self, d: Tensor, points: Points, partner: Tensor | None = None) -> Tensor:
        """(N, width) -> (N, width).

        Args:
            d: Packed features.
            points: Of the batch.
            partner: (B,) the image whose points each image attends to; None is itself. From an image without points
                nothing is learned: its message is W_o's bias.
        """
        images, count = points.valid.shape
        queries, keys, values = (
            unpack(layer(d), points).view(images, count, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # (B, heads, K, width / heads), zero where there is no point
        seen = points.valid | ~points.valid.any(1, keepdim=True)  # of nothing but zeros, zero is the mean
        if partner is not None:
            keys, values, seen = keys[partner], values[partner], seen[partner]
        message = _attend(queries, keys, values, seen[:, None, None])
        joined = self.join(pack(message.transpose(1, 2).flatten(2), points))
        out: Tensor = d + self.mlp(torch.cat([d, joined.to(d.dtype)], 1)).to(d.dtype)
        return out


def _refuse_heads(width: int, heads: int) -> None:
    if width % heads:
        step = lcm(heads, HIDDEN_SHARE)
        raise UsageError(
            f"{heads} heads of attention for keypoint features of {width} numbers",
            allowed="a keypoint_width that the number of heads divides",
            next=f"backbone.keypoint_width={-(-width // step) * step}, or heads that divide {width}",
        )


def _attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
    with torch.autocast("cpu", enabled=False):  # on a CPU its backward pass is seven times as slow in bfloat16
        return F.scaled_dot_product_attention(precise(queries), precise(keys), precise(values), attn_mask=seen)


@final
class PlaceEncoding(nn.Module):
    """A pointwise network of where a point lies, from the centre of its grid, in units of 0.7 times a length.

    Args:
        width: Of the result; hidden layers have 1/8, 1/4, 1/2 and all of it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = PointMLP((2, width // HIDDEN_SHARE, width // 4, width // 2, width, width))

    def forward(self, place: Tensor, size: Sequence[int], length: float | None = None) -> Tensor:
        """(N, 2) places on a grid of ``size`` (rows, cols) -> (N, width); the length is its longer side by default."""
        centre = place.new_tensor(size) / 2
        out: Tensor = self.mlp((place - centre) / (0.7 * (length or max(size))))
        return out
