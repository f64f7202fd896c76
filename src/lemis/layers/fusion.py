"""The layer of KAF that joins a convolutional map and its keypoints (Yang et al., NeurIPS 2023).

Keypoint features are read from the map, attend to each other, are written back to their cells, spread by two
convolutions, and the result is laid beside the map. What is slow or undefined in the plain form is exact here:

- Keypoints that share a cell write their mean. One of them, the *leader*, reads and writes for all, so no cell is ever
  written twice and nothing depends on the order of additions.
- The first convolution of the spreading sees a map that is zero but for a few cells. Each leader's nine products are
  added where they belong, instead of a dense convolution of a wide map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lemis.layers.attention import PlaceEncoding, PointAttention, Points, compact, pack, points_of, unpack
from lemis.layers.basic import BatchNorm, precise


class Placed(NamedTuple):
    """Keypoints of a batch of images, made ready for all layers of a network."""

    place: Tensor  # (B, K, 2) in pixels, points first, no more rows than the fullest image needs
    points: Points  # of ``place``
    given: Points  # of the keypoints as they were given; packed features are the same

    @classmethod
    def of(cls, keypoints: Tensor) -> Placed:
        """Of (B, K, 2) places in pixels, of which NaN rows are none."""
        (place,) = compact(keypoints)
        return cls(place, points_of(place), points_of(keypoints))


class Cells(NamedTuple):
    """Where keypoints lie on a map, and which of them share a cell."""

    place: Tensor  # (B, K, 2) int64 row and column, inside the map; 0 where there is no point
    leader: Tensor  # (B, K, K) bool, True where column k is the leader of row k's cell; no True in rows without a point
    leads: Tensor  # (B, K) bool


def cells_of(keypoints: Tensor, points: Points, stride: int, size: tuple[int, int]) -> Cells:
    """Cells of a map of ``size`` (rows, cols) where keypoints (B, K, 2) lie; ``stride`` pixels of the image a cell."""
    limit = torch.tensor(size, device=keypoints.device) - 1
    place = ((keypoints.nan_to_num() + 0.5) / stride).floor().long()
    place = torch.minimum(place.clamp(min=0), limit) * points.valid[..., None]
    number = place[..., 0] * size[1] + place[..., 1]  # (B, K)
    same = (number[:, :, None] == number[:, None]) & points.valid[:, :, None] & points.valid[:, None]
    first = same.int().argmax(2)  # of no True at all, 0: such rows are masked
    own = torch.arange(number.shape[1], device=number.device)
    leader = (first[..., None] == own) & points.valid[..., None]
    return Cells(place, leader, points.valid & (first == own))


@final
class Diffusion(nn.Module):
    """Conv3x3, BatchNorm, ReLU, Conv3x3 of a map that is zero but for the cells of keypoints.

    Args:
        width: Of a keypoint's feature.
        channels: Of the result.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        hidden = width // 4
        self.spread = nn.Conv2d(width, hidden, 3, padding=1)  # only its weights are used: see ``forward``
        self.norm = BatchNorm(hidden)
        self.smooth = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, d: Tensor, cells: Cells, size: tuple[int, int]) -> Tensor:
        """Features (B, K, width) of the leaders (other rows are not looked at) -> (B, channels, *size)."""
        images, (height, width) = len(d), size
        weight = self.spread.weight.permute(1, 2, 3, 0).flatten(1)  # (width, 9 * hidden)
        products = (d.flatten(0, 1) @ weight).unflatten(1, (9, -1))  # (B K, 9, hidden)
        nowhere = images * height * width
        spread = products.new_zeros(nowhere + 1, products.shape[2])
        row, col = cells.place.flatten(0, 1).unbind(1)
        image = torch.arange(images, device=d.device).repeat_interleave(d.shape[1])
        for tap in range(9):
            # out[p] = sum_tap W[tap] x[p + tap - 1], so x at p is seen from p + 1 - tap.
            there, across = row + 1 - tap // 3, col + 1 - tap % 3
            inside = (there >= 0) & (there < height) & (across >= 0) & (across < width) & cells.leads.flatten()
            target = torch.where(inside, (image * height + there) * width + across, nowhere)
            spread.index_add_(0, target, products[:, tap])  # leaders lie apart: no target twice, but ``nowhere``
        dense = spread[:-1].view(images, height, width, -1).permute(0, 3, 1, 2)  # channels last in memory
        assert self.spread.bias is not None
        out: Tensor = self.smooth(self.norm(dense + self.spread.bias[:, None, None]).relu())
        return out


@final
class KeypointFusion(nn.Module):
    """One keypoint-augmented fusion layer.

    Args:
        channels: Of the map.
        width: Of a keypoint's feature.
        pairs: T; the layer has 2 T attention layers ("self" and "cross" of one and the same set).
        heads: Of each attention.
        place_px: Pixels of the image in whose 0.7-fold places are measured; None is its longer side.
    """

    def __init__(self, channels: int, width: int, pairs: int, heads: int, place_px: int | None = None) -> None:
        super().__init__()
        self.place_px = place_px
        self.project = nn.Linear(channels, width)
        self.encode = PlaceEncoding(width)
        self.attend = nn.ModuleList([PointAttention(width, heads) for _ in range(2 * pairs)])
        self.diffuse = Diffusion(width, channels)

    def forward(self, x: Tensor, at: Placed, stride: int) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W), a cell every ``stride`` pixels -> (B, 2 C, H, W), and features (B, K, width) of the
        keypoints as they were given."""
        size = (x.shape[2], x.shape[3])
        cells = cells_of(at.place, at.points, stride, size)
        # Sums over many layers stay in float32 where their terms are bfloat16.
        d = precise(self.project(pack(read(x, cells), at.points)))
        length = None if self.place_px is None else self.place_px / stride
        d = d + self.encode(pack(cells.place, at.points).to(d.dtype), size, length).to(d.dtype)
        for layer in self.attend:
            d = layer(d, at.points)
        mean = mean_of_cell(unpack(d, at.points), cells)
        return torch.cat([x, self.diffuse(mean, cells, size).to(x.dtype)], 1), unpack(d, at.given)


def read(x: Tensor, cells: Cells) -> Tensor:
    """(B, C, H, W) -> (B, K, C), the map at each keypoint's cell; zero where there is no point."""
    images, _, height, width = x.shape
    image = torch.arange(images, device=x.device)[:, None]
    number = (image * height + cells.place[..., 0]) * width + cells.place[..., 1]  # (B, K)
    seen = x.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, number.flatten()).view(*number.shape, -1)
    return cells.leader.to(x.dtype) @ (seen * cells.leads[..., None])


def mean_of_cell(d: Tensor, cells: Cells) -> Tensor:
    """(B, K, C) -> (B, K, C): at leaders the mean over the keypoints of their cell."""
    leader = cells.leader.to(d.dtype)
    return leader.mT @ d / leader.sum(1).clamp(min=1)[..., None]


def fusion_layers(
    levels: Sequence[int], channels: Sequence[int], width: int, pairs: int, heads: int, place_px: int | None
) -> nn.ModuleDict:
    """A layer at each of the encoder levels, counted from 1 and named so; ``channels`` are those of all levels."""
    return nn.ModuleDict(
        {str(level): KeypointFusion(channels[level - 1], width, pairs, heads, place_px) for level in levels}
    )


def sorted_levels(levels: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Encoder levels in order, each once, for pydantic.

    Raises:
        ValueError: One is not in 1 to ``most``.
    """
    if not set(levels) <= set(range(1, most + 1)):
        raise ValueError(f"levels are 1 (finest) to {most}")
    return tuple(sorted(set(levels)))
