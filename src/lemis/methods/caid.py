"""CAiD: Context-Aware Instance Discrimination for Self-Supervised Learning in Medical Imaging. M. R. Hosseinzadeh
Taher, F. Haghighi, M. B. Gotway, J. Liang. MIDL 2022, https://arxiv.org/abs/2204.07344. With MoCo v2, as the PCL
protocol runs it on slices.

Telling slices apart says little about fine detail; restoring them does. One network learns both from a distorted view:

    L       = L_id + lambda L_cid,  lambda = 10
    L_id    = -log [ exp(q k+ / tau) / ( exp(q k+ / tau) + sum_{k in queue} exp(q k / tau) ) ],   q, k unit vectors
    L_cid   = mean over pixels of ( sigmoid(decoder(encoder(distorted view 1))) - view 1 )^2,   grey values in [0, 1]
    theta_k <- m theta_k + (1 - m) theta_q

View 1 gives the query, view 2 the key; both are changed in brightness, contrast and sharpness and then distorted (boxes
cut out or swapped); the target is view 1 before that. Encoder and decoder are transferred.

Followed: the losses, their weight, the distortions and the intensity changes of the released code [C]; the size of
boxes and blur goes with that of the view. Geometry, batch and schedule are the protocol's (PCL, MICCAI 2021).
Differences: in [C] a view may be mirrored after its target was taken, here the target has the view's geometry; grey
values are those of the slice between its least and its greatest value, and the network reads them on the scale of
fine-tuning (z-scores); every channel is restored; keys of the slice itself are no negatives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch.nn.functional as F
from pydantic import Field

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.unet import all_parts
from lemis.parts import corrupt, heads
from lemis.parts.momentum import MomentumPair, follower
from lemis.parts.queue import Queue, contrast_then_add
from lemis.parts.restore import Restore
from lemis.sampling.distorted import DistortedViews
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method ([C] its code), the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 256 [C]
    restoration_weight: Annotated[float, Field(gt=0)] = 10.0  # lambda, of L_cid [C]
    temperature: Annotated[float, Field(gt=0)] = 0.2  # tau [C]
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999  # m, of the key encoder [C]
    queue: Annotated[int, Field(gt=0)] = 2048  # keys: about the slices of ACDC; 65,536 [C]
    embedding: Annotated[int, Field(gt=0)] = 128  # [C]
    photometric: Literal["released", "identity"] = "released"  # jitter and blur of [C], or none as in PCL
    distortion: corrupt.Distortion = field(default_factory=corrupt.Distortion)  # [C]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL; 224 [C]
    spatial: Spatial = field(default_factory=Spatial)  # as PCL; [C]: a resized crop, mirrored or not


Views = DistortedViews  # ``query``, ``key``, and ``target``: the query before it was distorted


@final
class Method(MomentumPair[Settings, Views]):
    """Encoder and pooled MLP, copies of both that follow slowly, and a queue; decoder and a layer that gives grey."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=all_parts(backbone))
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)
        self.slow_backbone, self.slow_project = follower(self.backbone), follower(self.project)
        self.queue = Queue(settings.queue, settings.embedding)
        self.restore = Restore(backbone)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> N queries, N keys and N restored slices -> both losses; the queue takes the keys."""
        how = self.settings
        drawn = self.views(batch, rng)
        maps = self.backbone.encode(drawn["query"].image)
        q = self.project(maps[-1])  # (N, embedding)
        k = self.key(drawn["key"].image)  # (N, embedding)
        contrast = contrast_then_add(q, k, batch.index, self.queue, how.temperature)
        restored = self.restore(self.backbone.decode(maps)).sigmoid()
        restoration = F.mse_loss(restored, drawn["target"].image)
        losses = {"contrast": contrast, "restoration": how.restoration_weight * restoration}
        return Outcome(losses, {"global": q.detach()}, {"contrast": log(how.queue + 1)})
