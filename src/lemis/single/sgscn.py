"""SGSCN: A Spatial Guided Self-supervised Clustering Network for Medical Image Segmentation. E. Ahn, D. Feng, J. Kim.
MICCAI 2021, https://arxiv.org/abs/2107.04934.

A three-layer CNN gives each pixel one of at most 100 clusters, and learns from its own answers. o is its output, after
batch normalisation; clusters merge until three are left:

    L = CE(o, argmax o) + alpha L_sparse + beta L_context
    L_sparse  = mean |o_{y+1,x} - o_{y,x}| + mean |o_{y,x+1} - o_{y,x}|
    L_context = sum_a sum_u p_a(u) || u - mu_a ||^2,   p_a = (o_a + e) / sum_u (o_a + e),   mu_a = sum_u p_a(u) u

Places u run from -1 to 1: neighbours are alike, and a cluster is a compact region.

Differences from the authors' code, which we have not read: o has mean 0 and both signs, so its p_a is no distribution
and L_context no variance; ours is that of the softmax of o (``context_of``). In the public script the term is off
unless asked for. An image of which one label is left starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from lemis.contracts import Segmented
from lemis.one_image import solo
from lemis.one_image.pixel_cnn import Trunk
from lemis.one_image.solo import Networks, Step

ContextOf = Literal["softmax", "released"]

_E = 1e-3  # e: keeps the sum of an empty map away from 0; of the public script


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper; [C] the public script, as others describe it."""

    clusters: Annotated[int, Field(gt=1)] = 100  # most there can be, and width of the CNN [P]
    weight_sparse: Annotated[float, Field(ge=0)] = 5.0  # alpha [P]
    weight_context: Annotated[float, Field(ge=0)] = 1.0  # beta [P]; [C]: 0 unless asked for
    context_of: ContextOf = "softmax"  # softmax: of o, a distribution, INFERRED; released: of o itself [C]
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.1  # of SGD [P]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # [P]
    max_iterations: Annotated[int, Field(gt=0)] = 50  # [P]
    stop_labels: Annotated[int, Field(gt=0)] = 3  # training ends once so few are left [P]
    least_iterations: Annotated[int, Field(gt=0)] = 1  # before it may end: no minimum [C]
    restarts: Annotated[int, Field(ge=0)] = 3  # where one label is left; ours
    starts: Annotated[int, Field(gt=0)] = 1  # networks an image; the one that explains most of it is kept, ours


PRESETS = {"small": Settings(starts=3)}  # as many as S3-Net has there


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1] and their N seeds -> the cluster of each pixel, some 3 clusters an image."""
    return solo.train(partial(Clustering, settings, images.shape[1]), images, seeds, settings)


@final
class Clustering(Networks):
    """Conv3x3-ReLU-BN twice, Conv1x1-BN; the three terms."""

    def __init__(self, settings: Settings, in_channels: int, seeds: Sequence[int]) -> None:
        super().__init__(seeds)
        self.settings = settings
        self.trunk = Trunk(self.rngs, in_channels, settings.clusters)
        self.last = solo.Conv(self.rngs, settings.clusters, settings.clusters, 1)
        self.norm = solo.Norm(len(seeds), settings.clusters)

    def forward(self, images: Tensor) -> Step:
        """(N, C, H, W) -> the terms, and the labels that they came from."""
        how = self.settings
        o = self.norm(self.last(self.trunk(images)))
        cross_entropy, labels = solo.self_labelling(o)
        losses = {"cross_entropy": cross_entropy}
        if how.weight_sparse > 0:
            losses["sparse"] = how.weight_sparse * sparse(o)
        if how.weight_context > 0:
            losses["context"] = how.weight_context * context(o.softmax(1) if how.context_of == "softmax" else o)
        return Step(losses, labels)


def sparse(o: Tensor) -> Tensor:
    """L_sparse of each image, (N, K, H, W) -> (N,); an axis of one pixel has no differences, and adds 0."""
    steps = [o.diff(dim=axis).abs().flatten(1) for axis in (2, 3)]
    return steps[0].sum(1) / max(steps[0].shape[1], 1) + steps[1].sum(1) / max(steps[1].shape[1], 1)


def context(maps: Tensor) -> Tensor:
    """L_context of each image, (N, K, H, W) -> (N,): the variance of a cluster's places, summed over clusters."""
    rows, columns = (torch.arange(n, device=maps.device, dtype=maps.dtype) * (2 / n) - 1 for n in maps.shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    moments = torch.stack([torch.ones_like(x), x, y, x.square() + y.square()], dim=-1).view(-1, 4)
    mass, mean_x, mean_y, mean_square = ((maps + _E).flatten(2) @ moments).unbind(-1)  # (N, K) each
    return (mean_square / mass - (mean_x / mass).square() - (mean_y / mass).square()).sum(1)
