"""3D U-Net (Cicek et al., MICCAI 2016, https://arxiv.org/abs/1606.06650).

Levels of two (Conv3x3x3, normalisation, ReLU) with max-pooling between them; the first convolution of a level gives
half of its channels. The decoder enlarges by nearest neighbours, joins the skip connection and convolves twice.
Widths f, 2f, 4f and 8f at strides 1, 2, 4 and 8.

Differences: the paper enlarges by transposed convolutions and normalises over the batch. This is the layout of the
comparison of Voxel Siamese (https://arxiv.org/abs/2105.07672): its printed 16.313 million parameters leave no room for
transposed convolutions, biases or normalisation with parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.layers import unet, unet3d
from lemis.layers.basic import kaiming

DIMS = (3,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network."""

    base_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64  # f; from the printed parameter count of Voxel Siamese
    levels: Annotated[int, Field(ge=2, le=7)] = 4  # maps; three poolings (figure 2)
    norm: unet3d.Norm = "instance"  # [INFERRED] from the parameter count; "batch" is the paper's


@final
class Backbone(contracts.Backbone):
    """``encode`` gives maps of f, 2f, 4f, 8f channels at strides 1, 2, 4, 8; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.dims = 3
        self.channels, self.strides = unet3d.doubled(settings.base_width, settings.levels)
        self.decoder_channels, self.decoder_strides = self.channels[-2::-1], self.strides[-2::-1]
        self.one_cell = settings.norm == "batch"
        self.encoder = unet3d.encoder(in_channels, self.channels, settings.norm)
        self.decoder = nn.ModuleList([unet3d.Up(2 * width, width, settings.norm) for width in self.decoder_channels])
        self.head = nn.Conv3d(settings.base_width, num_classes, 1)
        kaiming(self, unet3d.SLOPE)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, n, H, W), sides multiples of the largest stride -> maps, finest first."""
        unet3d.check_sides(x, self.strides[-1], one_cell=self.one_cell)
        return unet3d.encode(self.encoder, x)

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Maps -> the map after ``depth`` up-sampling blocks: (B, f, n, H, W) after all of them."""
        return unet.decode(self.decoder, maps, depth)

    def part_of(self, parameter_name: str) -> str:
        """``encoder``, ``decoder 1`` (deepest) to ``decoder 3``, or ``head``."""
        return unet.part_of(parameter_name)
