"""SimTriplet: Simple Triplet Representation Learning with a Single GPU. Q. Liu, P. C. Louis, Y. Lu, A. Jha, M. Zhao,
R. Deng, T. Yao, J. T. Roland, H. Yang, S. Zhao, L. E. Wheless, Y. Huo. MICCAI 2021, https://arxiv.org/abs/2103.05585.
As the PCL protocol runs it on slices.

SimSiam with a third view: two of a slice (1 and 2), and one of its neighbour (3), which shows nearly the same anatomy:

    L = 1/2 D(p_1, stopgrad(z_2)) + 1/2 D(p_2, stopgrad(z_1))      intra-sample
      + 1/2 D(p_1, stopgrad(z_3)) + 1/2 D(p_3, stopgrad(z_1))      inter-sample
    D(p, z) = -cos(p, z),   z = g(f(view)),   p = h(z)

Followed: both terms as in the released code, SimSiam's projector and predictor, and the stopped gradient. The paper's
neighbours are adjacent tiles of a pathology slide; here they are adjacent slices of a scan. The views are those of the
protocol (PCL, MICCAI 2021): geometric, without changes of colour. Differs: all three views go through the network
together, so batch statistics are over 3N images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, Sampling, View
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

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; three times as many views; 128 tiles (paper)
    reach_slices: Annotated[int, Field(gt=0)] = 1  # how far a neighbour is; the paper's tiles touch
    hidden: Annotated[int, Field(gt=0)] = 2048  # width of the projector; SimSiam's, as the paper
    embedding: Annotated[int, Field(gt=0)] = 2048  # SimSiam's, as the paper
    bottleneck: Annotated[int, Field(gt=0)] = 512  # hidden width of the predictor; SimSiam's, as the paper
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


@final
class Views(contracts.Views[Settings]):
    """Two independent geometric views of every slice, and one of its neighbour."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first``, ``second`` and ``neighbour``, each (B, C, size_px, size_px)."""
        assert batch.neighbour is not None, "SimTriplet is sampled with neighbours"
        how = self.settings
        pair = views.two_views(how.spatial, batch, how.size_px, rng)
        return pair | {"neighbour": views.random_view(how.spatial, batch.neighbour, how.size_px, rng)}


@final
class Method(Pretext[Settings, Views]):
    """Encoder, projector g and predictor h."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        size, reach = settings.batch_size, settings.reach_slices
        sampling = Sampling(kind="neighbours", batch_size=size, reach=1.0, reach_slices=reach)
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, sampling=sampling)
        self.project = heads.Projector(backbone.channels[-1], settings.embedding, settings.hidden)
        self.predict = heads.Predictor(settings.embedding, settings.embedding, settings.bottleneck)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices and their neighbours -> 3N views -> predictions, each against the embedding of another view."""
        images = together(self.views(batch, rng))
        z = self.project(self.backbone.encode(images)[-1])  # (3N, embedding)
        p = self.predict(z)
        (p1, p2, p3), (z1, z2, z3) = p.chunk(3), z.chunk(3)
        losses = {"intra": symmetric(p1, z1, p2, z2), "inter": symmetric(p1, z1, p3, z3)}
        # z is normalised over the batch, which would hide a collapse; p is not.
        return Outcome(losses, {"global": p.detach()})


def symmetric(p_a: Tensor, z_a: Tensor, p_b: Tensor, z_b: Tensor) -> Tensor:
    """1/2 D(p_a, stopgrad(z_b)) + 1/2 D(p_b, stopgrad(z_a)), the mean over rows (N, D); -1 to 1."""
    predicted, embedded = torch.cat([p_a, p_b]), torch.cat([z_b, z_a]).detach()
    return -F.cosine_similarity(precise(predicted), precise(embedded), dim=1).mean()
