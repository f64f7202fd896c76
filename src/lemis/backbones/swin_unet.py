"""Swin-Unet: a U-Net of Swin transformer blocks only (Cao et al., Medical Computer Vision at ECCV 2022,
https://arxiv.org/abs/2105.05537).

Patches of 4x4 pixels become vectors of c numbers. Four encoder stages of Swin blocks (Liu et al., ICCV 2021) follow,
with a patch merging (half the size, twice the channels) after the first three. A decoder stage is a patch expanding
(twice the size, half the channels), concatenation with the encoder's map and a linear layer back to its width, and
Swin blocks; the last step expands each vector to 4x4 pixels. Only its 1x1 head is a convolution.

The blocks and mergings are MONAI's, imported when a network is built. Followed is the authors' code: skips are taken
before the blocks of a stage, the decoder has as many blocks as the encoder (its setting for fewer is never used), and
Swin's normal initialisation. Left out: ImageNet weights. Windows need not divide the map: it is padded with
zeros inside, and where the map is smaller than the window, the window is the map (MONAI then reads the relative
positions as if the map were the beginning of a full window).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet
from lemis.layers.swin import STAGES, Counts, check_heads

DIMS = (2,)

PATCH = 4  # side of a patch, in pixels
DIVISOR = PATCH * 2 ** (STAGES - 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is the authors' code: Swin-T, twice."""

    embedding: Annotated[int, Field(gt=0)] = 96  # c, of a patch [C]
    depths: Counts = (2, 2, 2, 2)  # blocks of each stage, finest first; even: every other one is shifted [C]
    heads: Counts = (3, 6, 12, 24)  # of each stage, finest first [C]
    window: Annotated[int, Field(gt=1)] = 7  # side in cells of the map [C]; 11 divides all maps of 352 pixels, 8 of 512
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of the deepest block, growing from 0 at the first [C]


@final
class Backbone(unet.UShaped):
    """``encode`` gives maps of c, 2c, 4c, 8c channels at strides 4, 8, 16, 32; ``decode`` ends at stride 1."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [settings.embedding * 2**stage for stage in range(STAGES)]
        check_heads(settings.heads, settings.embedding, "embedding", fits="an embedding of 96")
        stage_of, merging = _layers(settings)
        self.dims = 2
        self.channels = tuple(widths)
        self.strides = tuple(PATCH * 2**stage for stage in range(STAGES))
        self.decoder_channels = (*reversed(widths[:-1]), widths[0])
        self.decoder_strides = (*reversed(self.strides[:-1]), 1)
        self.patches = _Patches(in_channels, widths[0])
        self.encoder = nn.ModuleList(
            [stage_of(stage, merging if stage < STAGES - 1 else None) for stage in range(STAGES)]
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.decoder = nn.ModuleList(
            [_Up(widths[stage], stage_of(stage, None)) for stage in reversed(range(STAGES - 1))]
        )
        self.decoder.append(_Last(widths[0]))
        self.head = nn.Conv2d(widths[0], num_classes, 1, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 32 -> four maps, finest first."""
        unet.check_divisible(x, DIVISOR)
        maps = [self.patches(x)]
        for stage in self.encoder:
            maps.append(stage(maps[-1]))
        return [*maps[:-2], _last_axis(self.norm, maps[-1])]

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Four maps -> the map after each block: (B, c, H / 4, W / 4) after three, (B, c, H, W) after four."""
        x = maps[-1]
        for up, skip in zip(self.decoder, [*reversed(maps[:-1]), None], strict=True):
            x = up(x, skip)
            yield x


@final
class _Patches(nn.Module):
    """A vector of every patch, normalised."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / 4, W / 4)."""
        return _last_axis(self.norm, self.project(x))


@final
class _Expand(nn.Module):
    """Each cell becomes ``factor`` x ``factor`` cells of ``width`` channels, by one linear layer; then normalised."""

    def __init__(self, channels: int, width: int, factor: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, factor**2 * width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, factor H, factor W)."""
        x = self.linear(x.movedim(1, -1))
        x = x.unflatten(-1, (self.factor, self.factor, -1))  # (B, H, W, factor, factor, width)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        normed: Tensor = self.norm(x)
        return normed.movedim(-1, 1)


@final
class _Up(nn.Module):
    """Patch expanding, concatenation with the skip, a linear layer, Swin blocks."""

    def __init__(self, width: int, blocks: nn.Module) -> None:
        super().__init__()
        self.expand = _Expand(2 * width, width, 2)
        self.join = nn.Linear(2 * width, width)
        self.blocks = blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, 2 width, H, W), (B, width, 2H, 2W) -> (B, width, 2H, 2W)."""
        joined = _last_axis(self.join, torch.cat([self.expand(x), skip], 1))
        out: Tensor = self.blocks(joined)
        return out


@final
class _Last(nn.Module):
    """Normalisation of the decoder's end, and an expansion of each patch to its pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = _Expand(width, width, PATCH)

    def forward(self, x: Tensor, _: None) -> Tensor:
        """(B, width, H, W) -> (B, width, 4H, 4W)."""
        pixels: Tensor = self.expand(_last_axis(self.norm, x))
        return pixels


def _last_axis(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of vectors, applied to the channels of (B, C, H, W)."""
    out: Tensor = layer(x.movedim(1, -1))
    return out.movedim(-1, 1)


def _layers(settings: Settings) -> tuple[Callable[[int, Any], nn.Module], Any]:
    """A maker of the Swin blocks of a stage, and MONAI's patch merging."""
    from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2  # takes seconds

    rates = torch.linspace(0, settings.drop_path, sum(settings.depths), device="cpu").tolist()

    def stage_of(stage: int, downsample: Any) -> nn.Module:
        first = sum(settings.depths[:stage])
        layer: nn.Module = BasicLayer(
            dim=settings.embedding * 2**stage,
            depth=settings.depths[stage],
            num_heads=settings.heads[stage],
            window_size=(settings.window, settings.window),
            drop_path=rates[first : first + settings.depths[stage]],
            qkv_bias=True,
            downsample=downsample,
        )
        return layer

    return stage_of, PatchMergingV2
