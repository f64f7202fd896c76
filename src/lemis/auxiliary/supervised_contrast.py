"""Exploring Cross-Image Pixel Contrast for Semantic Segmentation. W. Wang, T. Zhou, F. Yu, J. Dai, E. Konukoglu,
L. Van Gool. ICCV 2021, https://arxiv.org/abs/2101.11939. As the supervised contrastive loss (SCL) that voxel-level
Siamese learning (Lee et al. 2021, https://arxiv.org/abs/2105.07672) compares itself with.

Voxels of one organ attract and all others repel each other, at each of the L deepest maps of the encoder, beside Dice:

    L_i = 1/|P_i| sum_{i+ in P_i} - log [ e^(i.i+ / tau) / ( e^(i.i+ / tau) + sum_{i- in N_i} e^(i.i- / tau) ) ]

i are unit vectors of the sampled voxels of the organs, P_i the others of its organ, and N_i the voxels of other
classes; each positive has negatives alone in its denominator. The loss of a layer is the mean over i; a voxel without
a positive or without a negative is left out.

Followed, from the comparison: layers, voxels and false negatives as in Siamese learning, and 1,700 negatives per layer.
Which voxels those are is INFERRED: drawn evenly from all others of the layer, background among them, since that is what
an organ is most often mistaken for; and the sampled voxels of other organs are negatives too, as in the first paper.
The head is Siamese learning's projector, so that the two losses differ in nothing else. Left out: the memory bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from lemis import contracts, processes
from lemis.contracts import Draw, Outcome
from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm, unit
from lemis.parts import voxels
from lemis.parts.voxels import Cell

DIMS = (2, 3)

Alpha = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] Lee et al.; [C] the released code of Wang et al.; INFERRED our reading."""

    layers: Annotated[int, Field(gt=0)] = 3  # the bottleneck and the maps above it [P]
    alpha: Alpha = (1.0,)  # from the bottleneck; the last also beyond [P]
    weight: Annotated[float, Field(gt=0)] = 1.0  # [C]; [P]: "10 for .. and 100 for ..", subjects lost
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau, as Wang et al. are quoted; 0.07 [C]
    head: Literal["projector", "mlp"] = "projector"  # INFERRED, as voxel_siamese; mlp: Linear-BN-ReLU-Linear [C]
    hidden: Annotated[int, Field(gt=0)] = 64  # width of the head and of its vectors, as voxel_siamese; 256 [C]
    voxels: Annotated[int, Field(gt=0)] = 1700  # i, of the batch, per layer [P]
    false_negatives: Annotated[int, Field(ge=0)] = 1000  # most of them, taken first [P]; as `voxels`: no such limit
    negatives: Annotated[int, Field(ge=0)] = 1700  # drawn besides, of the batch, per layer [P]
    negatives_from: Literal["all", "organs", "background"] = "all"  # INFERRED
    others: bool = True  # INFERRED, as Wang et al.: sampled voxels of other organs are negatives too
    background: bool = False  # INFERRED, "organs"; True: background is a class like the others, with positives
    cell: Cell = "centre"  # voxel that labels a cell, INFERRED; corner: first one [C]


class Vectors(NamedTuple):
    """Voxels to compare with, of all processes."""

    z: Tensor  # (M, D)
    label: Tensor  # (M,) int64
    number: Tensor  # (M,) int64, of the voxel among all; the same voxel has the same number
    positive: Tensor  # (M,) bool, sampled as one of the i; or else drawn as a negative


