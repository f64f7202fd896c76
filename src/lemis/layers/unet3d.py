"""Pieces of the three-dimensional U-Nets (Cicek et al., MICCAI 2016, https://arxiv.org/abs/1606.06650).

Maps of f, 2f, 4f, ... channels at strides 1, 2, 4, ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemis.errors import UsageError
from lemis.layers import unet
from lemis.layers.basic import BatchNorm

Norm = Literal["instance", "batch", "group"]

SLOPE = 0.0  # of ReLU, for the Kaiming initialisation that goes with it


class UNet3d(unet.UNet):
    """Max-pooling between the maps, Kaiming initialisation for ReLU, and a 1x1x1 convolution with bias.

    Args:
        channels: Of the maps, finest first.
        encoder: As of ``unet.UNet``.
        decoder: As of ``unet.UNet``.
        num_classes: Of the logits.
        norm: As of ``norm_of``; only over the batch may the coarsest map be a single voxel.
    """

    def __init__(
        self,
        channels: Sequence[int],
        encoder: Iterable[nn.Module],
        decoder: Iterable[nn.Module],
        num_classes: int,
        norm: Norm,
    ) -> None:
        super().__init__(channels, encoder, decoder, nn.Conv3d(channels[0], num_classes, 1), dims=3, slope=SLOPE)
        self.one_cell = norm == "batch"

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, n, H, W), sides multiples of the largest stride -> maps, finest first."""
        check_sides(x, self.strides[-1], one_cell=self.one_cell)
        return unet.through(self.encoder, x, partial(F.max_pool3d, kernel_size=2))


@final
class Up(nn.Module):
    """The deeper map enlarged twice by nearest neighbours, concatenation with the skip, two convolutions.

    Args:
        deeper: Channels of the deeper map.
        channels: Of the skip and of the result.
        norm: As of ``norm_of``.
        gate: (deeper map, skip) -> how much of the skip passes, (B, 1, *space of the skip); None: all of it.
    """

    def __init__(self, deeper: int, channels: int, norm: Norm, *, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.first = nn.Conv3d(deeper + channels, channels, 3, padding=1, bias=False)
        self.then = nn.Sequential(
            norm_of(norm, channels), nn.ReLU(inplace=True), *convolution(channels, channels, norm)
        )  # fmt: skip

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, deeper, n, H, W), (B, channels, 2n, 2H, 2W) -> (B, channels, 2n, 2H, 2W)."""
        if self.gate is not None:
            skip = self.gate(x, skip) * skip
        joined: Tensor = self.then(convolve_joined(x, skip, self.first.weight))
        return joined


def convolve_joined(x: Tensor, skip: Tensor, weight: Tensor) -> Tensor:
    """The 3x3x3 convolution of ``x``, enlarged twice by nearest neighbours, and ``skip`` side by side.

    Neither the enlarged map nor the joined one is made: the convolution of an enlarged map is a transposed convolution
    of the small one with a kernel of side 4, which needs 8 products a voxel in place of 27.

    Args:
        x: (B, C, n, H, W).
        skip: (B, S, 2n, 2H, 2W).
        weight: (out, C + S, 3, 3, 3), of a convolution with padding 1.

    Returns:
        (B, out, 2n, 2H, 2W).
    """
    of_x, of_skip = weight.split([x.shape[1], skip.shape[1]], dim=1)
    joined = F.conv_transpose3d(x, enlarged(of_x).transpose(0, 1), stride=2, padding=1)
    joined += F.conv3d(skip, of_skip, padding=1)
    return joined


def enlarged(weight: Tensor) -> Tensor:
    """(out, in, 3, 3, 3) of a convolution -> (out, in, 4, 4, 4) of the transposed one that enlarges first.

    Along each axis the kernel is turned round and smeared over the two voxels that share a value.
    """
    for axis in (2, 3, 4):
        first, second, third = weight.unbind(axis)
        weight = torch.stack([third, second + third, first + second, first], axis)
    return weight


def norm_of(norm: Norm, channels: int) -> nn.Module:
    """Normalisation of a map: each channel of each image, each channel of the batch, or groups of up to 8 channels."""
    if norm == "instance":
        return nn.InstanceNorm3d(channels)
    return BatchNorm(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


def convolution(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Conv3x3x3 without bias, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False),
        norm_of(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def doubled(base_width: int, levels: int) -> tuple[int, ...]:
    """Channels of ``levels`` maps, finest first, which double from one to the next."""
    return tuple(base_width * 2**level for level in range(levels))


def encoder(in_channels: int, channels: Sequence[int], norm: Norm) -> nn.ModuleList:
    """For each map two convolutions, of which the first gives half the map's channels.

    Args:
        in_channels: Of the image.
        channels: Of the maps, finest first.
        norm: As of ``norm_of``.
    """
    sizes = zip([in_channels, *channels[:-1]], channels, strict=True)
    return nn.ModuleList([nn.Sequential(convolution(i, o // 2, norm), convolution(o // 2, o, norm)) for i, o in sizes])


def multiples(divisors: Sequence[int]) -> str:
    """``16``, or ``2 x 8 x 8`` where the axes differ."""
    return str(divisors[0]) if len(set(divisors)) == 1 else " x ".join(map(str, divisors))


def check_sides(
    x: Tensor, divisor: int | Sequence[int], *, one_cell: bool, what: str = "a volume", unit: str = "voxels"
) -> None:
    """Refuse a volume whose sides the poolings do not divide, or that they leave nothing of to normalise.

    Args:
        x: (B, C, *space).
        divisor: Stride of the coarsest map, along all axes or along each.
        one_cell: Whether that map may be a single voxel; its variance over one image is not defined.
        what: Is refused, in the message.
        unit: Of its sides, in the message.

    Raises:
        UsageError: With the size that would do.
    """
    sides = list(x.shape[2:])
    divisors = [divisor] * len(sides) if isinstance(divisor, int) else list(divisor)
    small = not one_cell and all(side <= by for side, by in zip(sides, divisors, strict=True))
    if small or any(side % by for side, by in zip(sides, divisors, strict=True)):
        cure = [-(-side // by) * by for side, by in zip(sides, divisors, strict=True)]
        cure[-1] = max(cure[-1], 2 * divisors[-1] if small else 0)
        by = multiples(divisors)
        raise UsageError(
            f"{what} of {' x '.join(map(str, sides))} {unit}",
            allowed=f"sides that are multiples of {by}"
            + ("" if one_cell else f", and not all {by}: one cell has no variance"),
            next=f"pad or crop it to {' x '.join(map(str, cure))}",
        )
