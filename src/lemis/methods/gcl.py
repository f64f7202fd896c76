"""GCL: Contrastive Learning of Global and Local Features for Medical Image Segmentation with Limited Annotations.
K. Chaitanya, E. Erdil, N. Karani, E. Konukoglu. NeurIPS 2020, https://arxiv.org/abs/2006.10511. The global stage.

Every scan is cut into S equal parts along its slices; the same part of any two scans shows about the same anatomy.
With P(i) the part of slice i, two views of each slice, and s the cosine, ``form`` chooses the contrast:

    pcl           L_i = -1/|L(i)| sum_{j in L(i)} log [ e^(s_ij/tau) / sum_{k != i} e^(s_ik/tau) ],
                  L(i) = { j != i : P(j) = P(i) }
    the others    l(a, b) = -log [ e^(s_ab/tau) / (e^(s_ab/tau) + sum_{n in Neg(a)} e^(s_an/tau)) ], mean over pairs
    random        G^R:  pairs: two views of a slice;  Neg(a): every view of another slice
    domain_minus  G^D-: pairs: the same;              Neg(a): every view of another part
    domain        G^D:  as G^D-; pairs too: first (and second) views of the same part of two scans

``pcl`` is what the PCL authors compare with under this name (PCL's code: gcl), and so do SAL and KAF. The losses of the
other three are the original's. Followed in all: geometric views, pooled MLP head and batches of the PCL protocol.

Differences: the original draws one slice of each part from a few scans; ours are random slices, which hold the same
pairs, and two slices of one part of one scan are then neither positive nor negative in G^D. One image of its pairs is
unaltered (a third one in G^D-), its views are crops with changed brightness, its head flattens the map. Its code takes
the mean over images, not over pairs. PCL's code cuts at multiples of round(n / 4) slices, which makes the last part of
10 slices 1 and the others 3; a batch does not tell n, and ours are as equal as they can be (2, 3, 2, 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome
from lemis.parts import heads
from lemis.parts.contrast import contrasted, pair_contrast, partition, same
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] is PCL's code, whose protocol this follows; [P] the paper."""

    form: Literal["pcl", "random", "domain_minus", "domain"] = "pcl"  # whose positives and negatives [C]
    partitions: Annotated[int, Field(gt=1)] = 4  # S, parts of a scan [P] [C]
    batch_size: Annotated[int, Field(gt=1)] = 32  # slices [C]; 12 [P]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau [P] [C]
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # [C]: form pcl times tau / 0.07; None: as printed
    embedding: Annotated[int, Field(gt=0)] = 512  # [C]; 128 [P]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view; 512 on CHD [C]
    spatial: Spatial = field(default_factory=Spatial)  # the chain of [C]


Views = views.TwoViews  # ``first`` and ``second`` of every slice


@final
class Method(Pretext[Settings, Views]):
    """Encoder, pooled MLP, and a contrast in which the part of the scan says who belongs together."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views -> the contrast of their 2N embeddings."""
        images = together(self.views(batch, rng))
        z = processes.gather(self.project(self.backbone.encode(images)[-1]))  # (2N, embedding)
        tau = self.settings.temperature
        if self.settings.form == "pcl":
            position = processes.gather(batch.position.repeat(2))
            part = partition(position, self.settings.partitions)
            return contrasted(z, same(part), tau, self.settings.temperature_base)
        positives, negatives = self.pairs(batch)
        loss = pair_contrast(z, positives, negatives, tau)
        uninformed = float(pair_contrast(torch.zeros_like(z), positives, negatives, tau))
        return Outcome({"contrast": loss}, {"global": z.detach()}, {"contrast": uninformed})

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(2N, 2N) bool each: the positives and the negatives of the original's three forms."""
        index, scan, position = (processes.gather(row.repeat(2)) for row in (batch.index, batch.scan, batch.position))
        view = processes.gather(torch.arange(2, device=scan.device).repeat_interleave(len(batch.scan)))
        part = same(partition(position, self.settings.partitions))
        positives = same(index) & ~same(view)
        if self.settings.form == "random":
            return positives, ~same(index)
        if self.settings.form == "domain":
            positives = positives | (part & ~same(scan) & same(view))
        return positives, ~part
