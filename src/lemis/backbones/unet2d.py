"""U-Net of the PCL protocol in two dimensions (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597).

Four levels of two (Conv3x3, BatchNorm, LeakyReLU) with max-pooling between them, a bottleneck of two (Conv3x3, ReLU)
without normalisation, and a mirror-image decoder with transposed convolutions and skip connections.
Widths f, 2f, 4f, 8f and 16f; the papers' f is 32 (CHD) or 48 (ACDC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.parts.layers import kaiming
from lemis.parts.unet import LEVELS, SLOPE, Up, block, bottleneck, check_divisible

DIMS = (2,)


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
            [block(i, o) for i, o in zip([in_channels, *widths[:-1]], widths, strict=True)]
            + [bottleneck(8 * f, 16 * f)]
        )
        self.decoder = nn.ModuleList([Up(2 * width, width) for width in reversed(widths)])
        self.head = nn.Conv2d(f, num_classes, 1, bias=False)
        kaiming(self, SLOPE)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        check_divisible(x)
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
