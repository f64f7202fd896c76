"""3D U-Net (Cicek et al., MICCAI 2016, https://arxiv.org/abs/1606.06650).

Levels of two (Conv3x3x3, normalisation, ReLU) with max-pooling between them; the first convolution of a level gives
half of its channels. The decoder enlarges by nearest neighbours, joins the skip connection and convolves twice.
Widths f, 2f, 4f and 8f at strides 1, 2, 4 and 8.

Differences: the paper enlarges by transposed convolutions and normalises over the batch. This is the layout of the
comparison of Voxel Siamese (https://arxiv.org/abs/2105.07672): its printed 16.313 million parameters leave no room for
transposed convolutions, biases or normalisation with parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field

from lemis.layers import unet3d

DIMS = (3,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network."""

    base_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64  # f; from the printed parameter count of Voxel Siamese
    levels: Annotated[int, Field(ge=2, le=7)] = 4  # maps; three poolings (figure 2)
    norm: unet3d.Norm = "instance"  # [INFERRED] from the parameter count; "batch" is the paper's


@final
class Backbone(unet3d.UNet3d):
    """``encode`` gives maps of f, 2f, 4f, 8f channels at strides 1, 2, 4, 8; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        channels = unet3d.doubled(settings.base_width, settings.levels)
        encoder = unet3d.encoder(in_channels, channels, settings.norm)
        decoder = [unet3d.Up(2 * width, width, settings.norm) for width in channels[-2::-1]]
        super().__init__(channels, encoder, decoder, num_classes, settings.norm)
