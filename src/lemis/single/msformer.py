"""MS-Former: Multi-Scale Self-Guided Transformer for Medical Image Segmentation. S. Karimijafarbigloo, R. Azad,
A. Kazerouni, D. Merhof. MIDL 2023, https://openreview.net/forum?id=pp2raGSU3Wx.

Two transformers see one image, in pixels and in every other pixel, and their maps together give each pixel one of at
most 100 clusters. Attention costs O(pixels): with Q, K, V of a map,

    G = softmax_pixels(K)^T V   (100 x 100),   out = softmax_channels(Q) G

and three terms teach the network: its own answer y, as in SGSCN; that both scales have one context G; and that a patch
of y, moved by a pixel, is more like itself than like any other:

    L = CE(y, argmax y) + lambda_inter mean_i (1 - cos(G_i, G'_i)) + lambda_intra mean | A - 1 |
    A = softmax(E(y moved) E(y)^T / 8),   E: patches of 32 x 32 pixels -> 100 numbers, by one linear map

Differences from the authors' code: images of any size, where theirs are 257 x 257. The map of the coarse scale is as
large as the image or a row or column larger, which is dropped, as there; the map that is cut into patches is padded
with zeros, its mean, to whole patches (for 257 x 257: no padding, 64 patches). An image of which one label is left
starts anew. Their two published sets of weights differ; both are named below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lemis.contracts import Segmented
from lemis.errors import UsageError
from lemis.one_image import solo
from lemis.one_image.solo import Networks, Step

_WIDER = 4  # hidden channels of the feed-forward layers, times the width


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] the authors' code: its demonstration; in brackets what the part of it has that computes scores."""

    clusters: Annotated[int, Field(gt=1)] = 100  # most there can be [C]
    width: Annotated[int, Field(gt=0)] = 100  # of both transformers [C]
    blocks: Annotated[int, Field(gt=0)] = 2  # of each [C]
    patch_px: Annotated[int, Field(gt=0)] = 32  # side of the patches that attend to each other [C]
    attention_scale: Annotated[float, Field(gt=0)] = 8.0  # the root of the 64 patches [C]; customary: of the width
    weight_cross_entropy: Annotated[float, Field(ge=0)] = 1.0  # [C]
    weight_inter: Annotated[float, Field(ge=0)] = 2.0  # lambda_inter [C] (1.5)
    weight_intra: Annotated[float, Field(ge=0)] = 1.2  # lambda_intra [C] (1.3)
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.1  # of SGD [C]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # [C]
    max_iterations: Annotated[int, Field(gt=0)] = 50  # [C]
    stop_labels: Annotated[int, Field(gt=0)] = 3  # training ends once so few are left [C]
    least_iterations: Annotated[int, Field(gt=0)] = 1  # before it may end: no minimum [C]
    restarts: Annotated[int, Field(ge=0)] = 3  # where one label is left; ours
    starts: Annotated[int, Field(gt=0)] = 1  # networks an image; the one that explains most of it is kept, ours


