"""Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis. Y. Tang, D. Yang, W. Li, H. Roth,
B. Landman, D. Xu, V. Nath, A. Hatamizadeh. CVPR 2022, https://arxiv.org/abs/2111.14791. SwinUNETR's pre-training, for
the encoder of any network.

A crop of a slice or of a volume is turned twice by a random multiple of 90 degrees in the plane of the slices, and
blocks of it are corrupted. The encoder learns which turn it was, which two views belong together, and what was in the
blocks:

    L     = w_1 L_rot + w_2 L_con + w_3 L_rec,   weights 1
    L_rot = - log p(turn of the view),   four classes
    L_con = - log [ exp(s(z_i, z_i') / tau) / sum_{k != i} exp(s(z_i, z_k) / tau) ],   s = cosine, over the 2N views
    L_rec = mean over pixels of | decoder(encoder(corrupted view)) - view |

Each head reads the deepest map of the encoder: a linear layer for the turn, one for z, and for the image convolutions
that double the size until it is the view's. Only the encoder is transferred.

Followed: losses, weights, heads, shares and sizes of blocks of the released code [C]: up to 30 % is filled with noise,
then again as much with the same places of another view of the batch. Left out: nothing of the losses; batch and
schedule are the PCL protocol's (MICCAI 2021). Differences: [C] reads turn and z at the first and second place of the
deepest map (``read="places"``), which for a convolutional encoder see a corner only: by default they are read from its
average. The image is restored on its own scale (z-scores) and noise is spread over the slice's range, where [C] has
[0, 1]; noise is normalised over a view, not over each block; blocks lie wholly inside; the other view is that of the
next slice in a random ring, never the slice itself, and not corrupted yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log, log2, pi
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Geometry, Outcome, View
from lemis.errors import UsageError
from lemis.layers.basic import pool, precise
from lemis.parts import corrupt
from lemis.parts.contrast import contrast, same
from lemis.parts.pretext import Pretext
from lemis.sampling import views, warping
from lemis.sampling.spatial import CROP_ONLY, Size, patch_of, shape_of

DIMS = (2, 3)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] is the released code."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices or volumes, as PCL; 2 of 96^3 on each GPU [C]
    rotation_weight: Annotated[float, Field(gt=0)] = 1.0  # w_1 [C]
    contrast_weight: Annotated[float, Field(gt=0)] = 1.0  # w_2 [C]
    reconstruction_weight: Annotated[float, Field(gt=0)] = 1.0  # w_3 [C]
    temperature: Annotated[float, Field(gt=0)] = 0.5  # tau [C]
    embedding: Annotated[int, Field(gt=1)] = 512  # of z [C]
    most_corrupted: Annotated[float, Field(gt=0, le=1)] = 0.3  # share of a view, by noise and again by another view [C]
    block_share: corrupt.Share = (0.05, 0.25)  # of each side of the view, a block [C]
    read: Literal["average", "places"] = "average"  # of turn and z: ours, or two places of the map [C]
    size_px: Size = 352  # side of a view, as PCL; also [slices, rows, cols] in 3D, with rows = cols; 96 [C]


@final
class Views(contracts.Views[Settings]):
    """Two turns of one randomly placed crop of every slice or volume, and the same two corrupted."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first`` and ``second``, and ``first corrupted`` and ``second corrupted``, each (B, C, *out)."""
        crop = views.random_view(CROP_ONLY, batch, self.settings.size_px, rng)
        low, span = corrupt.value_range(batch.image, batch.inside)
        drawn = {}
        for name in ("first", "second"):
            drawn[name] = turned(crop, rng)
            changed = self.corrupted(drawn[name].image, low, span, rng)
            drawn[f"{name} corrupted"] = drawn[name]._replace(image=changed)
        return drawn

    def corrupted(self, image: Tensor, low: Tensor, span: Tensor, rng: Draw) -> Tensor:
        """Blocks of noise, then blocks of another row's view, in the same places of it."""
        axes = tuple(range(1, image.dim()))
        noise = rng.normal(*image.shape)
        least, most = noise.amin(axes, keepdim=True), noise.amax(axes, keepdim=True)
        noisy = low + span * (noise - least) / (most - least)
        filled = torch.where(self.blocks(image, rng), noisy, image)
        return torch.where(self.blocks(image, rng), of_next(image, rng.uniform(len(image))), filled)

    def blocks(self, image: Tensor, rng: Draw) -> Tensor:
        """(B, 1, *space) bool: random blocks, until together they have a share drawn up to ``most_corrupted``."""
        how, space = self.settings, image.shape[2:]
        usual = (sum(how.block_share) / 2) ** len(space)
        count = ceil(2 * how.most_corrupted / max(usual, 1e-3)) + 8  # far more than are needed on average
        first, size = corrupt.draw_boxes(len(image), count, space, how.block_share, rng)
        volume = size.prod(-1)  # (B, count)
        wanted = rng.uniform(len(image), 1) * how.most_corrupted * space.numel()
        before = volume.cumsum(1) - volume
        return corrupt.covered(first, size * (before < wanted)[..., None], space)


