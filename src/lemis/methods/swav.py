"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments. M. Caron, I. Misra, J. Mairal,
P. Goyal, P. Bojanowski, A. Joulin. NeurIPS 2020, https://arxiv.org/abs/2006.09882. As the PCL protocol runs it on
slices.

Each view of a slice predicts the cluster of the other. z are unit embeddings, c_1 .. c_K unit prototypes:

    p_k(z) = exp(z . c_k / tau) / sum_l exp(z . c_l / tau),        l(z, q) = - sum_k q_k log p_k(z)
    L      = mean over slices of the mean over pairs (v, w), v one of the two full views, w another view, of l(z_w, q_v)

The codes q of a full view are those that spread the batch evenly over the prototypes: exp(z . c_k / epsilon), whose
rows (slices) and columns (prototypes) are normalised in turn, three times (Sinkhorn and Knopp); they have no gradient.

A batch of fewer slices than prototypes cannot be spread over these. For small batches the authors keep the features of
past ones, of each full view, in a queue: once it is full, the codes spread batch and queue together, and those of the
batch are used. ``queue=3840``, from the 15th epoch on, is their recipe for batches of 256; off by default.

Followed: the swapped prediction, the codes, the unit prototypes, the head, the queue; smaller crops are a setting, off
by default. The views are the protocol's (PCL, MICCAI 2021): geometric, without the paper's changes of colour. Left out:
prototypes that rest at first (an epoch; 5,005 steps in the recipe for small batches), and LARS. Differs: views of one
size go through the network together, so batch statistics are over all of them; the queue need not be a multiple of the
batch.
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
    queue: Annotated[int, Field(ge=0)] = 0  # features kept of each full view; 3,840 in the authors' small batches
    queue_from: Annotated[int, Field(ge=0)] = 15  # epoch in which they begin to be kept (authors, of 200)
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
    """Encoder, head, the prototypes that its unit vectors are compared with, and a queue of these where wanted."""

    kept: Tensor  # (2, queue, D), of each full view, the latest first
    filled: Tensor  # () int64, how many of them are there
    epochs: Tensor  # () int64, gone by

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.Predictor(backbone.channels[-1], settings.embedding, settings.hidden)
        self.prototypes = nn.Parameter(unit(torch.randn(settings.prototypes, settings.embedding)))
        if settings.queue:
            self.register_buffer("kept", torch.zeros(2, settings.queue, settings.embedding))
            self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
            self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

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
        assigned = self.assign(scores[:2].detach())
        self.keep(z[:2].detach())
        loss = swapped(scores / how.temperature, assigned)
        return Outcome({"swap": loss}, {"global": z[:2].detach().flatten(0, 1)}, {"swap": log(how.prototypes)})

    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tensor:
        """Scores (2, N, K) of the full views -> their codes, spread over the batch and a queue that is full."""
        how, slices = self.settings, scores.shape[1]
        if how.queue and int(self.filled) == how.queue:
            with torch.autocast(scores.device.type, enabled=False):
                scores = torch.cat([self.kept @ precise(self.prototypes).T, scores], 1)
        return codes(scores, how.epsilon, how.iterations)[:, -slices:]

    @torch.no_grad()
    def keep(self, z: Tensor) -> None:
        """Features (2, N, D) of a batch, of all processes, take the place of the oldest in the queue."""
        length = self.settings.queue
        if length and int(self.epochs) >= self.settings.queue_from:
            self.kept.copy_(torch.cat([z, self.kept], 1)[:, :length])
            self.filled.copy_((self.filled + z.shape[1]).clamp(max=length))

    def after_epoch(self, progress: float) -> None:  # noqa: ARG002  however far training is
        """Counts epochs, for the queue."""
        if self.settings.queue:
            self.epochs += 1

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
