"""Rolling-Unet: Revitalizing MLP's Ability to Efficiently Extract Long-Distance Dependencies for Medical Image
Segmentation. Y. Liu, H. Zhu, M. Liu, H. Yu, Z. Chen, J. Gao. AAAI 2024,
https://ojs.aaai.org/index.php/AAAI/article/view/28173.

A U-Net whose two deepest levels, and the first block of its decoder, are made of rolled features. Rolling moves channel
k by k pixels along an axis, round the border, so that a linear layer of one pixel sees a diagonal of the whole map:

    OR_1(x) = W_2 roll_columns( GELU( W_1 roll_rows(x) ) )
    OR_2(x) = W_4 roll_rows( GELU( W_3 roll_columns^-1(x) ) )                roll^-1: channel k by -k
    long(x) = W_5 norm[ OR_1(x) + x, OR_2(x) + x ] + x
    Lo2(x)  = W_6 [ long(x), BatchNorm ReLU depthwise-separable(x) ]         [ , ]: of the channels

Such a level is Conv3x3, GELU, LayerNorm, Lo2, LayerNorm. The decoder brings maps up bilinearly and adds the skips.

Followed is the authors' code: widths f, 2f, 4f, 8f and 16f, f = 16, 32 and 64 are their S, M and L. Left out: a layer
that the code makes and does not use, one LayerNorm a block. Difference: weights begin as in our other networks
(Kaiming).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet
from lemis.layers.basic import BatchNorm

DIMS = (2,)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is the authors' code."""

    base_width: Annotated[int, Field(gt=0, multiple_of=2)] = 16  # f [C]: S; 32 and 64 are M and L
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # in the deepest level [C]: S; 0.2 in M


@final
class Backbone(unet.UNet):
    """``encode`` gives maps of f, 2f, 4f, 8f, 16f channels at strides 1, 2, 4, 8, 16; ``decode`` adds them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        f, dropout = settings.base_width, settings.dropout
        channels = unet.channels_of(f)
        encoder = [
            nn.Sequential(*_twice(in_channels, f, f)),
            nn.Sequential(*_twice(f, 2 * f, 2 * f)),
            nn.Sequential(*_twice(2 * f, 4 * f, 4 * f)),
            nn.Sequential(_Tokens(4 * f, 8 * f), _Lo2(8 * f), _Norm(8 * f)),
            nn.Sequential(_Tokens(8 * f, 16 * f), _Lo2(16 * f, dropout), _Norm(16 * f)),
        ]
        decoder = [
            _Up(_Tokens(16 * f, 8 * f), nn.Sequential(_Lo2(8 * f), _Norm(8 * f))),
            _Up(nn.Sequential(nn.Conv2d(8 * f, 4 * f, 3, padding=1), BatchNorm(4 * f), nn.ReLU(inplace=True))),
            _Up(nn.Sequential(*_twice(4 * f, 4 * f, 2 * f))),
            _Up(nn.Sequential(*_twice(2 * f, 2 * f, f))),
        ]
        head = nn.Sequential(*_twice(f, f, f // 2), nn.Conv2d(f // 2, num_classes, 1))
        super().__init__(channels, encoder, decoder, head, dims=2, slope=0.0)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        return unet.encode(self.encoder, x)


@final
class _Up(nn.Module):
    """Layers, twice the size, the skip added; then other layers where there are any."""

    def __init__(self, before: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.before = before
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""
        joined: Tensor = self.after(F.interpolate(self.before(x), scale_factor=2, mode="bilinear") + skip)
        return joined


@final
class _Tokens(nn.Sequential):
    """Conv3x3, GELU, LayerNorm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.GELU(), _Norm(out_channels))


@final
class _Norm(nn.LayerNorm):
    """LayerNorm of the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@final
class _Lo2(nn.Module):
    """Far features by rolling, near ones by a depthwise-separable convolution, and a linear layer of both."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rows_first = nn.ModuleList([_linear(channels, channels), _linear(channels, channels)])  # W_1, W_2
        self.columns_first = nn.ModuleList([_linear(channels, channels), _linear(channels, channels)])  # W_3, W_4
        self.norm = _Norm(2 * channels)
        self.long = _linear(2 * channels, channels)  # W_5
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, channels, 1), nn.ReLU(),
            BatchNorm(channels),
        )  # fmt: skip
        self.both = _linear(2 * channels, channels)  # W_6
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        first, second = self.rows_first
        one = self.drop(second(rolled(self.drop(F.gelu(first(rolled(x, 2)))), 3)))
        first, second = self.columns_first
        other = self.drop(second(rolled(self.drop(F.gelu(first(rolled(x, 3, back=True)))), 2)))
        long = self.drop(self.long(self.norm(torch.cat([one + x, other + x], 1)))) + x
        out: Tensor = self.drop(self.both(torch.cat([long, self.local(x)], 1)))
        return out


def rolled(x: Tensor, axis: int, *, back: bool = False) -> Tensor:
    """(B, C, H, W) with channel k moved by k pixels along an axis, 2 or 3, and what leaves the map back in on the
    other side; ``back``: by -k.
    """
    size = x.shape[axis]
    by = torch.arange(x.shape[1], device=x.device)[:, None] * (-1 if back else 1)
    place = (torch.arange(size, device=x.device) - by) % size  # (C, size), where each pixel is from
    return x.gather(axis, (place[:, :, None] if axis == 2 else place[:, None]).expand_as(x))


def _linear(inside: int, outside: int) -> nn.Conv2d:
    """A linear layer of the channels."""
    return nn.Conv2d(inside, outside, 1)


def _twice(in_channels: int, between: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, between, 3, padding=1), BatchNorm(between), nn.ReLU(inplace=True),
        nn.Conv2d(between, out_channels, 3, padding=1), BatchNorm(out_channels), nn.ReLU(inplace=True),
    ]  # fmt: skip