@final
class Method(Pretext[Settings, Views]):
    """Encoder, and the three heads on its deepest map."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        patch_px = patch_of(settings.size_px, backbone.dims, square=True)
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, patch_px=patch_px)
        _refuse_size(shape_of(settings.size_px, backbone.dims), backbone.axis_strides[-1])
        width = backbone.channels[-1]
        self.classify = nn.Linear(width, 4)
        self.project = nn.Linear(width, settings.embedding)
        self.reconstruct = decoder(width, corrupt.image_channels(backbone), backbone.axis_strides[-1])

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices or volumes -> 2N corrupted views -> their turns, their embeddings, and what they were."""
        how = self.settings
        drawn = self.views(batch, rng)
        clean = [drawn["first"], drawn["second"]]
        image = torch.cat([view.image for view in clean])
        deepest = self.backbone.encode(torch.cat([drawn[f"{name} corrupted"].image for name in ("first", "second")]))[
            -1
        ]
        for_turn, for_z = self.at(deepest)
        turn = torch.cat([turns_of(view.geometry) for view in clean])
        z = processes.gather(self.project(for_z))  # (2N, embedding)
        slice_of = processes.gather(torch.cat([batch.index, batch.index]))
        losses = {
            "rotation": how.rotation_weight * F.cross_entropy(precise(self.classify(for_turn)), turn),
            "contrast": how.contrast_weight * contrast(z, same(slice_of), how.temperature),
            "reconstruction": how.reconstruction_weight * F.l1_loss(precise(self.reconstruct(deepest)), image),
        }
        nothing = {"rotation": how.rotation_weight * log(4), "contrast": how.contrast_weight * log(len(z) - 1)}
        return Outcome(losses, {"global": z.detach()}, nothing)

    def at(self, deepest: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads of turn and z read of (2N, width, *cells): (2N, width) each."""
        if self.settings.read == "average":
            return (pool(deepest),) * 2
        place = deepest.flatten(2)
        return place[..., 0], place[..., 1]


def turned(view: View, rng: Draw) -> View:
    """Each row of a square view by its own number of quarter turns, all four alike likely."""
    rows = torch.arange(len(view.image), device=view.image.device)
    turn = (rng.uniform(len(rows)) * 4).long()
    every = [warping.quarter_turns(view, k) for k in range(4)]
    image = torch.stack([one.image for one in every])[turn, rows]
    to_source = torch.stack([one.geometry.to_source for one in every])[turn, rows]
    return View(image, Geometry(to_source, view.geometry.shape))


def turns_of(geometry: Geometry) -> Tensor:
    """(B,) int64: by how many quarter turns these views were turned, of a crop that was not."""
    sine, cosine = geometry.to_source[:, -2, -2], geometry.to_source[:, -2, -3]
    return (torch.atan2(sine, cosine) / (pi / 2)).round().long() % 4


def of_next(image: Tensor, place: Tensor) -> Tensor:
    """For each row the image of another row, of all processes: the next one by ``place`` (B,), in a ring."""
    every, place = processes.gather(image), processes.gather(place)
    order = place.argsort()
    following = torch.empty_like(order).scatter_(0, order, order.roll(-1))
    mine = processes.rank() * len(image)
    return every[following[mine : mine + len(image)]]


def decoder(width: int, channels: int, strides: Sequence[int]) -> nn.Sequential:
    """(B, width, *cells) -> (B, channels, *cells times ``strides``): doubled again and again, at half the width.

    The width is halved at most four times, as in [C], whose stride is 32. An axis of a smaller stride than the others
    is doubled with them from the first time on, until it is whole.

    Raises:
        UsageError: A stride that doubling does not reach.
    """
    dims, doublings = len(strides), [round(log2(stride)) for stride in strides]
    if any(2**times != stride for times, stride in zip(doublings, strides, strict=True)):
        raise UsageError(
            f"a network whose deepest map has stride {' x '.join(map(str, dict.fromkeys(strides)))}",
            allowed="a power of 2, since the reconstruction doubles the map's size",
            next="choose a network with such strides, unet2d say",
        )
    conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if dims == 2 else nn.Conv3d
    norm: type[nn.Module] = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    widths = [max(1, width // 2 ** min(step, 4)) for step in range(max(doublings) + 1)]
    layers: list[nn.Module] = []
    for step, (before, after) in enumerate(pairwise(widths)):
        factors = tuple(2.0 if step < times else 1.0 for times in doublings)
        # No bias: the normalisation that follows would take it away.
        layers += [
            conv(before, after, 3, padding=1, bias=False),
            norm(after),
            nn.LeakyReLU(),
            nn.Upsample(scale_factor=factors, mode="bilinear" if dims == 2 else "trilinear"),
        ]
    layers.append(conv(widths[-1], channels, 1))
    return nn.Sequential(*layers)


def _refuse_size(sides: Sequence[int], strides: Sequence[int]) -> None:
    if all(side < 2 * stride for side, stride in zip(sides, strides, strict=True)):
        stride = min(strides)
        raise UsageError(
            f"size_px={list(sides)}, and the network's deepest map has stride {stride}",
            allowed=f"at least {2 * stride} px: the reconstruction normalises over the places of that map",
            next=f"method.size_px={2 * stride}",
        )
