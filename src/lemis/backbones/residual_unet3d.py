"""Residual 3D U-Net (Lee et al., "Superhuman accuracy on the SNEMI3D connectomics challenge", 2017,
https://arxiv.org/abs/1706.00120).

Levels of three (Conv3x3x3, normalisation, ELU) in which the result of the first convolution is added to that of the
third before its ELU:

    y = ELU(N(W1 x)),   out = ELU(N(W3 ELU(N(W2 y))) + y)

Max-pooling between levels; the decoder enlarges by transposed convolutions and adds the skip connection where other
U-Nets concatenate it. Widths f, 2f, 4f, 8f and 16f at strides 1, 2, 4, 8 and 16.

Differences: the paper's network is made for thick slices of electron microscopy: partly flat kernels, pooling within
slices only, fewer channels, batch normalisation. This is the layout of the comparison of Voxel Siamese
(https://arxiv.org/abs/2105.07672), cubic and of doubling widths: its printed 141.229 million parameters leave no room
for normalisation with parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lemis.layers import unet3d

DIMS = (3,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network."""

    base_width: Annotated[int, Field(gt=0)] = 64  # f; from the printed parameter count of Voxel Siamese
    levels: Annotated[int, Field(ge=2, le=7)] = 5  # maps; four poolings, as the paper
    norm: unet3d.Norm = "instance"  # [INFERRED] from the parameter count; "batch" is the paper's


@final
class _Residual(nn.Module):
    """Three convolutions; the first one's result is added to the third's."""

    def __init__(self, in_channels: int, out_channels: int, norm: unet3d.Norm) -> None:
        super().__init__()
        self.first = _convolution(in_channels, out_channels, norm)
        self.second = _convolution(out_channels, out_channels, norm)
        self.third = _convolution(out_channels, out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, H, W) -> (B, out, n, H, W)."""
        y = F.elu(self.first(x), inplace=True)
        out: Tensor = self.third(F.elu(self.second(y), inplace=True))
        out += y
        return F.elu(out, inplace=True)


@final
class _Up(nn.Module):
    """Transposed convolution to half the channels and twice the size, sum with the skip, residual block."""

    def __init__(self, in_channels: int, out_channels: int, norm: unet3d.Norm) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.block = _Residual(out_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, n, H, W), (B, out, 2n, 2H, 2W) -> (B, out, 2n, 2H, 2W)."""
        joined = self.up(x)
        joined += skip
        out: Tensor = self.block(joined)
        return out


def _convolution(in_channels: int, out_channels: int, norm: unet3d.Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False), unet3d.norm_of(norm, out_channels)
    )


@final
class Backbone(unet3d.UNet3d):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` adds them up."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels, norm = unet3d.doubled(settings.base_width, settings.levels), settings.norm
        sizes = zip([in_channels, *channels[:-1]], channels, strict=True)
        encoder = [_Residual(i, o, norm) for i, o in sizes]
        decoder = [_Up(2 * width, width, norm) for width in channels[-2::-1]]
        super().__init__(channels, encoder, decoder, num_classes, norm)
