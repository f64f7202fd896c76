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
from lemis.layers import unet
from lemis.layers.basic import kaiming

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
        self.dims = 2
        self.channels, self.strides = unet.channels_of(settings.base_width), unet.STRIDES
        self.decoder_channels, self.decoder_strides = self.channels[-2::-1], self.strides[-2::-1]
        self.encoder = unet.encoder(in_channels, self.channels)
        self.decoder = nn.ModuleList([unet.Up(2 * width, width) for width in self.decoder_channels])
        self.head = nn.Conv2d(settings.base_width, num_classes, 1, bias=False)
        kaiming(self, unet.SLOPE)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        return unet.encode(self.encoder, x)

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Five maps -> the map after ``depth`` up-sampling blocks: (B, f, H, W) after all four."""
        return unet.decode(self.decoder, maps, depth)

    def part_of(self, parameter_name: str) -> str:
        """``encoder``, ``decoder 1`` (deepest) to ``decoder 4``, or ``head``."""
        return unet.part_of(parameter_name)
