"""Attention U-Net in three dimensions (Oktay et al., MIDL 2018, https://arxiv.org/abs/1804.03999).

The 3D U-Net of unet3d, in which the decoder decides where it listens to the skip connections:

    alpha = sigmoid( psi( ReLU( W_g g + W_x x ) ) ),   x <- alpha * x

g is the deeper map, x the skip of twice its size; W_g, W_x and psi are 1x1x1 convolutions with bias and batch
normalisation, W_g and W_x to as many channels as g has, psi to one.

Differences: the paper brings x down to the size of g, and alpha back up to that of x; here W_g g is enlarged by nearest
neighbours, and alpha is made at the size of x. Its deep supervision is a setting of fine-tuning, for any network:
``objective.deep_supervision``. Widths and gates are those of the comparison of Voxel Siamese
(https://arxiv.org/abs/2105.07672), whose printed 16.836 million parameters they give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lemis.layers import unet3d
from lemis.layers.basic import BatchNorm

DIMS = (3,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network."""

    base_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64  # f, as unet3d
    levels: Annotated[int, Field(ge=2, le=7)] = 4  # maps, as unet3d; three gates
    norm: unet3d.Norm = "instance"  # outside the gates; as unet3d [INFERRED]


@final
class _Gate(nn.Module):
    """The additive gate: how much of the skip passes, one number a voxel."""

    def __init__(self, gating: int, skip: int) -> None:
        super().__init__()
        self.of_gating = nn.Sequential(nn.Conv3d(gating, gating, 1), BatchNorm(gating))
        self.of_skip = nn.Sequential(nn.Conv3d(skip, gating, 1), BatchNorm(gating))
        self.psi = nn.Sequential(nn.Conv3d(gating, 1, 1), BatchNorm(1))

    def forward(self, g: Tensor, skip: Tensor) -> Tensor:
        """(B, gating, n, H, W), (B, skip, 2n, 2H, 2W) -> alpha (B, 1, 2n, 2H, 2W) between 0 and 1."""
        # Repeating every voxel changes neither a 1x1x1 convolution nor mean and variance: enlarge after them.
        both = F.interpolate(self.of_gating(g), scale_factor=2, mode="nearest")
        both += self.of_skip(skip)
        alpha: Tensor = self.psi(both.relu_()).sigmoid()
        return alpha


@final
class Backbone(unet3d.UNet3d):
    """``encode`` gives maps of f, 2f, 4f, 8f channels at strides 1, 2, 4, 8; ``decode`` joins them, gated."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels, norm = unet3d.doubled(settings.base_width, settings.levels), settings.norm
        encoder = unet3d.encoder(in_channels, channels, norm)
        decoder = [unet3d.Up(2 * width, width, norm, gate=_Gate(2 * width, width)) for width in channels[-2::-1]]
        super().__init__(channels, encoder, decoder, num_classes, norm)
