"""Attention U-Net in two dimensions (Oktay et al., MIDL 2018, https://arxiv.org/abs/1804.03999).

The U-Net of the PCL protocol (unet2d), in which the decoder decides where it listens to the skip connections:

    alpha = sigmoid( psi( ReLU( W_g g + W_x x ) ) ),   x <- alpha * x

g is the deeper map after its transposed convolution, x the skip of the same size; W_g, W_x and psi are 1x1
convolutions with bias and batch normalisation, W_g and W_x to as many channels as g has, psi to one.

Differences: the paper's gate takes g before it is enlarged, and brings x down to its size and alpha back up to that of
x; ours works at the size of x, as most implementations do. Its deep supervision is a setting of fine-tuning, for any
network: ``objective.deep_supervision``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet
from lemis.layers.basic import BatchNorm

DIMS = (2,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Width of the network."""

    base_width: Annotated[int, Field(gt=0)] = 48  # f, as unet2d on ACDC; 32 on CHD


@final
class _Gate(nn.Module):
    """The additive gate: how much of the skip passes, one number a pixel."""

    def __init__(self, gating: int, skip: int) -> None:
        super().__init__()
        self.of_gating = nn.Sequential(nn.Conv2d(gating, gating, 1), BatchNorm(gating))
        self.of_skip = nn.Sequential(nn.Conv2d(skip, gating, 1), BatchNorm(gating))
        self.psi = nn.Sequential(nn.Conv2d(gating, 1, 1), BatchNorm(1))

    def forward(self, g: Tensor, skip: Tensor) -> Tensor:
        """(B, gating, H, W), (B, skip, H, W) -> alpha (B, 1, H, W) between 0 and 1."""
        alpha: Tensor = self.psi(nn.functional.relu(self.of_gating(g) + self.of_skip(skip))).sigmoid()
        return alpha


@final
class _GatedUp(nn.Module):
    """Transposed convolution, concatenation with the gated skip, two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.gate = _Gate(channels, channels)
        self.block = unet.block(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, 2C, H, W), (B, C, 2H, 2W) -> (B, C, 2H, 2W)."""
        g = self.up(x)
        joined: Tensor = self.block(torch.cat([g, self.gate(g, skip) * skip], 1))
        return joined


@final
class Backbone(unet.UNet2d):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` joins them, gated."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels = unet.channels_of(settings.base_width)
        encoder = unet.encoder(in_channels, channels)
        decoder = [_GatedUp(width) for width in channels[-2::-1]]
        super().__init__(channels, encoder, decoder, num_classes)
