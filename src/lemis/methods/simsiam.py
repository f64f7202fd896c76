"""SimSiam: Exploring Simple Siamese Representation Learning. X. Chen, K. He. CVPR 2021,
https://arxiv.org/abs/2011.10566. As the PCL protocol runs it on slices.

From one view of a slice, predict the embedding of the other, which is taken as a constant; no negatives, no slow copy:

    L = 1/2 D(p_1, stopgrad(z_2)) + 1/2 D(p_2, stopgrad(z_1)),   D(p, z) = -cos(p, z),   z = g(f(view)), p = h(z)

Followed: the loss, the three-layer projector and the two-layer predictor, all with batch normalisation, and the stopped
gradient. The views are the protocol's (PCL, MICCAI 2021): geometric, without the paper's changes of colour. Left out:
the constant learning rate of the predictor; every parameter has one schedule here. Differs: both views go through the
network together, so batch statistics are over 2N images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.basic import precise
from lemis.parts import heads
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 512 images (paper)
    hidden: Annotated[int, Field(gt=0)] = 2048  # width of the projector (paper)
    embedding: Annotated[int, Field(gt=0)] = 2048  # paper
    bottleneck: Annotated[int, Field(gt=0)] = 512  # hidden width of the predictor, a quarter of the embedding (paper)
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` and ``second`` of every slice


def symmetric(p: Tensor, z: Tensor) -> Tensor:
    """L from (2N, D), the first views before the second; -1 to 1."""
    other = torch.cat(z.detach().chunk(2)[::-1])
    return -F.cosine_similarity(precise(p), precise(other), dim=1).mean()


@final
class Method(Pretext[Settings, Views]):
    """Encoder, projector g and predictor h."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.Projector(backbone.channels[-1], settings.embedding, settings.hidden)
        self.predict = heads.Predictor(settings.embedding, settings.embedding, settings.bottleneck)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views -> 2N predictions, each against the embedding of the other view."""
        images = together(self.views(batch, rng))
        z = self.project(self.backbone.encode(images)[-1])  # (2N, embedding)
        p = self.predict(z)
        # z is normalised over the batch, which would hide a collapse; p is not.
        return Outcome({"prediction": symmetric(p, z)}, {"global": p.detach()})
