"""Swin UNETR, in two and three dimensions (Hatamizadeh et al., BrainLes at MICCAI 2021,
https://arxiv.org/abs/2201.01266).

A Swin transformer of four stages as encoder, and a convolutional decoder of five up-sampling blocks with skip
connections, each behind a residual convolution block. The network is MONAI's, layer by layer; here its forward pass is
cut into an encoder and a decoder. MONAI is imported when a network is built, not before.

The encoder is the transformer alone. Its maps are what the decoder takes: the image itself, at stride 1, and with f the
feature size, f, 2f, 4f, 8f and 16f channels at strides 2, 4, 8, 16 and 32. The residual blocks are the decoder's, since
no loss on the transformer's end reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet, unet3d
from lemis.layers.swin import Counts, check_heads

DIMS = (2, 3)

DIVISOR = 32  # patches of 2, and four mergings by 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is MONAI's code, [P] the paper."""

    dims: Literal[2, 3] = 2  # slices, as in KAF's comparison; 3: volumes [P]
    feature_size: Annotated[int, Field(gt=0, multiple_of=12)] = 48  # f; 48 [P], 24 is MONAI's default
    depths: Counts = (2, 2, 2, 2)  # blocks of each stage [P]
    heads: Counts = (3, 6, 12, 24)  # of each stage [P]
    window: Annotated[int, Field(gt=1)] = 7  # side of an attention window, in cells of the map [P]
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the last block, growing from 0 at the first [C]


@final
class Backbone(unet.UShaped):
    """Swin stages; five up-sampling blocks with residual blocks before them; a 1x1 convolution."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinUNETR  # takes seconds

        f = settings.feature_size
        check_heads(settings.heads, f, "feature_size", fits="every feature_size")
        self.dims = settings.dims
        self.channels = (in_channels, f, 2 * f, 4 * f, 8 * f, 16 * f)
        self.strides = (1, 2, 4, 8, 16, 32)
        self.decoder_channels = (8 * f, 4 * f, 2 * f, f, f)
        self.decoder_strides = (16, 8, 4, 2, 1)
        with torch.device("cpu"):  # it reads numbers off tensors while it is built, which "meta" does not allow
            network = SwinUNETR(
                in_channels=in_channels,
                out_channels=num_classes,
                depths=settings.depths,
                num_heads=settings.heads,
                window_size=settings.window,
                feature_size=f,
                dropout_path_rate=settings.drop_path,
                spatial_dims=settings.dims,
            )
        self.transformer = network.swinViT
        self.decoder = nn.ModuleList(
            [
                _Up(network.decoder5, deeper=network.encoder10),
                _Up(network.decoder4, skip=network.encoder4),
                _Up(network.decoder3, skip=network.encoder3),
                _Up(network.decoder2, skip=network.encoder2),
                _Up(network.decoder1, skip=network.encoder1),
            ]
        )
        self.head = network.out
        self.to(torch.get_default_device())

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *space), sides multiples of 32 -> six maps, finest first; the finest is the image."""
        unet3d.check_sides(x, DIVISOR, one_cell=False, what="an image", unit="pixels")
        return [x, *self.transformer(x)]


@final
class _Up(nn.Module):
    """MONAI's up-sampling block, and the residual block of one of its two inputs."""

    def __init__(self, up: nn.Module, *, deeper: nn.Module | None = None, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.deeper, self.skip, self.up = deeper or nn.Identity(), skip or nn.Identity(), up

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Two maps, the second of twice the size -> one of the second's size."""
        joined: Tensor = self.up(self.deeper(x), self.skip(skip))
        return joined
