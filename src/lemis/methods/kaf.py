"""KAF: Keypoint-Augmented Self-Supervised Learning for Medical Image Segmentation with Limited Annotation. Z. Yang,
M. Ren, K. Ding, G. Gerig, Y. Wang. NeurIPS 2023, https://arxiv.org/abs/2310.01680.

The two views of a slice are the slice itself and a neighbour of it, each under its own geometry. A network with
keypoint layers (``backbones/kaf_unet.py``) is trained by three losses; u are keypoint features, D_l those of a layer:

    L_cnn   = L_PCL( MLP( GAP(bottleneck) ) )
    L_kaf   = L_PCL( MLP( mean over keypoints of u ) ),   u = W [D_1; ...; D_L]
    L_local = how far the optimal transport of the keypoints of one slice to those of the other is from their matches
    L       = L_cnn + L_kaf + 0.01 L_local                     (L_PCL: positional contrast of PCL)

Two keypoints of neighbouring slices match where they are nearest to each other by descriptor among those less than
theta pixels away. A small attention network over both slices gives h, the plan has a bin for what has no match
(``parts/transport.py``), and L_local is the negative log-likelihood of matched and unmatched keypoints in that plan.

Differences from the authors' code: every keypoint of a slice is used, with masks (``keypoint_share="poorest"`` is their
way: in each batch as many of every view as the poorest view has, matched ones first); a slice without any takes part in
L_cnn alone; keypoints follow a view exactly (``follow="index_map"`` is the paper's way); a neighbour is drawn by a rule
that ends for every number of slices; both slices of a pair share batch statistics; their fourth loss, which the paper
does not have, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, KeypointBackbone, Outcome, Sampling, View
from lemis.errors import UsageError
from lemis.layers.attention import (
    PlaceEncoding,
    PointAttention,
    PointMLP,
    Points,
    compact,
    mean_of_points,
    pack,
    points_of,
    unpack,
)
from lemis.layers.basic import precise
from lemis.parts import heads
from lemis.parts.contrast import base_factor, contrast, near
from lemis.parts.keypoint_share import ALL, Share, matched, some_of_pairs
from lemis.parts.matching import matches
from lemis.parts.pretext import Pretext
from lemis.parts.transport import log_plan
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)
BACKBONES = ("kaf_unet", "fcn")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] is stated in the paper, [C] seen in the released code; both where nothing is said."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices; with their neighbours twice as many views
    reach: Annotated[float, Field(gt=0, le=1)] = 0.05  # of a scan's slices, to a neighbour; 0.18 on ACDC [C]
    reach_slices: Annotated[int, Field(gt=0)] | None = None  # at most so many; 2 on ACDC [C]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau
    threshold: Annotated[float, Field(gt=0)] = 0.1  # t: 0.1 on CHD, 0.35 on ACDC
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # [C]: the loss times tau / 0.07; None: as printed
    embedding: Annotated[int, Field(gt=0)] = 512  # of both global losses [C]
    weight_cnn: Annotated[float, Field(ge=0)] = 1.0  # Tables 2 and 8
    weight_kaf: Annotated[float, Field(ge=0)] = 1.0  # Tables 2 and 8
    weight_local: Annotated[float, Field(ge=0)] = 0.01  # Tables 2 and 8
    distance_px: Annotated[float, Field(gt=0)] = 20.0  # theta, Manhattan, in pixels of the slice; Table 5
    mutual: bool = True  # both must choose each other [C]; False: each keypoint of the slice its nearest, as printed
    local_form: Literal["code", "paper"] = "code"  # weighted means over keypoints; or the printed sum over them
    weight_matched: Annotated[float, Field(ge=0)] = 0.45  # of the code form [C]
    weight_unmatched: Annotated[float, Field(ge=0)] = 1.0  # of the code form [C]
    iterations: Annotated[int, Field(gt=0)] = 100  # of Sinkhorn [C]
    matcher_pairs: Annotated[int, Field(gt=0)] = 2  # of self and cross attention in the matcher [C]
    matcher_heads: Annotated[int, Field(gt=0)] = 4  # of each attention [C]
    follow: Literal["exact", "index_map"] = "exact"  # keypoints through a view; "index_map" [P] loses and moves some
    keypoint_share: Share = ALL  # of a pair's keypoints that are used; "poorest" [C]: as many as the poorest view has
    size_px: Annotated[int, Field(gt=0)] = 512  # side of a view; 352 on ACDC
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


@final
class Views(contracts.Views[Settings]):
    """The slice and its neighbour, each with a geometry of its own, and their keypoints."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``slice`` and ``neighbour``, each (B, C, size_px, size_px) with keypoints (B, K, 2)."""
        assert batch.neighbour is not None, "KAF is sampled with neighbours"
        how = self.settings
        return {
            name: views.random_view(how.spatial, of, how.size_px, rng, follow=how.follow)
            for name, of in (("slice", batch), ("neighbour", batch.neighbour))
        }


