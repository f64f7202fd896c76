"""V-Net (Milletari et al., 3DV 2016, https://arxiv.org/abs/1606.04797).

Levels of one to three (Conv3x3x3, BatchNorm, ReLU); convolutions of side and stride 2 between them, which double the
channels, in place of pooling; a mirror-image decoder of transposed convolutions that adds the skip connections.
Widths f, 2f, 4f, 8f and 16f at strides 1, 2, 4, 8 and 16.

Differences: the paper's kernels have side 5, its activations are PReLU without normalisation, its decoder concatenates
the skips and is wider, and every level adds its input to its result (``residual``). This is the variant whose
parameters the comparison of Voxel Siamese printed (9.449 million, https://arxiv.org/abs/2105.07672), which
semi-supervised work made common (UA-MT, https://arxiv.org/abs/1907.07034).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet, unet3d
from lemis.layers.basic import BatchNorm

DIMS = (3,)

Counts = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=2, max_length=7)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [P] is the paper."""

    base_width: Annotated[int, Field(gt=0)] = 16  # f [P]
    # Of each level, finest first, in the encoder and again in the decoder; as many levels as numbers [P]
    convolutions: Counts = (1, 2, 3, 3, 3)
    residual: bool = False  # True: each level but the first adds its input [P]; False is the counted variant


@final
class Backbone(unet3d.UNet3d):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` adds them up."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels, residual = unet3d.doubled(settings.base_width, len(settings.convolutions)), settings.residual
        first, *deeper = zip(channels, settings.convolutions, strict=True)
        encoder: list[nn.Module] = [_Level(in_channels, *first, residual=False)]
        encoder += [_Down(width // 2, width, count, residual=residual) for width, count in deeper]
        mirrored = zip(channels[-2::-1], settings.convolutions[-2::-1], strict=True)
        decoder = [_Up(2 * width, width, count, residual=residual) for width, count in mirrored]
        super().__init__(channels, encoder, decoder, num_classes, "batch")

    def encode(self, x: Tensor) -> list[Tensor]:
        """As of any U-Net here, but without poolings: the levels make their maps small themselves."""
        unet3d.check_sides(x, self.strides[-1], one_cell=self.one_cell)
        return unet.through(self.encoder, x, nn.Identity())


@final
class _Down(nn.Module):
    """Convolution of side and stride 2, and the convolutions of a level."""

    def __init__(self, in_channels: int, out_channels: int, count: int, *, residual: bool) -> None:
        super().__init__()
        self.down = _normed(nn.Conv3d(in_channels, out_channels, 2, stride=2))
        self.level = _Level(out_channels, out_channels, count, residual=residual)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, 2n, 2H, 2W) -> (B, out, n, H, W)."""
        out: Tensor = self.level(self.down(x))
        return out


@final
class _Up(nn.Module):
    """Transposed convolution to half the channels and twice the size, sum with the skip, convolutions of a level."""

    def __init__(self, in_channels: int, out_channels: int, count: int, *, residual: bool) -> None:
        super().__init__()
        self.up = _normed(nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2))
        self.level = _Level(out_channels, out_channels, count, residual=residual)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, n, H, W), (B, out, 2n, 2H, 2W) -> (B, out, 2n, 2H, 2W)."""
        out: Tensor = self.level(self.up(x) + skip)
        return out


@final
class _Level(nn.Sequential):
    """``count`` times Conv3x3x3, BatchNorm, ReLU; ``residual`` adds the input to the result."""

    def __init__(self, in_channels: int, out_channels: int, count: int, *, residual: bool) -> None:
        inputs = [in_channels, *[out_channels] * (count - 1)]
        super().__init__(*(_normed(nn.Conv3d(channels, out_channels, 3, padding=1)) for channels in inputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, H, W) -> (B, out, n, H, W)."""
        out = x
        for layer in self:
            out = layer(out)
        return out + x if self.residual else out


def _normed(convolution: nn.Conv3d | nn.ConvTranspose3d) -> nn.Sequential:
    return nn.Sequential(convolution, BatchNorm(convolution.out_channels), nn.ReLU(inplace=True))
