"""U-Net of the PCL protocol in two dimensions (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597).

Four levels of two (Conv3x3, BatchNorm, LeakyReLU) with max-pooling between them, a bottleneck of two (Conv3x3, ReLU)
without normalisation, and a mirror-image decoder with transposed convolutions and skip connections.
Widths f, 2f, 4f, 8f and 16f; the papers' f is 32 (CHD) or 48 (ACDC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field

from lemis.layers import unet

DIMS = (2,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Width of the network."""

    base_width: Annotated[int, Field(gt=0)] = 48  # f on ACDC; 32 on CHD


@final
class Backbone(unet.UNet2d):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels = unet.channels_of(settings.base_width)
        encoder = unet.encoder(in_channels, channels)
        decoder = [unet.Up(2 * width, width) for width in channels[-2::-1]]
        super().__init__(channels, encoder, decoder, num_classes)
