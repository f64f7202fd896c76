"""Blocks of the PCL protocol's U-Net (Ronneberger et al., MICCAI 2015; section 1.6 of our notes)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lemis.errors import UsageError
from lemis.parts.layers import BatchNorm

SLOPE = 0.01  # of LeakyReLU, and of the Kaiming initialisation that goes with it
LEVELS = 4  # poolings


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
