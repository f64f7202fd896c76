"""U-KAN: U-KAN Makes Strong Backbone for Medical Image Segmentation and Generation. C. Li, X. Liu, W. Li, C. Wang,
H. Liu, Y. Liu, Z. Chen, Y. Yuan. AAAI 2025, https://arxiv.org/abs/2406.02918.

Three levels of convolutions, two of tokens that Kolmogorov-Arnold layers work on, and a decoder that goes the way back
and adds its skips. A KAN layer has a learned function of one variable where a linear layer has a weight:

    y_j = sum_i [ w_ji silu(x_i) + s_ji sum_k c_jik B_k(x_i) ]

B_k are the cubic B-splines over five equal intervals of [-1, 1], eight of them; beyond the grid only silu is left. A
KAN block is  x + f(norm(x)),  f three times a KAN layer of each token, a depthwise 3x3 convolution, BatchNorm and ReLU.
A level of the encoder that has tokens makes them by a convolution of stride 2 (Conv3x3, LayerNorm), then the block and
a LayerNorm; one of the decoder is two convolutions, twice the size bilinearly, the skip added, and block and LayerNorm
at strides 16 and 8.

Followed is the authors' code (Seg_UKAN): widths f / 2, f, 4 f, 5 f and 8 f at strides 2, 4, 8, 16 and 32, with f = 32;
f = 64 is their large one. The number of parameters is the published one. Left out: dropped paths, which are 0 there.
Differences: convolutions begin as in our other networks (Kaiming), c small and random, not fitted to a small random
curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet
from lemis.layers.basic import BatchNorm, kaiming, precise

DIMS = (2,)

INTERVALS, ORDER = 5, 3  # of the splines, on [-1, 1]
SPLINES = INTERVALS + ORDER
NOISE = 0.1 / INTERVALS  # width of the range in which coefficients begin


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is the authors' code."""

    base_width: Annotated[int, Field(gt=0, multiple_of=2)] = 32  # f [C]; 64 is the large one [C]


@final
class Backbone(unet.UShaped):
    """``encode`` gives maps of f/2, f, 4f, 5f, 8f channels at strides 2, 4, 8, 16, 32; ``decode`` ends at stride 1."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        f = settings.base_width
        widths = (f // 2, f, 4 * f, 5 * f, 8 * f)
        self.dims = 2
        self.channels, self.strides = widths, (2, 4, 8, 16, 32)
        self.decoder_channels, self.decoder_strides = (*widths[-2::-1], widths[0]), (16, 8, 4, 2, 1)
        sizes = list(zip((in_channels, *widths[:-1]), widths, strict=True))
        self.encoder = nn.ModuleList(
            [*(_Convolved(i, o) for i, o in sizes[:3]), *(_Tokens(i, o) for i, o in sizes[3:])]
        )
        back = list(zip(reversed(widths), self.decoder_channels, strict=True))
        self.decoder = nn.ModuleList([_Up(i, o, tokens=level < 2) for level, (i, o) in enumerate(back)])
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        kaiming(self, 0.0)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 32 -> five maps, finest first."""
        unet.check_divisible(x, self.strides[-1])
        maps = [x]
        for level in self.encoder:
            maps.append(level(maps[-1]))
        return maps[1:]

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Five maps -> the map after each block, the last of which has no skip and the size of the image."""
        x = maps[-1]
        for up, skip in zip(self.decoder, [*reversed(maps[:-1]), None], strict=True):
            x = up(x, skip)
            yield x


@final
class _Convolved(nn.Sequential):
    """Two convolutions, and half the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(*_twice(in_channels, out_channels, out_channels), nn.MaxPool2d(2))


@final
class _Tokens(nn.Module):
    """Tokens of half the size, a KAN block, LayerNorm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)
        self.block = _Block(out_channels)
        self.last = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / 2, W / 2)."""
        return _of_vectors(self.last, self.block(_of_vectors(self.norm, self.embed(x))))


@final
class _Up(nn.Module):
    """Two convolutions, twice the size, the skip added; where there are tokens, a KAN block and LayerNorm."""

    def __init__(self, in_channels: int, out_channels: int, *, tokens: bool) -> None:
        super().__init__()
        self.convolved = nn.Sequential(*_twice(in_channels, in_channels, out_channels))
        self.block = _Block(out_channels) if tokens else None
        self.norm = nn.LayerNorm(out_channels) if tokens else None

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""
        x = F.interpolate(self.convolved(x), scale_factor=2, mode="bilinear")
        x = x if skip is None else x + skip
        return x if self.block is None or self.norm is None else _of_vectors(self.norm, self.block(x))


@final
class _Block(nn.Module):
    """x + three times (KAN layer, depthwise convolution, BatchNorm, ReLU) of LayerNorm(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.layers = nn.ModuleList([_Layer(channels, channels) for _ in range(3)])
        self.mixed = nn.ModuleList([_mixing(channels) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        y = _of_vectors(self.norm, x)
        for layer, mixed in zip(self.layers, self.mixed, strict=True):
            y = mixed(_of_vectors(layer, y))
        return x + y


@final
class _Layer(nn.Module):
    """A KAN layer of vectors (..., in) -> (..., out)."""

    knots: Tensor

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.empty(outside, inside))  # w
        self.scale = nn.Parameter(torch.empty(outside, inside))  # s
        self.coefficients = nn.Parameter(torch.empty(outside, inside, SPLINES).uniform_(-NOISE / 2, NOISE / 2))  # c
        for weight in (self.base, self.scale):
            nn.init.kaiming_uniform_(weight, a=sqrt(5))
        step = 2 / INTERVALS
        self.register_buffer("knots", torch.arange(-ORDER, INTERVALS + ORDER + 1) * step - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """w silu(x) and the scaled splines, summed over the inputs."""
        bases = splines(precise(x), self.knots)  # (..., in, 8)
        curves = (self.scale[..., None] * self.coefficients).flatten(1)
        return F.linear(F.silu(x), self.base) + F.linear(bases.flatten(-2), curves)


def splines(x: Tensor, knots: Tensor) -> Tensor:
    """The cubic B-splines of Cox and de Boor at any x: (...) -> (..., knots - 4).

    Args:
        x: Where.
        knots: Rising.
    """
    x = x[..., None]
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for p in range(1, ORDER + 1):
        rising = (x - knots[: -p - 1]) / (knots[p:-1] - knots[: -p - 1])
        falling = (knots[p + 1 :] - x) / (knots[p + 1 :] - knots[1:-p])
        bases = rising * bases[..., :-1] + falling * bases[..., 1:]
    return bases


def _of_vectors(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of vectors, applied to the channels of (B, C, H, W)."""
    out: Tensor = layer(x.movedim(1, -1))
    return out.movedim(-1, 1)


def _twice(in_channels: int, between: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, between, 3, padding=1), BatchNorm(between), nn.ReLU(inplace=True),
        nn.Conv2d(between, out_channels, 3, padding=1), BatchNorm(out_channels), nn.ReLU(inplace=True),
    ]  # fmt: skip


def _mixing(channels: int) -> nn.Sequential:
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return nn.Sequential(depthwise, BatchNorm(channels), nn.ReLU(inplace=True))