@final
class Method(Pretext[Settings, Views]):
    """A backbone with keypoint layers; two global embeddings, and a matcher between the slices of a pair."""

    backbone: KeypointBackbone

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        if not isinstance(backbone, KeypointBackbone) or not backbone.keypoint_channels:
            raise UsageError(
                "KAF on a network without keypoint layers",
                allowed="a network with them: kaf_unet, or fcn with backbone.levels=[1,2,3,4]",
                next="--backbone kaf_unet",
            )
        sampling = Sampling(
            kind="neighbours", batch_size=settings.batch_size, reach=settings.reach, reach_slices=settings.reach_slices
        )
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, sampling=sampling)
        width = backbone.keypoint_channels[0]
        # A layer without a gradient would stop several processes, so what has no weight is not built.
        if settings.weight_cnn:
            deepest = backbone.channels[-1]
            self.project = heads.PooledMLP(deepest, settings.embedding, hidden=deepest // 2)
        if settings.weight_kaf or settings.weight_local:
            self.join = nn.Linear(sum(backbone.keypoint_channels), width)  # u = W [D_1; ...; D_L]
        if settings.weight_kaf:
            self.project_keypoints = PointMLP((width, width, settings.embedding))
        if settings.weight_local:
            self.match = _Matcher(width, settings.matcher_heads, settings.matcher_pairs)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices and their neighbours -> 2N views -> two positional contrasts and the transport of keypoints."""
        how = self.settings
        pair = self.views(batch, rng)
        image = torch.cat([view.image for view in pair.values()])
        keypoints, found = self.seen(pair, batch, rng)
        points = points_of(keypoints)
        maps, features = self.backbone.encode_keypoints(image, keypoints)
        close = near(processes.gather(batch.position.repeat(2)), how.threshold)  # both carry the slice's position
        scale = base_factor(how.temperature, how.temperature_base)
        losses, watched, uninformed = {}, {}, {}
        if how.weight_cnn:
            z = processes.gather(self.project(maps[-1]))  # (2N, embedding)
            losses["cnn"] = how.weight_cnn * scale * contrast(z, close, how.temperature)
            watched["global"], uninformed["cnn"] = z.detach(), how.weight_cnn * scale * log(len(z) - 1)
        if how.weight_kaf or how.weight_local:
            u = self.join(pack(torch.cat(features, -1), points))  # (keypoints, width)
        if how.weight_kaf:
            z, rows = self.embed_keypoints(u, points)
            losses["keypoint"] = how.weight_kaf * scale * contrast(z, close[rows][:, rows], how.temperature)
            if len(z) > 1:
                watched["keypoint"] = z.detach()
                uninformed["keypoint"] = how.weight_kaf * scale * log(len(z) - 1)
        if how.weight_local:
            size = (image.shape[2], image.shape[3])
            losses["local"] = how.weight_local * self.transport(u, points, keypoints, found, size)
        if not how.weight_cnn:  # several processes wait for a gradient of every layer, the deepest too
            last = next(reversed(losses))
            losses[last] = losses[last] + 0 * precise(maps[-1]).sum()
        return Outcome(losses, watched, uninformed)

    @torch.no_grad()
    def seen(self, pair: dict[str, View], batch: Batch, rng: Draw) -> tuple[Tensor, Tensor]:
        """Where the keypoints that are used lie in the views of slices and neighbours (2N, K, 2), NaN after the last;
        and for each of a slice the one that it matches among those of the neighbour (N, K), -1 where there is none."""
        assert batch.neighbour is not None
        both = (batch, batch.neighbour)
        of_views, places, descriptors = (
            torch.cat([_there(x)[:, : self.backbone.most_keypoints] for x in xs])
            for xs in (
                [view.keypoints for view in pair.values()],
                [half.keypoints for half in both],
                [half.descriptors for half in both],
            )
        )
        valid = ~of_views.isnan().any(-1)
        place, descriptor = places.masked_fill(~valid[..., None], torch.nan).chunk(2), descriptors.chunk(2)
        how = self.settings
        found = matches(place[0], descriptor[0], place[1], descriptor[1], how.distance_px, mutual=how.mutual)
        if how.keypoint_share != ALL:
            of_pairs = torch.stack(valid.chunk(2), 1)  # (N, 2, K)
            used, found = some_of_pairs(rng.uniform(*of_pairs.shape), of_pairs, found, how.keypoint_share, rng)
            of_views = of_views.masked_fill(~torch.cat(used.unbind(1))[..., None], torch.nan)
        number = torch.arange(found.shape[1], device=found.device).expand_as(found)
        of_views, named = compact(of_views, torch.cat([found, number])[..., None])
        wanted, there = named[..., 0].chunk(2)
        same = wanted[:, :, None] == there[:, None]
        return of_views, torch.where(same.any(2), same.int().argmax(2), -1)

    def embed_keypoints(self, u: Tensor, points: Points) -> tuple[Tensor, Tensor]:
        """(n, embedding) of the n slices of all processes that have keypoints, and which of the 2N slices they are."""
        some = points.valid.any(1)
        mean = mean_of_points(u, points)
        z = self.project_keypoints(mean[some])
        padded = z.new_zeros(len(some), z.shape[1]).index_put((some.nonzero()[:, 0],), z)
        rows = processes.gather(some).nonzero()[:, 0]
        return processes.gather(padded)[rows], rows

    def transport(self, u: Tensor, points: Points, keypoints: Tensor, found: Tensor, size: tuple[int, int]) -> Tensor:
        """L_local of this process's pairs; keypoints that a view lost are neither matched nor unmatched."""
        h = precise(self.match(u, points, keypoints, size))  # (2N, K, width)
        here, there = h.chunk(2)
        seen_here, seen_there = points.valid.chunk(2)
        with torch.autocast(h.device.type, enabled=False):
            scores = here @ there.mT / h.shape[-1] ** 0.5
        plan = log_plan(scores, self.match.bin_score, seen_here, seen_there, self.settings.iterations)
        return self.likelihood(plan, found, seen_here, seen_there) + 0 * h.sum()  # a gradient also without keypoints

    def likelihood(self, plan: Tensor, found: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """- log P of matched pairs, of the bin for the others: the printed sum, or the code's weighted means.

        Args:
            plan: (B, K + 1, K' + 1) log P; the last row and column are the bins.
            found: (B, K) index of each keypoint's match, -1 where it has none.
            here: (B, K) bool, keypoints of the slices.
            there: (B, K') bool, of the neighbours.
        """
        has, taken = found >= 0, matched(found, there)
        pairs = plan[:, :-1, :-1].gather(2, found.clamp(min=0)[..., None])[..., 0]
        cost = [
            (-plan_of).masked_fill(~which, 0).clamp(0, 100)
            for plan_of, which in (
                (pairs, has), (plan[:, :-1, -1], here & ~has), (plan[:, -1, :-1], there & ~taken),
            )
        ]  # fmt: skip
        if self.settings.local_form == "paper":
            return torch.cat(cost, 1).sum(1).mean()
        unmatched = torch.cat([here & ~has, there & ~taken], 1).sum(1)
        of_matched = cost[0].sum(1) / has.sum(1).clamp(min=1)
        of_unmatched = torch.cat(cost[1:], 1).sum(1) / unmatched.clamp(min=1)
        return self.settings.weight_matched * of_matched.mean() + self.settings.weight_unmatched * of_unmatched.mean()


@final
class _Matcher(nn.Module):
    """Place encoding, pairs of self and cross attention, a linear layer; and the score of the bin."""

    def __init__(self, width: int, heads: int, pairs: int) -> None:
        super().__init__()
        self.encode = PlaceEncoding(width)
        self.attend = nn.ModuleList([PointAttention(width, heads) for _ in range(2 * pairs)])
        self.last = nn.Linear(width, width)
        self.bin_score = nn.Parameter(torch.ones(()))

    def forward(self, u: Tensor, points: Points, keypoints: Tensor, size: tuple[int, int]) -> Tensor:
        """u (keypoints, width) of slices and then of their neighbours -> h (2N, K, width)."""
        h = u + self.encode(pack(keypoints, points), size).to(u.dtype)
        images = len(keypoints)
        other = torch.arange(images, device=u.device).roll(images // 2)  # a slice's neighbour and the other way round
        for number, layer in enumerate(self.attend):
            h = layer(h, points, other if number % 2 else None)
        return unpack(self.last(h), points)


def _there(x: Tensor | None) -> Tensor:
    assert x is not None, "KAF needs the keypoints of the prepared scans"
    return x
