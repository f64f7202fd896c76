"""Voxel-level Siamese Representation Learning for Abdominal Multi-Organ Segmentation. C. E. Lee, M. Chung, Y.-G. Shin.
2021, https://arxiv.org/abs/2105.07672.

Voxels of one organ have similar features, in whichever scan of the batch: a loss beside Dice, in ordinary training
with labels. At each of the L deepest maps f_l of the encoder (f_1 is the bottleneck) some voxels v of the batch go
through a projector g and a predictor h, as in SimSiam but with one view: z = g(v), p = h(z). P_c and Z_c hold those of
class c in the whole batch, and sg stops the gradient:

    (1)     D(p, z)     = - < p / ||p||, z / ||z|| >
    (4)     D(P_c, Z_c) = 1 / (|P_c| |Z_c|) sum_{p in P_c} sum_{z in Z_c} D(p, z)
    (5, 6)  L_vox       = sum_c w_c D(P_c, sg(Z_c))
    (7, 8)  L           = L_dice + lambda sum_l alpha_l L_vox(f_l)

With unit vectors (4) is minus the inner product of two means, which costs O(N) and no N x N matrix; in exact arithmetic
they are equal. So L_vox also says what it means: each voxel is drawn to the mean of its organ.

No code was released, and the text we read has lost its symbols. Restored with certainty: the formulas above, L = 3,
alpha = 1, sets over the batch, 1,700 voxels a layer of which at most 1,000 are false negatives. What is INFERRED below
is our reading. g and h are SimSiam's. (2) is SimSiam's loss of two views, and (3) is the Dice loss of fine-tuning.

The formula of w_c is lost, and so is of what lambda is 10 and of what 100. The default takes w_c = 1 - N_c/N, which
looks like the two counts that the text speaks of, and 10. INFERRED and perhaps nearer: w_c = 1/N_c with the sum 1
(``inverse``) and 100. It makes L_vox of eight organs some eight times smaller than without weights, so 10 without and
100 with them give L_vox the same say; with the default, whose sum is 7, two lambdas so far apart would have no reason.
The plan paper/voxel-siamese-table4 has rows for each, benchmarks/plans/hippocampus-voxel-siamese.yaml too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Draw, Outcome
from lemis.errors import UsageError
from lemis.layers.basic import unit
from lemis.parts import heads, voxels
from lemis.parts.voxels import Cell

DIMS = (2, 3)

Alpha = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]

ClassWeight = Literal["share", "inverse", "none"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper; INFERRED our reading where its text is lost."""

    layers: Annotated[int, Field(gt=0)] = 3  # L: the bottleneck and the maps above it; 1 to 3 in Table III [P]
    alpha: Alpha = (1.0,)  # from f_1; the last one also beyond; 1 [P]
    weight: Annotated[float, Field(gt=0)] = 10.0  # lambda: "10 for .. and 100 for ..": 10 INFERRED; 100 with inverse
    hidden: Annotated[int, Field(gt=0)] = 64  # width of g and h [P]; 128 and 256 in Table V
    class_weight: ClassWeight = "share"  # w_c, INFERRED: 1 - N_c/N; inverse: of N_c, sum 1; none: Table IV [P]
    counted: Literal["sampled", "batch"] = "sampled"  # N_c, N, INFERRED: of the sampled voxels; or all of the layer
    over_classes: Literal["sum", "mean"] = "sum"  # in (5), INFERRED: as written; mean: over the classes that are there
    with_itself: bool = True  # INFERRED: (4) as written; False: a voxel is not paired with itself
    voxels: Annotated[int, Field(gt=0)] = 1700  # of the batch, per layer [P]
    false_negatives: Annotated[int, Field(ge=0)] = 1000  # most of them, taken first [P]; as `voxels`: no such limit
    background: bool = False  # INFERRED, "organs"; True, and for one structure with "share": a class like the others
    cell: Cell = "centre"  # voxel that labels a cell, INFERRED; corner: first one, as interpolate's "nearest"


