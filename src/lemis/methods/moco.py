"""MoCo v2: Improved Baselines with Momentum Contrastive Learning. X. Chen, H. Fan, R. Girshick, K. He. 2020,
https://arxiv.org/abs/2003.04297; MoCo: Momentum Contrast for Unsupervised Visual Representation Learning. K. He,
H. Fan, Y. Wu, S. Xie, R. Girshick. CVPR 2020, https://arxiv.org/abs/1911.05722. As the PCL protocol runs it on slices.

A query is told from the keys of past batches, which a slowly following encoder has made:

    L       = -log [ exp(q k+ / tau) / ( exp(q k+ / tau) + sum_{k in queue} exp(q k / tau) ) ],   q, k unit vectors
    theta_k <- m theta_k + (1 - m) theta_q

Followed: the loss, the queue, the momentum encoder and the two-layer head of v2. The views are the protocol's (PCL,
MICCAI 2021): geometric, without the papers' changes of colour. Left out: shuffling of the batch among GPUs, since
batch statistics are taken over all processes here. Differs: keys of the slice itself are no negatives; where the
queue is about as long as the data set, an older key of every slice is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, final

from pydantic import Field

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome
from lemis.parts import heads
from lemis.parts.momentum import MomentumPair, follower
from lemis.parts.queue import Queue, contrast_then_add
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; a query and a key of each
    temperature: Annotated[float, Field(gt=0)] = 0.2  # tau, v2
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999  # m, of the key encoder
    queue: Annotated[int, Field(gt=0)] = 2048  # keys: about the slices of ACDC; 65,536 for 1.3 million images (paper)
    embedding: Annotated[int, Field(gt=0)] = 128  # paper
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` for the queries, ``second`` for the keys


@final
class Method(MomentumPair[Settings, Views]):
    """Encoder and pooled MLP; copies of both that follow slowly; a queue of their keys."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)
        self.slow_backbone, self.slow_project = follower(self.backbone), follower(self.project)
        self.queue = Queue(settings.queue, settings.embedding)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> N queries and N keys -> each query against its key and the queue, which then takes the keys."""
        pair = self.views(batch, rng)
        q = self.project(self.backbone.encode(pair["first"].image)[-1])  # (N, embedding)
        k = self.key(pair["second"].image)  # (N, embedding)
        loss = contrast_then_add(q, k, batch.index, self.queue, self.settings.temperature)
        return Outcome({"contrast": loss}, {"global": q.detach()}, {"contrast": log(self.settings.queue + 1)})
