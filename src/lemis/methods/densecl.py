"""DenseCL: Dense Contrastive Learning for Self-Supervised Visual Pre-Training. X. Wang, R. Zhang, C. Shen, T. Kong,
L. Li. CVPR 2021, https://arxiv.org/abs/2011.09157. As the PCL protocol runs it on slices.

MoCo of pooled vectors, and MoCo of the cells of the map: a cell's positive is the cell of the other view whose backbone
feature is most like its own, its negatives are pooled dense keys of other slices.

    L    = (1 - lambda) L_q + lambda L_r
    L_r  = mean_s -log [ exp(r_s t_s+ / tau) / ( exp(r_s t_s+ / tau) + sum_t exp(r_s t / tau) ) ],   t in the queue
    t_s+ = t_c(s),   c(s) = argmax_c cos(F_s, F'_c),   F the query encoder's map, F' the key encoder's
    theta_k <- m theta_k + (1 - m) theta_q

Followed: the two heads, the two queues, the correspondence and the weight; L_q is MoCo v2's. The views are the
protocol's (PCL, MICCAI 2021): geometric, without the paper's changes of colour. Left out: shuffling of the batch among
GPUs, since batch statistics are taken over all processes here. Differs: keys of the slice itself are no negatives;
where the queue is about as long as the data set, an older key of every slice is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.basic import unit
from lemis.parts import heads
from lemis.parts.momentum import MomentumPair, follow, follower
from lemis.parts.queue import Queue, contrast_with_queue
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; a query and a key of each
    temperature: Annotated[float, Field(gt=0)] = 0.2  # tau, of both terms (paper)
    dense_weight: Annotated[float, Field(ge=0, le=1)] = 0.5  # lambda (paper)
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999  # m, of the key encoder (paper)
    queue: Annotated[int, Field(gt=0)] = 2048  # keys of each queue: about the slices of ACDC; 65,536 (paper)
    embedding: Annotated[int, Field(gt=0)] = 128  # of both heads (paper)
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` for the queries, ``second`` for the keys


def cells(features: Tensor) -> Tensor:
    """(N, C, *space) -> (N, S, C)."""
    return features.flatten(2).mT


def correspondence(features: Tensor, slow: Tensor) -> Tensor:
    """c(s): which cell of ``slow`` (N, C, *space) is most like each of ``features``, by cosine -> (N, S) int64."""
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        return (cells(unit(features)) @ cells(unit(slow)).mT).argmax(2)


@final
class Method(MomentumPair[Settings, Views]):
    """Encoder, a head for the pooled map and one for its cells; copies of all that follow slowly; a queue each."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        width, size = backbone.channels[-1], settings.embedding
        self.project = heads.PooledMLP(width, size)
        self.project_cells = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
        self.slow_backbone, self.slow_project = follower(self.backbone), follower(self.project)
        self.slow_project_cells = follower(self.project_cells)
        self.queue, self.queue_of_cells = Queue(settings.queue, size), Queue(settings.queue, size)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> queries and keys, pooled and of S cells -> the two contrasts; the queues then take the keys."""
        how, pair = self.settings, self.views(batch, rng)
        features = self.backbone.encode(pair["first"].image)[-1]
        q, r = self.project(features), self.project_cells(cells(features))  # (N, D), (N, S, D)
        with torch.no_grad():
            slow = self.slow_backbone.encode(pair["second"].image)[-1]
            k, t = self.slow_project(slow), self.slow_project_cells(cells(slow))  # (N, D), (N, S, D)
            t_of_r = t.take_along_dim(correspondence(features, slow)[..., None], 1)  # (N, S, D)
        negative = self.queue.of_others(batch.index)  # (N, K), of both queues, which are filled alike
        of_slices = contrast_with_queue(q, k, self.queue.keys, how.temperature, negative)
        of_cells = contrast_with_queue(r, t_of_r, self.queue_of_cells.keys, how.temperature, negative[:, None])
        self.queue.add(k, batch.index)
        self.queue_of_cells.add(t.mean(1), batch.index)
        weights, nothing = {"contrast": 1 - how.dense_weight, "dense": how.dense_weight}, log(how.queue + 1)
        some = r.detach().flatten(0, 1)[:: max(1, r[..., 0].numel() // 1024)]
        return Outcome(
            {"contrast": weights["contrast"] * of_slices, "dense": weights["dense"] * of_cells},
            {"global": q.detach(), "dense": some},
            {name: weight * nothing for name, weight in weights.items() if weight},
        )

    def after_step(self, progress: float) -> None:
        """The key encoder and its heads follow."""
        super().after_step(progress)
        follow(self.slow_project_cells, self.project_cells, self.settings.momentum)
