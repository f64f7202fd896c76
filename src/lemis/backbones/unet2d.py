"""U-Net of the PCL protocol in two dimensions (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597).

Four levels of two (Conv3x3, BatchNorm, LeakyReLU) with max-pooling between them, a bottleneck of two (Conv3x3, ReLU)
without normalisation, and a mirror-image decoder with transposed convolutions and skip connections.
Widths f, 2f, 4f, 8f and 16f; the papers' f is 32 (CHD) or 48 (ACDC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.errors import UsageError
from lemis.parts.layers import BatchNorm, kaiming

DIMS = (2,)

SLOPE = 0.01  # of LeakyReLU, and of the Kaiming initialisation that goes with it
LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Width of the network."""

    base_width: Annotated[int, Field(gt=0)] = 48  # f on ACDC; 32 on CHD


@final
class Backbone(contracts.Backbone):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        f = settings.base_width
        widths = [f * 2**level for level in range(LEVELS)]
        self.dims = 2
        self.channels = (*widths, 16 * f)
        self.strides = tuple(2**level for level in range(LEVELS + 1))
        self.decoder_channels = tuple(reversed(widths))
        self.decoder_strides = tuple(reversed(self.strides[:-1]))
        self.encoder = nn.ModuleList(
            [_block(i, o) for i, o in zip([in_channels, *widths[:-1]], widths, strict=True)]
            + [_bottleneck(8 * f, 16 * f)]
        )
        self.decoder = nn.ModuleList([_Up(2 * width, width) for width in reversed(widths)])
        self.head = nn.Conv2d(f, num_classes, 1, bias=False)
        kaiming(self, SLOPE)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        _check_divisible(x)
        maps = [self.encoder[0](x)]
        for level in self.encoder[1:]:
            maps.append(level(nn.functional.max_pool2d(maps[-1], 2)))
        return maps

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Five maps -> the map after ``depth`` up-sampling blocks: (B, f, H, W) after all four."""
        x = maps[-1]
        for up, skip in zip(self.decoder[:depth], reversed(maps[:-1]), strict=False):
            x = up(x, skip)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes, H, W)."""
        logits: Tensor = self.head(self.decode(self.encode(x)))
        return logits

    def part_of(self, parameter_name: str) -> str:
        """``encoder``, ``decoder 1`` (deepest) to ``decoder 4``, or ``head``."""
        parts = parameter_name.split(".")
        return f"decoder {int(parts[1]) + 1}" if parts[0] == "decoder" else parts[0]


class _Up(nn.Module):
    """Transposed convolution, concatenation with the skip, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.block = _block(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.block(torch.cat([self.up(x), skip], 1))
        return joined


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            BatchNorm(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


def _bottleneck(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


def _check_divisible(x: Tensor) -> None:
    height, width = x.shape[-2:]
    divisor = 2**LEVELS
    if height % divisor or width % divisor:
        cure = tuple(-(-side // divisor) * divisor for side in (height, width))
        raise UsageError(
            f"an image of {height} x {width} pixels",
            allowed=f"both sides multiples of {divisor}",
            next=f"pad or crop it to {cure[0]} x {cure[1]}",
        )