PRESETS = {"small": Settings(starts=3)}  # as many as S3-Net has there; two core-minutes for 96 x 96 pixels


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1] and their N seeds -> the cluster of each pixel, some 3 clusters an image.

    Raises:
        UsageError: Images of which the coarse scale is one pixel.
    """
    if max(images.shape[2:]) < 3:
        raise UsageError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels", allowed="one side of 3 pixels or more",
            next="give a larger image or a larger size",
        )  # fmt: skip
    return solo.train(partial(Transformers, settings, images.shape[1]), images, seeds, settings)


@final
class Transformers(Networks):
    """The two branches, what brings them together, and the three terms."""

    def __init__(self, settings: Settings, in_channels: int, seeds: Sequence[int]) -> None:
        super().__init__(seeds)
        self.settings = settings
        width, n = settings.width, len(seeds)
        self.fine = Branch(self.rngs, in_channels, width, settings.blocks, stride=1)
        self.coarse = Branch(self.rngs, in_channels, width, settings.blocks, stride=2)
        self.expand = solo.Linear(self.rngs, width, 4 * width, bias=False)
        self.last = solo.Linear(self.rngs, 2 * width, settings.clusters, bias=False)
        self.norm = solo.Norm(n, settings.clusters)
        self.patches = solo.Linear(self.rngs, settings.clusters * settings.patch_px**2, width)

    def forward(self, images: Tensor) -> Step:
        """(N, C, H, W) -> the terms, and the labels that the first one came from."""
        how, shape = self.settings, images.shape[2:]
        fine, context = self.fine(images)
        coarse, coarse_context = self.coarse(images)
        coarse = twice_as_large(self.expand(coarse.flatten(1, 2)).view(*coarse.shape[:3], -1))
        both = torch.cat([coarse[:, : shape[0], : shape[1]], fine], dim=-1)
        y = self.last(both.flatten(1, 2)).view(*both.shape[:3], -1).permute(0, 3, 1, 2)  # (N, clusters, H, W)
        cross_entropy, labels = solo.self_labelling(y)
        losses = {
            "cross_entropy": how.weight_cross_entropy * cross_entropy,
            "inter": how.weight_inter * inter(context, coarse_context),
            "intra": how.weight_intra * intra(self.attention(y)),
        }
        return Step(losses, labels)

    def attention(self, y: Tensor) -> Tensor:
        """A: (N, clusters, H, W) -> (N, patches, patches), from each moved patch to those in place; an axis of one
        pixel is not moved along."""
        y = self.norm(y)
        one = [int(size > 1) for size in y.shape[2:]]
        moved, in_place = y[:, :, one[0] :, one[1] :], y[:, :, : y.shape[2] - one[0], : y.shape[3] - one[1]]
        queries, keys = (self.patches(cut(x, self.settings.patch_px)) for x in (moved, in_place))
        scores: Tensor = queries @ keys.transpose(1, 2) / self.settings.attention_scale
        return scores.softmax(-1)


@final
class Branch(nn.Module):
    """One scale, in each of N networks: Conv3x3-BN, then efficient-attention blocks, each with BN after it."""

    def __init__(
        self, rngs: Sequence[torch.Generator], in_channels: int, width: int, blocks: int, *, stride: int
    ) -> None:
        super().__init__()
        self.embed = solo.Conv(rngs, in_channels, width, 3, stride=stride, padding=1)
        self.first_norm = solo.Norm(len(rngs), width)
        self.blocks = nn.ModuleList([Block(rngs, width) for _ in range(blocks)])
        self.norms = nn.ModuleList([solo.Norm(len(rngs), width) for _ in range(blocks)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> map (N, H', W', width), and the context (N, width, width) of the last block."""
        x = self.first_norm(self.embed(images))
        context = x.new_zeros(0)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            # A block is computed once more in the backward pass: what it would keep, and the maps of 400 channels most
            # of all, is half of 4 GB for an image of 256 x 256.
            pixels = x.flatten(2).transpose(1, 2)
            rows, context = checkpoint(block, pixels, x.shape[2:], use_reentrant=False, preserve_rng_state=False)
            x = norm(rows.transpose(1, 2).view(x.shape))
        return x.permute(0, 2, 3, 1), context


@final
class Block(nn.Module):
    """x + attention(LN x), then + FFN(LN .), in each of N networks; the FFN looks at the neighbours as well."""

    def __init__(self, rngs: Sequence[torch.Generator], width: int) -> None:
        super().__init__()
        n, hidden = len(rngs), _WIDER * width
        self.norms = nn.ModuleList([LayerNorm(n, width), LayerNorm(n, width), LayerNorm(n, hidden)])
        self.keys, self.queries, self.values, self.project = (solo.Linear(rngs, width, width) for _ in range(4))
        self.widen = solo.Linear(rngs, width, hidden)
        self.neighbours = solo.Conv(rngs, hidden, hidden, 3, padding=1, depthwise=True)
        self.narrow = solo.Linear(rngs, hidden, width)

    def forward(self, x: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pixels (N, H W, width) of maps of ``shape`` -> the same, and the context G (N, width, width)."""
        normed = self.norms[0](x)
        context = self.keys(normed).softmax(1).transpose(1, 2) @ self.values(normed)
        x = x + self.project(self.queries(normed).softmax(2) @ context)
        hidden = self.widen(self.norms[1](x))
        near = self.neighbours(hidden.transpose(1, 2).unflatten(2, tuple(shape))).flatten(2).transpose(1, 2)
        out: Tensor = x + self.narrow(F.gelu(self.norms[2](near + hidden)))
        return out, context


@final
class LayerNorm(nn.Module):
    """Layer normalisation in each of N networks."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 1, channels))
        self.bias = nn.Parameter(torch.zeros(n, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, rows, C) -> the same shape."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


def twice_as_large(x: Tensor) -> Tensor:
    """Each pixel's 4 C channels -> those of 2 x 2 pixels: (N, H, W, 4 C) -> (N, 2 H, 2 W, C)."""
    n, height, width, channels = x.shape
    x = x.view(n, height, width, 2, 2, channels // 4)
    return x.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels // 4)


def cut(x: Tensor, side: int) -> Tensor:
    """Square patches, each a row: (N, C, H, W) -> (N, patches, side side C), zeros where the last ones stand out."""
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    n, channels, height, width = x.shape
    x = x.view(n, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, side * side * channels)


def inter(fine: Tensor, coarse: Tensor) -> Tensor:
    """Mean of 1 - cosine of the rows of two contexts: (N, D, D), twice -> (N,)."""
    return 1 - F.cosine_similarity(fine, coarse, dim=2).mean(1)


def intra(attention: Tensor) -> Tensor:
    """Mean distance of attention from the identity: (N, patches, patches) -> (N,)."""
    identity = torch.eye(attention.shape[1], dtype=attention.dtype, device=attention.device)
    return (attention - identity).abs().mean((1, 2))
