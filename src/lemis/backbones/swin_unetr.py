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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.errors import UsageError
from lemis.layers import unet

DIMS = (2, 3)

DIVISOR = 32  # patches of 2, and four mergings by 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is MONAI's code, [P] the paper."""

    dims: Literal[2, 3] = 2  # slices, as in KAF's comparison; 3: volumes [P]
    feature_size: Annotated[int, Field(gt=0, multiple_of=12)] = 48  # f; 48 [P], 24 is MONAI's default
    depths: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=4, max_length=4)] = (2, 2, 2, 2)  # [P]
    heads: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=4, max_length=4)] = (3, 6, 12, 24)  # [P]
    window: Annotated[int, Field(gt=1)] = 7  # side of an attention window, in cells of the map [P]
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the last block, growing from 0 at the first [C]


@final
class Backbone(contracts.Backbone):
    """Swin stages; five up-sampling blocks with residual blocks before them; a 1x1 convolution."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinUNETR  # takes seconds

        f = settings.feature_size
        _refuse_heads(settings)
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
        _refuse_sides(x)
        return [x, *self.transformer(x)]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Six maps -> the map after ``depth`` up-sampling blocks: (B, f, *space) after all five."""
        return unet.decode(self.decoder, maps, depth)

    def part_of(self, parameter_name: str) -> str:
        """``encoder`` (the transformer), ``decoder 1`` (deepest) to ``decoder 5``, or ``head``."""
        return unet.part_of(parameter_name)


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


def _refuse_heads(settings: Settings) -> None:
    for stage, heads in enumerate(settings.heads):
        width = settings.feature_size * 2**stage
        if width % heads:
            raise UsageError(
                f"heads={list(settings.heads)}: {heads} heads for {width} channels",
                allowed="heads that divide the channels of their stage: feature_size times 1, 2, 4 and 8",
                next="backbone.heads=[3,6,12,24] fits every feature_size",
            )


def _refuse_sides(x: Tensor) -> None:
    sides = list(x.shape[2:])
    if any(side % DIVISOR for side in sides) or max(sides) <= DIVISOR:
        cure = [-(-side // DIVISOR) * DIVISOR for side in sides]
        cure[-1] = max(cure[-1], 2 * DIVISOR if max(cure) == DIVISOR else 0)
        raise UsageError(
            f"an image of {' x '.join(map(str, sides))} pixels",
            allowed=f"sides that are multiples of {DIVISOR}, and not all {DIVISOR}: one cell has no variance",
            next=f"pad or crop it to {' x '.join(map(str, cure))}",
        )
