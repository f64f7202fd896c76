"""U-shaped networks, and the pieces of the PCL protocol's U-Net (Ronneberger et al., MICCAI 2015,
https://arxiv.org/abs/1505.04597): five maps of f, 2f, 4f, 8f and 16f channels at strides 1, 2, 4, 8 and 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import final

import torch
from torch import Tensor, nn

from lemis import contracts
from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm, kaiming

SLOPE = 0.01  # of LeakyReLU, and of the Kaiming initialisation that goes with it
LEVELS = 4  # poolings
STRIDES = tuple(2**level for level in range(LEVELS + 1))  # of the maps, finest first


class UShaped(contracts.Backbone):
    """An encoder, and a decoder that goes its way back: each block joins a map with the next finer one of the encoder.

    Whatever a network has beside ``decoder`` and ``head`` belongs to its encoder.
    """

    decoder: nn.ModuleList  # (deeper map, skip) -> map of the skip's size; deepest first

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        """Maps of ``encode`` -> the map after ``depth`` decoder blocks, the finest one after all of them."""
        return last(self.decoded(maps), depth, maps[-1])

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Maps of ``encode`` -> the map after each decoder block, deepest first; a block runs when its map is taken."""
        return decoded(self.decoder, maps)

    def part_of(self, parameter_name: str) -> str:
        """``encoder``, ``decoder 1`` (deepest) and so on, or ``head``."""
        return part_of(parameter_name)


class UNet(UShaped):
    """The plain form: each map of the encoder has half the size of the one before, each decoder block doubles it again.

    Args:
        channels: Of the maps, finest first, at strides 1, 2, 4, ...
        encoder: What makes each map of the one before, finest first.
        decoder: A block for each map but the deepest, deepest first.
        head: The map after the last block -> logits.
        dims: 2 or 3.
        slope: Of the activations, for the Kaiming initialisation of all convolutions.
    """

    def __init__(
        self,
        channels: Sequence[int],
        encoder: Iterable[nn.Module],
        decoder: Iterable[nn.Module],
        head: nn.Module,
        *,
        dims: int,
        slope: float,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.channels, self.strides = tuple(channels), tuple(2**level for level in range(len(channels)))
        self.decoder_channels, self.decoder_strides = self.channels[-2::-1], self.strides[-2::-1]
        self.encoder, self.decoder, self.head = nn.ModuleList(encoder), nn.ModuleList(decoder), head
        kaiming(self, slope)


class UNet2d(UNet):
    """The PCL protocol's: max-pooling between the maps, activations of slope ``SLOPE``, a 1x1 convolution without bias.

    Args:
        channels: Of the five maps, finest first.
        encoder: As of ``UNet``.
        decoder: As of ``UNet``.
        num_classes: Of the logits.
    """

    def __init__(
        self, channels: Sequence[int], encoder: Iterable[nn.Module], decoder: Iterable[nn.Module], num_classes: int
    ) -> None:
        head = nn.Conv2d(channels[0], num_classes, 1, bias=False)
        super().__init__(channels, encoder, decoder, head, dims=2, slope=SLOPE)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        return encode(self.encoder, x)


@final
class Up(nn.Module):
    """Transposed convolution to half the channels and twice the size, concatenation with the skip, two convolutions.

    Args:
        in_channels: Of the deeper map; twice ``out_channels``.
        out_channels: Of the result and of the skip.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.block = block(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""
        joined: Tensor = self.block(torch.cat([self.up(x), skip], 1))
        return joined


def block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice Conv3x3, BatchNorm, LeakyReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            BatchNorm(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


def bottleneck(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice Conv3x3, ReLU, without normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


def channels_of(base_width: int) -> tuple[int, ...]:
    """Channels of the five maps, finest first."""
    return tuple(base_width * stride for stride in STRIDES)


def encoder(in_channels: int, channels: Sequence[int]) -> nn.ModuleList:
    """A block for each map but the deepest, which the bottleneck makes.

    Args:
        in_channels: Of the image.
        channels: Of the maps, finest first.
    """
    sizes = zip([in_channels, *channels[:-2]], channels[:-1], strict=True)
    return nn.ModuleList([*(block(i, o) for i, o in sizes), bottleneck(*channels[-2:])])


def encode(levels: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """An image through the layers of ``encoder``, with a max-pooling between any two -> their maps, finest first.

    Args:
        levels: Of an encoder, finest first.
        x: (B, C, H, W), H and W multiples of 16.

    Raises:
        UsageError: They are not.
    """
    check_divisible(x)
    return through(levels, x, partial(nn.functional.max_pool2d, kernel_size=2))


def through(levels: Iterable[nn.Module], x: Tensor, between: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """An image through the layers of any encoder, with ``between`` before each but the first -> their maps."""
    maps: list[Tensor] = []
    for level in levels:
        x = level(between(x) if maps else x)
        maps.append(x)
    return maps


def decode(blocks: nn.ModuleList, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
    """The deepest map, brought up and joined with the next finer one by each of the first ``depth`` blocks.

    Args:
        blocks: (deeper map, skip) -> map of the skip's size; deepest first.
        maps: Of an encoder, finest first.
        depth: How many blocks; None is all, 0 gives the deepest map itself.
    """
    return last(decoded(blocks, maps), depth, maps[-1])


def decoded(blocks: Iterable[nn.Module], maps: Sequence[Tensor]) -> Iterator[Tensor]:
    """The map after each block, one after the other.

    Args:
        blocks: As of ``decode``.
        maps: Likewise.
    """
    x = maps[-1]
    for up, skip in zip(blocks, reversed(maps[:-1]), strict=False):
        x = up(x, skip)
        yield x


def last(maps: Iterator[Tensor], depth: int | None, deepest: Tensor) -> Tensor:
    """The map after ``depth`` blocks, or after all where that is None; ``deepest`` after none. No later block runs.

    Args:
        maps: After each block, as ``decoded`` gives them.
        depth: How many blocks.
        deepest: The map before the first block.
    """
    x = deepest
    for after in islice(maps, depth):
        x = after
    return x


def part_of(parameter_name: str) -> str:
    """``decoder 1`` (deepest) and so on for keys of ``decoder``, ``head`` for those of ``head``, else ``encoder``."""
    part, *inside = parameter_name.split(".")
    if part == "decoder":
        return f"decoder {int(inside[0]) + 1}"
    return "head" if part == "head" else "encoder"


def parts_to(depth: int) -> tuple[str, ...]:
    """The encoder and the first ``depth`` decoder blocks, as ``part_of`` names them."""
    return ("encoder", *(f"decoder {k + 1}" for k in range(depth)))


def all_parts(backbone: contracts.Backbone) -> tuple[str, ...]:
    """The encoder and the whole decoder; what lies behind it, the head, is of one task."""
    return parts_to(len(backbone.decoder_channels))


def check_divisible(x: Tensor, divisor: int = STRIDES[-1]) -> None:
    """Refuse an image whose sides the coarsest stride does not divide.

    Raises:
        UsageError: With the size that would do.
    """
    height, width = x.shape[-2:]
    if height % divisor or width % divisor:
        cure = tuple(-(-side // divisor) * divisor for side in (height, width))
        raise UsageError(
            f"an image of {height} x {width} pixels",
            allowed=f"both sides multiples of {divisor}",
            next=f"pad or crop it to {cure[0]} x {cure[1]}",
        )
