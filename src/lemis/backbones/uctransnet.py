"""UCTransNet: Rethinking the Skip Connections in U-Net from a Channel-wise Perspective with Transformer. H. Wang,
P. Cao, J. Wang, O. R. Zaiane. AAAI 2022, https://arxiv.org/abs/2109.04335.

A U-Net whose four skips are mixed before they are joined. The channel-wise cross fusion transformer (CCT) makes tokens
T_i of each skip E_i, one for every 16 x 16 pixels of the image, and lets the channels of one attend to those of all
(Eq. 2 and 3):

    T_S = [T_1, T_2, T_3, T_4]
    Q_i = LN(T_i) W_i,  K = LN(T_S) W_K,  V = LN(T_S) W_V
    A_i = softmax( psi( Q_i^T K / sqrt(C_S) ) ),  CA_i = (1/N) sum_heads (A_i V^T)^T          (C_i x C_S, over channels)
    T_i <- T_i + CA_i W_O,  T_i <- T_i + MLP(LN(T_i))

psi is instance normalisation, C_S = C_1 + ... + C_4, N the heads. After all layers the tokens are spread over their
pixels again, and O_i = E_i + ReLU(BN(Conv(T_i))). Channel-wise cross attention (CCA) then weighs each channel of a skip
by what the decoder holds of it (Eq. 5):

    O_i <- ReLU( O_i sigmoid( (W_s avg(O_i) + W_d avg(D_i)) / 2 ) )

Followed is the authors' code, whose number of parameters the standard size has. Differences: the position of a token is
learned on a grid of 14 x 14, that of their images of 224 pixels, and interpolated for other sizes; no dropout (0.1 in
their embeddings and attention); convolutions begin as in our other networks (Kaiming).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis.layers import unet
from lemis.layers.basic import BatchNorm, kaiming, pool

DIMS = (2,)

WIDER = 4  # the hidden layer of a token's MLP, in widths of the token


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the network. [C] is the authors' code."""

    base_width: Annotated[int, Field(gt=0)] = 64  # f [C]
    layers: Annotated[int, Field(gt=0)] = 4  # of the transformer, L [C]
    heads: Annotated[int, Field(gt=0)] = 4  # N [C]
    grid: Annotated[int, Field(gt=0)] = 14  # tokens a side that have a learned position; 224 / 16 [C]


