"""The PCL protocol's U-Net, in pieces (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597).

Five maps of f, 2f, 4f, 8f and 16f channels at strides 1, 2, 4, 8 and 16. A network holds its layers itself, under the
names ``encoder``, ``decoder`` and ``head``; ``encode`` and ``decode`` go through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm

SLOPE = 0.01  # of LeakyReLU, and of the Kaiming initialisation that goes with it
LEVELS = 4  # poolings
STRIDES = tuple(2**level for level in range(LEVELS + 1))  # of the maps, finest first


@final
class Up(nn.Module):
    """Transposed convolution to half the channels and twice the size, concatenation with the skip, two convolutions.

    Args:
        in_channels: Of the deeper map; twice ``out_channels``.
        out_channels: Of the result and of the skip.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.block = block(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""
        joined: Tensor = self.block(torch.cat([self.up(x), skip], 1))
        return joined


def block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice Conv3x3, BatchNorm, LeakyReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            BatchNorm(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


def bottleneck(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice Conv3x3, ReLU, without normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


def channels_of(base_width: int) -> tuple[int, ...]:
    """Channels of the five maps, finest first."""
    return tuple(base_width * stride for stride in STRIDES)


def encoder(in_channels: int, channels: Sequence[int]) -> nn.ModuleList:
    """A block for each map but the deepest, which the bottleneck makes.

    Args:
        in_channels: Of the image.
        channels: Of the maps, finest first.
    """
    sizes = zip([in_channels, *channels[:-2]], channels[:-1], strict=True)
    return nn.ModuleList([*(block(i, o) for i, o in sizes), bottleneck(*channels[-2:])])


def encode(levels: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """An image through the layers of ``encoder``, with a max-pooling between any two -> their maps, finest first.

    Args:
        levels: Of an encoder, finest first.
        x: (B, C, H, W), H and W multiples of 16.

    Raises:
        UsageError: They are not.
    """
    check_divisible(x)
    maps: list[Tensor] = []
    for level in levels:
        x = level(nn.functional.max_pool2d(x, 2) if maps else x)
        maps.append(x)
    return maps


def decode(blocks: nn.ModuleList, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
    """The deepest map, brought up and joined with the next finer one by each of the first ``depth`` blocks.

    Args:
        blocks: (deeper map, skip) -> map of the skip's size; deepest first.
        maps: Of an encoder, finest first.
        depth: How many blocks; None is all, 0 gives the deepest map itself.
    """
    x = maps[-1]
    for up, skip in zip(blocks[:depth], reversed(maps[:-1]), strict=False):
        x = up(x, skip)
    return x


def part_of(parameter_name: str) -> str:
    """``decoder 1`` (deepest) and so on for keys of ``decoder``, ``head`` for those of ``head``, else ``encoder``."""
    part, *inside = parameter_name.split(".")
    if part == "decoder":
        return f"decoder {int(inside[0]) + 1}"
    return "head" if part == "head" else "encoder"


def parts_to(depth: int) -> tuple[str, ...]:
    """The encoder and the first ``depth`` decoder blocks, as ``part_of`` names them."""
    return ("encoder", *(f"decoder {k + 1}" for k in range(depth)))


def check_divisible(x: Tensor) -> None:
    """Refuse an image whose sides the poolings do not divide.

    Raises:
        UsageError: With the size that would do.
    """
    height, width = x.shape[-2:]
    divisor = 2**LEVELS
    if height % divisor or width % divisor:
        cure = tuple(-(-side // divisor) * divisor for side in (height, width))
        raise UsageError(
            f"an image of {height} x {width} pixels",
            allowed=f"both sides multiples of {divisor}",
            next=f"pad or crop it to {cure[0]} x {cure[1]}",
        )
