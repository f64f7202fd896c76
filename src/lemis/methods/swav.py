"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments. M. Caron, I. Misra, J. Mairal,
P. Goyal, P. Bojanowski, A. Joulin. NeurIPS 2020, https://arxiv.org/abs/2006.09882. As the PCL protocol runs it on
slices.

Each view of a slice predicts the cluster of the other. z are unit embeddings, c_1 .. c_K unit prototypes:

    p_k(z) = exp(z . c_k / tau) / sum_l exp(z . c_l / tau),        l(z, q) = - sum_k q_k log p_k(z)
    L      = mean over slices of the mean over pairs (v, w), v one of the two full views, w another view, of l(z_w, q_v)

The codes q of a full view are those that spread the batch evenly over the prototypes: exp(z . c_k / epsilon), whose
rows (slices) and columns (prototypes) are normalised in turn, three times (Sinkhorn and Knopp); they have no gradient.

Followed: the swapped prediction, the codes, the unit prototypes, the head; smaller crops are a setting, off by default.
The views are the protocol's (PCL, MICCAI 2021): geometric, without the paper's changes of colour. Left out: the queue
that the authors use for small batches, prototypes that rest during the first epoch, and LARS. Differs: views of one
size go through the network together, so batch statistics are over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.layers.basic import pool, precise, unit
from lemis.parts import heads
from lemis.parts.pretext import Pretext
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 4,096 images (paper)
    prototypes: Annotated[int, Field(gt=1)] = 3000  # K (paper, for ImageNet)
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau (paper)
    epsilon: Annotated[float, Field(gt=0)] = 0.05  # of the codes (paper)
    iterations: Annotated[int, Field(gt=0)] = 3  # of Sinkhorn (paper)
    hidden: Annotated[int, Field(gt=0)] = 2048  # width inside the head (paper)
    embedding: Annotated[int, Field(gt=0)] = 128  # paper
    crops: Annotated[int, Field(ge=0)] = 0  # smaller views per slice; six in the paper's multi-crop
    crop_px: Annotated[int, Field(gt=0)] = 144  # their side; the paper's 96 of 224, in multiples of 16
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


@final
class Views(contracts.Views[Settings]):
    """Two independent geometric views of every slice, and ``crops`` smaller ones."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first`` and ``second``, each (B, C, size_px, size_px); ``crop 1`` and so on, (B, C, crop_px, crop_px)."""
        how = self.settings
        seen = views.two_views(how.spatial, batch, how.size_px, rng)
        for number in range(how.crops):
            seen[f"crop {number + 1}"] = views.random_view(how.spatial, batch, how.crop_px, rng)
        return seen


@final
class Method(Pretext[Settings, Views]):
    """Encoder, head, and the prototypes that its unit vectors are compared with."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.Predictor(backbone.channels[-1], settings.embedding, settings.hidden)
        self.prototypes = nn.Parameter(unit(torch.randn(settings.prototypes, settings.embedding)))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views and N crops a number -> scores against the prototypes -> swapped prediction."""
        how = self.settings
        first, second, *crops = (view.image for view in self.views(batch, rng).values())
        images = [torch.cat([first, second]), *([torch.cat(crops)] if crops else [])]
        pooled = torch.cat([pool(self.backbone.encode(image)[-1]) for image in images])
        each = unit(self.project(pooled)).chunk(2 + how.crops)
        z = torch.stack([processes.gather(view) for view in each])  # (V, N, D)
        with torch.autocast(z.device.type, enabled=False):
            scores = z @ precise(self.prototypes).T  # (V, N, K)
        assigned = codes(scores[:2].detach(), how.epsilon, how.iterations)
        loss = swapped(scores / how.temperature, assigned)
        return Outcome({"swap": loss}, {"global": z[:2].detach().flatten(0, 1)}, {"swap": log(how.prototypes)})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:  # noqa: ARG002  whatever the step
        """Prototypes stay unit vectors."""
        self.prototypes.copy_(unit(self.prototypes))


def codes(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments that spread each batch evenly: (..., N, K) -> (..., N, K), rows sum to 1, columns to about N/K.

    In logarithms, so that no scale of the scores overflows.
    """
    plan = scores / epsilon
    for _ in range(iterations):
        plan = plan.log_softmax(-2).log_softmax(-1)
    return plan.exp()


def swapped(logits: Tensor, assigned: Tensor) -> Tensor:
    """Mean of l(z_w, q_v) over the full views v, the other views w, and slices.

    Args:
        logits: (V, N, K), z . c / tau of V views, the full ones first.
        assigned: (F, N, K), codes of the F full views.
    """
    log_p = logits.log_softmax(-1)
    pairs = [(v, w) for v in range(len(assigned)) for w in range(len(logits)) if v != w]
    # Pair by pair and not as one product over (N, K): that loses four digits in float32.
    return -torch.stack([(assigned[v] * log_p[w]).sum(-1).mean() for v, w in pairs]).mean()