@final
class Auxiliary(contracts.Auxiliary):
    """A projector and a predictor per layer."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings, *, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        self.background = counts_background(settings, num_classes)
        _refuse_one_class(settings, num_classes - (not self.background))
        channels = voxels.channels_from_bottleneck(backbone.channels, settings.layers)
        self.project = nn.ModuleList([voxels.projector(width, settings.hidden) for width in channels])
        self.predict = nn.ModuleList(
            [heads.Predictor(settings.hidden, settings.hidden, settings.hidden) for _ in channels]
        )

    def forward(self, maps: Sequence[Tensor], label: Tensor, logits: Tensor, rng: Draw) -> Outcome:
        """Maps of ``encode``, label, logits -> lambda alpha_l L_vox(f_l): ``voxel/1`` (bottleneck) to ``voxel/L``."""
        how = self.settings
        losses, means = {}, {}
        f, labels = voxels.labelled(maps, how.layers, label, how.cell)
        # All layers choose before the first one is read, which waits for the device.
        chosen = [self._choose(y, logits, rng) for y in labels]
        for number, (g, h, features, y, taken) in enumerate(
            zip(self.project, self.predict, f, labels, chosen, strict=True), start=1
        ):
            cells = taken.cells()
            z = g(voxels.vectors(features, cells))  # (N, hidden)
            sets = compare(h(z), z, y.flatten()[cells], self.num_classes, with_itself=how.with_itself)
            count = sets.size if how.counted == "sampled" else self._in_batch(y)
            loss = over_classes(sets, weights(count, sets.there, how.class_weight), how.over_classes)
            losses[f"voxel/{number}"] = how.weight * voxels.of_layer(how.alpha, number) * loss
            # z is normalised over the batch, which would hide a collapse; p is not.
            means[f"voxel/{number}"] = sets.mean_p
        return Outcome(losses, voxels.watched(means))

    def _choose(self, y: Tensor, logits: Tensor, rng: Draw) -> voxels.Chosen:
        how = self.settings
        missed = voxels.to_grid(logits.detach(), y.shape[1:], how.cell).argmax(1) != y
        keys = rng.uniform(len(y), y[0].numel())
        known = y >= (0 if self.background else 1)
        return voxels.choose_hard(known, missed, keys, voxels=how.voxels, false_negatives=how.false_negatives)

    def _in_batch(self, y: Tensor) -> Tensor:
        count = voxels.class_counts(y, self.num_classes).float()
        if not self.background:
            count[0] = 0
        return processes.total(count)


class Sets(NamedTuple):
    """P_c and Z_c of every class, over all processes."""

    distance: Tensor  # (classes,) D(P_c, sg(Z_c)); 0 where there is no pair
    there: Tensor  # (classes,) bool, whether there is a pair
    size: Tensor  # (classes,) |P_c|, float
    mean_p: Tensor  # (classes, D) mean of unit p, detached; 0 where there is none


def compare(p: Tensor, z: Tensor, label: Tensor, num_classes: int, *, with_itself: bool = True) -> Sets:
    """(4) for every class, through the means of unit vectors; the gradient goes through p alone.

    Args:
        p: (N, D) predictions of this process, not normalised; computed in float32, or float64 where that comes in.
        z: (N, D) projections of the same voxels.
        label: (N,) int64 in 0..num_classes-1.
        num_classes: Background included.
        with_itself: Whether a voxel is also compared with itself.
    """
    p, z = unit(p), unit(z.detach())
    one = torch.ones_like(p[:, :1])
    same = (p * z).sum(1, keepdim=True)
    rows = torch.cat([p, z, same, one], 1)
    sums = processes.total(voxels.class_sums(rows, label, num_classes))
    sum_p, sum_z, sum_same, count = sums.split([p.shape[1], z.shape[1], 1, 1], 1)
    inner = (sum_p * sum_z).sum(1) - (0 if with_itself else sum_same[:, 0])
    count = count[:, 0].detach()
    pairs = count * (count if with_itself else count - 1)
    distance = (-inner / pairs.clamp(min=1)).masked_fill(pairs == 0, 0)
    return Sets(distance, pairs > 0, count, sum_p.detach() / count.clamp(min=1)[:, None])


def weights(count: Tensor, there: Tensor, kind: ClassWeight) -> Tensor:
    """w_c of (6): (classes,) voxel counts, and which classes there are -> (classes,), 0 where there is none."""
    if kind == "share":
        w = 1 - count / count.sum().clamp(min=1)
    elif kind == "inverse":
        w = (1 / count.clamp(min=1)).masked_fill(~there, 0)
        w = w / w.sum().clamp(min=torch.finfo(w.dtype).tiny)
    else:
        w = torch.ones_like(count)
    return w.masked_fill(~there, 0)


def over_classes(sets: Sets, w: Tensor, kind: Literal["sum", "mean"]) -> Tensor:
    """(6): sum over classes of w_c D_c, or that over the number of classes that are there."""
    loss = (w * sets.distance).sum()
    return loss if kind == "sum" else loss / sets.there.sum().clamp(min=1)


def counts_background(settings: Settings, num_classes: int) -> bool:
    """Whether background is a class like the others; with one structure and 1 - N_c/N it must be: 1 - N/N is 0."""
    return settings.background or (num_classes == 2 and settings.class_weight == "share")


def _refuse_one_class(settings: Settings, classes: int) -> None:
    if classes == 1:
        raise UsageError(
            f"auxiliary.class_weight={settings.class_weight} with one structure",
            allowed="two classes of voxels or more, as one has nothing to differ from; background can be the other",
            next="--auxiliary voxel_siamese auxiliary.background=true",
        )