@final
class Auxiliary(contracts.Auxiliary):
    """A head per layer."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings, *, num_classes: int) -> None:
        super().__init__()
        _refuse_one_class(settings, num_classes)
        self.settings = settings
        self.num_classes = num_classes
        channels = voxels.channels_from_bottleneck(backbone.channels, settings.layers)
        head = voxels.projector if settings.head == "projector" else _mlp
        self.project = nn.ModuleList([head(width, settings.hidden) for width in channels])

    def forward(self, maps: Sequence[Tensor], label: Tensor, logits: Tensor, rng: Draw) -> Outcome:
        """Maps of ``encode``, label, logits -> weighted terms, ``contrast/1`` (bottleneck) to ``contrast/L``."""
        how = self.settings
        losses, means = {}, {}
        f, labels = voxels.labelled(maps, how.layers, label, how.cell)
        # All layers choose before the first one is read, which waits for the device.
        chosen = [self._choose(y, logits, rng) for y in labels]
        for number, (g, features, y, taken) in enumerate(zip(self.project, f, labels, chosen, strict=True), start=1):
            positive, negative = (each.cells() for each in taken)
            cells = torch.cat([positive, negative])
            here = Vectors(
                z=g(voxels.vectors(features, cells)),
                label=y.flatten()[cells],
                number=cells + processes.rank() * y.numel(),
                positive=torch.arange(len(cells), device=cells.device) < len(positive),
            )
            everywhere = _gathered(here, sum(len(each.cell) for each in taken))
            loss = self._loss(Vectors(*(each[: len(positive)] for each in here)), everywhere)
            losses[f"contrast/{number}"] = how.weight * voxels.of_layer(how.alpha, number) * loss
            means[f"contrast/{number}"] = self._means(everywhere)
        return Outcome(losses, voxels.watched(means))

    def _choose(self, y: Tensor, logits: Tensor, rng: Draw) -> tuple[voxels.Chosen, voxels.Chosen]:
        """The voxels i, and the negatives drawn besides."""
        how = self.settings
        missed = voxels.to_grid(logits.detach(), y.shape[1:], how.cell).argmax(1) != y
        first, second = rng.uniform(len(y), y[0].numel()), rng.uniform(len(y), y[0].numel())
        known = y >= (0 if how.background else 1)
        positive = voxels.choose_hard(known, missed, first, voxels=how.voxels, false_negatives=how.false_negatives)
        pool = {"all": torch.ones_like(known), "organs": y > 0, "background": y == 0}[how.negatives_from]
        return positive, voxels.choose(voxels.without(pool, positive), second, how.negatives)

    def _loss(self, mine: Vectors, everywhere: Vectors) -> Tensor:
        """Mean over the voxels i of all processes; this one adds up its own."""
        alike = mine.label[:, None] == everywhere.label
        itself = mine.number[:, None] == everywhere.number
        negatives = ~alike if self.settings.others else ~alike & ~everywhere.positive
        per_voxel, counts = contrast(
            mine.z, everywhere.z, alike & everywhere.positive & ~itself, negatives, self.settings.temperature
        )
        added = processes.total(torch.stack([per_voxel.sum(), counts.sum().to(per_voxel.dtype)]))
        return added[0] / added[1].detach().clamp(min=1)

    def _means(self, everywhere: Vectors) -> Tensor:
        z, label = unit(everywhere.z.detach()[everywhere.positive]), everywhere.label[everywhere.positive]
        count = voxels.class_counts(label, self.num_classes)
        return voxels.class_sums(z, label, self.num_classes) / count.clamp(min=1)[:, None]


def contrast(i: Tensor, others: Tensor, positives: Tensor, negatives: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """L_i from one matrix of cosines.

    Args:
        i: (N, D), not normalised; computed in float32, or float64 where that comes in.
        others: (M, D), not normalised.
        positives: (N, M) bool: P_i, without i itself.
        negatives: (N, M) bool: N_i.
        tau: Temperature.

    Returns:
        (N,) L_i, 0 where P_i or N_i is empty; (N,) bool, where neither is.
    """
    left, right = unit(i), unit(others)
    with torch.autocast(i.device.type, enabled=False):
        similarity = left @ right.T / tau
    counts = positives.any(1) & negatives.any(1)
    against = similarity.masked_fill(~negatives, -torch.inf).logsumexp(1, keepdim=True)
    per_pair = softplus(against - similarity).masked_fill(~positives, 0)
    per_voxel = per_pair.sum(1) / positives.sum(1).clamp(min=1)
    return per_voxel.masked_fill(~counts, 0), counts


def _gathered(here: Vectors, most: int) -> Vectors:
    """Those of all processes, each of which holds at most so many."""
    if processes.count() == 1:
        return here
    room = most - len(here.z)
    facts = torch.stack([here.label, here.number, here.positive.long()], 1)
    z = processes.gather(F.pad(here.z, (0, 0, 0, room)))
    label, number, positive = processes.gather(F.pad(facts, (0, 0, 0, room), value=-1)).unbind(1)
    real = label >= 0
    return Vectors(z[real], label[real], number[real], positive[real] > 0)


def _mlp(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), BatchNorm(channels), nn.ReLU(), nn.Linear(channels, width))


def _refuse_one_class(settings: Settings, num_classes: int) -> None:
    none_drawn = settings.negatives == 0 or settings.negatives_from == "organs"
    if num_classes == 2 and none_drawn and not settings.background:
        raise UsageError(
            f"auxiliary.negatives={settings.negatives} auxiliary.negatives_from={settings.negatives_from} "
            "with one structure",
            allowed="voxels of another class to repel; with one structure those are of the background",
            next="auxiliary.negatives=1700 auxiliary.negatives_from=all",
        )
