"""The U-Nets of nnU-Net (Isensee et al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z): their layers
under their names, so that weights go both ways.

Convolution, instance normalisation, LeakyReLU; a stage begins with a strided convolution; the decoder enlarges by
transposed convolutions, concatenates [up, skip] and convolves. Kernels and strides may differ along the axes.

Keys of the weights are those of nnU-Net's networks, each tensor once. Theirs hold most tensors under several names
(``exchange/nnunet_names.py`` has them all), and a head after every decoder block, of which this is the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lemis import contracts
from lemis.layers.basic import kaiming
from lemis.layers.nnunet_shape import HasShape, Shape, shape_of
from lemis.layers.unet import last, through
from lemis.layers.unet3d import check_sides

SLOPE = 0.01  # of LeakyReLU [C], and of the Kaiming initialisation that goes with it


class Kind(NamedTuple):
    """What all convolutions of a network share."""

    dims: int
    bias: bool
    eps: float
    affine: bool

    def convolution(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> nn.Module:
        """With the padding that keeps the size where ``stride`` is 1."""
        make: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if self.dims == 2 else nn.Conv3d
        padding = tuple((side - 1) // 2 for side in kernel)
        return make(in_channels, out_channels, tuple(kernel), tuple(stride), padding, bias=self.bias)  # type: ignore[arg-type]

    def norm(self, channels: int) -> nn.Module:
        """Of each channel of each image."""
        make: type[nn.InstanceNorm2d | nn.InstanceNorm3d] = nn.InstanceNorm2d if self.dims == 2 else nn.InstanceNorm3d
        return make(channels, eps=self.eps, affine=self.affine)


def kind_of(settings: HasShape) -> Kind:
    """What the settings say of all convolutions."""
    return Kind(settings.dims, settings.conv_bias, settings.norm_eps, settings.norm_affine)


@final
class ConvNorm(nn.Module):
    """Convolution, normalisation and, unless ``active`` is False, LeakyReLU."""

    def __init__(
        self, kind: Kind, in_channels: int, out_channels: int, kernel: Sequence[int],
        stride: Sequence[int] | None = None, *, active: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = kind.convolution(in_channels, out_channels, kernel, stride or (1,) * kind.dims)
        self.norm = kind.norm(out_channels)
        self.active = nn.LeakyReLU(SLOPE, inplace=True) if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *space) -> (B, out, *space / stride)."""
        out: Tensor = self.active(self.norm(self.conv(x)))
        return out


@final
class Convolutions(nn.Module):
    """``count`` of them, one after the other; the first one has the stride."""

    def __init__(
        self, kind: Kind, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int] | None,
        count: int,
    ) -> None:  # fmt: skip
        super().__init__()
        first = ConvNorm(kind, in_channels, out_channels, kernel, stride)
        self.convs = nn.Sequential(
            first, *(ConvNorm(kind, out_channels, out_channels, kernel) for _ in range(count - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *space) -> (B, out, *space / stride)."""
        out: Tensor = self.convs(x)
        return out


@final
class Encoder(nn.Module):
    """Stages, finest first, and for some networks a stem before them."""

    def __init__(self, stages: Sequence[nn.Module], stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Identity() if stem is None else stem
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *space) -> the map of each stage, finest first."""
        return through(self.stages, self.stem(x), nn.Identity())


@final
class Decoder(nn.Module):
    """Blocks, deepest first, and the head after the last one.

    Args:
        kind: Of the network.
        shape: Of the network.
        num_classes: Of the logits.
    """

    def __init__(self, kind: Kind, shape: Shape, num_classes: int) -> None:
        super().__init__()
        enlarge: type[nn.ConvTranspose2d | nn.ConvTranspose3d]
        enlarge = nn.ConvTranspose2d if kind.dims == 2 else nn.ConvTranspose3d
        widths, strides = shape.features[::-1], shape.strides[:0:-1]
        self.transpconvs = nn.ModuleList(
            [
                enlarge(deeper, width, stride, stride, bias=kind.bias)  # type: ignore[arg-type]
                for deeper, width, stride in zip(widths, widths[1:], strides, strict=False)
            ]
        )
        self.stages = nn.ModuleList(
            [
                Convolutions(kind, 2 * width, width, kernel, None, count)
                for width, kernel, count in zip(
                    widths[1:], shape.kernels[-2::-1], shape.decoder_convolutions, strict=True
                )
            ]
        )
        head = nn.Conv2d if kind.dims == 2 else nn.Conv3d
        self.seg_layers = nn.ModuleDict({str(len(self.stages) - 1): head(widths[-1], num_classes, 1)})

    def forward(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Maps of the encoder -> the map after each block; a block runs when its map is taken."""
        x = maps[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, maps[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], 1))
            yield x


class Network(contracts.Backbone):
    """Encoder and decoder, both under nnU-Net's names.

    Args:
        settings: Of the network.
        encoder: Its stages fit the settings.
        num_classes: Of the logits.
    """

    def __init__(self, settings: HasShape, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        shape = shape_of(settings)
        self.dims, self.channels, self.decoder_channels = settings.dims, shape.features, shape.features[-2::-1]
        self._strides = tuple(
            accumulate(shape.strides, lambda so_far, own: tuple(a * b for a, b in zip(so_far, own, strict=True)))
        )
        self.strides = tuple(max(along) for along in self._strides)
        self.decoder_strides = self.strides[-2::-1]
        self.encoder, self.decoder = encoder, Decoder(kind_of(settings), shape, num_classes)
        kaiming(self, SLOPE)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]  # one of the decoder's layers there, and so under its name
        """A 1x1 convolution with bias."""
        return self.decoder.seg_layers[str(len(self.decoder.stages) - 1)]

    @property
    def axis_strides(self) -> tuple[tuple[int, ...], ...]:
        """Of each map along each axis, finest first."""
        return self._strides

    @property
    def decoder_axis_strides(self) -> tuple[tuple[int, ...], ...]:
        """After each decoder block, deepest first."""
        return self._strides[-2::-1]

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, *space), sides multiples of ``divisors`` -> the map of each stage, finest first."""
        names = {"what": "an image", "unit": "pixels"} if self.dims == 2 else {}
        check_sides(x, self.divisors, one_cell=False, **names)
        maps: list[Tensor] = self.encoder(x)
        return maps

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Maps of ``encode`` -> the map after ``depth`` decoder blocks, the finest one after all of them."""
        return last(self.decoded(maps), depth, maps[-1])

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Maps of ``encode`` -> the map after each decoder block, deepest first; a block runs when its map is taken."""
        after: Iterator[Tensor] = self.decoder(maps)
        return after

    def part_of(self, parameter_name: str) -> str:
        """``encoder``, ``decoder 1`` (deepest) and so on, or ``head``."""
        part, *inside = parameter_name.split(".")
        if part == "encoder":
            return part
        return "head" if inside[0] == "seg_layers" else f"decoder {int(inside[1]) + 1}"
