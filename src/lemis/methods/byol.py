"""BYOL: Bootstrap Your Own Latent, a New Approach to Self-Supervised Learning. J.-B. Grill, F. Strub, F. Altche,
C. Tallec, P. H. Richemond, E. Buchatskaya, C. Doersch, B. Avila Pires, Z. D. Guo, M. Gheshlaghi Azar, B. Piot,
K. Kavukcuoglu, R. Munos, M. Valko. NeurIPS 2020, https://arxiv.org/abs/2006.07733. As the PCL protocol runs it on
slices.

From one view of a slice, predict what a slowly following target network says of the other; there are no negatives:

    L   = (2 - 2 cos(q(z_1), z'_2)) + (2 - 2 cos(q(z_2), z'_1)),   z = g(f(view)), q the predictor, ' the target
    xi <- m xi + (1 - m) theta,   m = 1 - (1 - m_0) (cos(pi progress) + 1) / 2

Followed: the symmetric loss, projector and predictor, the target and its schedule. The views are the protocol's (PCL,
MICCAI 2021): geometric, without the paper's changes of colour. Left out: LARS. Differs: both views go through a network
together, so batch statistics are over 2N images.
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
from lemis.layers.basic import pool, precise
from lemis.parts import heads
from lemis.parts.momentum import follow, follower, towards_one
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 4,096 images (paper)
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996  # m_0, at the start; 1 at the end (paper)
    hidden: Annotated[int, Field(gt=0)] = 4096  # width of projector and predictor (paper)
    embedding: Annotated[int, Field(gt=0)] = 256  # paper
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` and ``second`` of every slice


def symmetric(prediction: Tensor, target: Tensor) -> Tensor:
    """L from (2N, D), the first views before the second; 0 to 8, and 4 where prediction and target are orthogonal."""
    other = torch.cat(target.chunk(2)[::-1])
    cosine = F.cosine_similarity(precise(prediction), precise(other), dim=1)
    return 2 * (2 - 2 * cosine).mean()


@final
class Method(Pretext[Settings, Views]):
    """Encoder, projector and predictor; the target, which is a slow copy of the first two."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        width, hidden, embedding = backbone.channels[-1], settings.hidden, settings.embedding
        self.project = heads.Predictor(width, embedding, hidden, bias=False)  # g
        self.predict = heads.Predictor(embedding, embedding, hidden, bias=False)  # q
        self.target_backbone, self.target_project = follower(self.backbone), follower(self.project)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views -> 2N predictions, each against the target's embedding of the other view."""
        images = together(self.views(batch, rng))
        z = self.project(pool(self.backbone.encode(images)[-1]))  # (2N, embedding)
        with torch.no_grad():
            target = self.target_project(pool(self.target_backbone.encode(images)[-1]))  # (2N, embedding)
        loss = symmetric(self.predict(z), target)
        return Outcome({"prediction": loss}, {"global": z.detach()})

    def after_step(self, progress: float) -> None:
        """The target follows, ever more slowly."""
        momentum = towards_one(self.settings.momentum, progress)
        follow(self.target_backbone, self.backbone, momentum)
        follow(self.target_project, self.project, momentum)