@final
class Backbone(unet.UShaped):
    """``encode`` gives maps of f, 2f, 4f, 8f, 8f channels at strides 1 to 16; ``decode`` mixes the skips first."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        f = settings.base_width
        self.dims = 2
        self.channels, self.strides = (f, 2 * f, 4 * f, 8 * f, 8 * f), unet.STRIDES
        self.decoder_channels, self.decoder_strides = (4 * f, 2 * f, f, f), (8, 4, 2, 1)
        sizes = list(zip(self.channels, self.channels[1:], strict=False))
        self.encoder = nn.ModuleList([nn.Sequential(*_convolved(in_channels, f)), *(_twice(i, o) for i, o in sizes)])
        self.skips = _Mixed(self.channels[:-1], settings)
        back = zip(self.channels[-2::-1], self.decoder_channels, strict=True)
        self.decoder = nn.ModuleList([_Up(skip, out) for skip, out in back])
        self.head = nn.Conv2d(f, num_classes, 1)
        kaiming(self, 0.0)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W multiples of 16 -> five maps, finest first."""
        return unet.encode(self.encoder, x)

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Five maps -> the map after each block, deepest first; all skips are mixed before the first."""
        return unet.decoded(self.decoder, [*self.skips(maps[:-1]), maps[-1]])

    def part_of(self, parameter_name: str) -> str:
        """As of every U-Net; what mixes the skips belongs to the first block that needs it.

        That is ``decoder 1`` but for what comes after the last attention, which each skip has of its own.
        """
        last = len(self.skips.layers) - 1
        own = re.fullmatch(rf"skips\.(?:layers\.{last}\.\w+|norms|back)\.(\d)\..*", parameter_name)
        if own is not None:
            return f"decoder {len(self.decoder) - int(own[1])}"
        return "decoder 1" if parameter_name.startswith("skips.") else unet.part_of(parameter_name)


@final
class _Mixed(nn.Module):
    """CCT: the four skips, each with what the channels of all of them tell it.

    Args:
        channels: Of the skips, finest first.
        settings: Of the network.
    """

    def __init__(self, channels: Sequence[int], settings: Settings) -> None:
        super().__init__()
        side = unet.STRIDES[-1]
        self.embed = nn.ModuleList(
            [nn.Conv2d(c, c, side // stride, side // stride) for c, stride in zip(channels, unet.STRIDES, strict=False)]
        )
        grid = settings.grid
        self.places = nn.ParameterList([nn.Parameter(torch.zeros(1, c, grid, grid)) for c in channels])
        self.layers = nn.ModuleList([_Layer(channels, settings.heads) for _ in range(settings.layers)])
        self.norms = nn.ModuleList([_norm(c) for c in channels])
        self.back = nn.ModuleList([nn.Sequential(*_convolved(c, c, 1)) for c in channels])

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """(B, C_i, H_i, W_i) each -> the same shapes."""
        embedded = [embed(skip) for embed, skip in zip(self.embed, skips, strict=True)]
        height, width = embedded[0].shape[2:]
        tokens = [
            _tokens(one + _resized(place, height, width)) for one, place in zip(embedded, self.places, strict=True)
        ]
        for layer in self.layers:
            tokens = layer(tokens)
        mixed = []
        for token, norm, back, skip in zip(tokens, self.norms, self.back, skips, strict=True):
            spread = F.interpolate(norm(token).mT.unflatten(2, (height, width)), skip.shape[2:])  # nearest
            mixed.append(skip + back(spread))
        return mixed


@final
class _Layer(nn.Module):
    """Attention among channels, then an MLP of each token."""

    def __init__(self, channels: Sequence[int], heads: int) -> None:
        super().__init__()
        together = sum(channels)
        self.heads, self.scale = heads, 1 / sqrt(together)
        self.norms, self.norm = nn.ModuleList([_norm(c) for c in channels]), _norm(together)
        self.queries = nn.ModuleList([nn.Linear(c, heads * c, bias=False) for c in channels])
        self.key, self.value = (nn.Linear(together, heads * together, bias=False) for _ in range(2))
        self.psi = nn.InstanceNorm2d(heads)
        self.out = nn.ModuleList([nn.Linear(c, c, bias=False) for c in channels])
        self.mlps = nn.ModuleList([_mlp(c) for c in channels])

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """(B, P, C_i) each, P the tokens of an image -> the same shapes."""
        joined = self.norm(torch.cat(list(tokens), 2))
        key, value = self._by_head(self.key(joined)), self._by_head(self.value(joined))  # (B, heads, P, C_S)
        after = []
        for token, norm, query, out, mlp in zip(tokens, self.norms, self.queries, self.out, self.mlps, strict=True):
            scores = self._by_head(query(norm(token))).mT @ key * self.scale  # (B, heads, C_i, C_S)
            attended = (self.psi(scores).softmax(-1) @ value.mT).mean(1)  # (B, C_i, P)
            token = token + out(attended.mT)
            after.append(token + mlp(token))
        return after

    def _by_head(self, x: Tensor) -> Tensor:
        by_head: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, P, heads C) -> (B, heads, P, C)
        return by_head


@final
class _Up(nn.Module):
    """Twice the size, CCA of the skip, both joined, two convolutions. The deeper map has the skip's channels."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.of_skip, self.of_deeper = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.block = _twice(2 * channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, 2H, 2W) -> (B, out, 2H, 2W)."""
        x = F.interpolate(x, scale_factor=2.0)  # nearest
        weight = torch.sigmoid((self.of_skip(pool(skip)) + self.of_deeper(pool(x))) / 2)
        joined: Tensor = self.block(torch.cat([F.relu(skip * weight[..., None, None]), x], 1))
        return joined


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT  # (B, C, h, w) -> (B, h w, C)


def _resized(places: Tensor, height: int, width: int) -> Tensor:
    if places.shape[2:] == (height, width):
        return places
    return F.interpolate(places, (height, width), mode="bilinear")


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def _mlp(channels: int) -> nn.Sequential:
    first, second = nn.Linear(channels, WIDER * channels), nn.Linear(WIDER * channels, channels)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)
    return nn.Sequential(_norm(channels), first, nn.GELU(), second)


def _convolved(in_channels: int, out_channels: int, size: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    return [convolution, BatchNorm(out_channels), nn.ReLU(inplace=True)]


def _twice(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*_convolved(in_channels, out_channels), *_convolved(out_channels, out_channels))
