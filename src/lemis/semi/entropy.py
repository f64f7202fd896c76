"""Semi-supervised Learning by Entropy Minimization. Y. Grandvalet, Y. Bengio. NeurIPS 2004,
https://proceedings.neurips.cc/paper/2004/hash/96f2b50b5d3613adf9c27049b2a888c7-Abstract.html. As segmentation of
medical images has it: L. Yu et al. in SSL4MIS, https://github.com/HiLab-git/SSL4MIS.

The network should be sure of what it says, of scans with a label and without:

    L = L_labelled + lambda(t) mean over the pixels of all images of  - sum_c p_c ln(p_c + eps) / ln K

lambda(t) is lambda times the Gaussian ramp. No teacher, one pass: the cheapest way to use unlabelled scans, and a
control for the others, as it rewards being sure and not being right.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.basic import precise
from lemis.parts.ramp import ramp_up
from lemis.parts.unlabelled import Beside, views
from lemis.settings import Probability

DIMS = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] SSL4MIS, whose lambda reaches its full value at its last step."""

    weight: Annotated[float, Field(ge=0)] = 0.1  # lambda [C]; 0: fine-tuning on labels alone
    ramp: Probability = 1.0  # share of training over which lambda grows [C]
    eps: Annotated[float, Field(gt=0)] = 1e-6  # [C]


@final
class Semi(Beside[Settings]):
    """One network."""

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """The labelled loss, and the entropy of both halves."""
        how = self.settings
        if how.weight == 0:
            return self.labelled(batch, rng)
        known, label, unknown = views(self.labelled, batch, rng)
        logits = self.labelled.logits(known, unknown)
        unsure = entropy(torch.cat(logits), how.eps).mean() / log(logits[0].shape[1])
        weight = how.weight * ramp_up(self.progress, how.ramp)
        return Outcome({**self.labelled.losses(logits[0], label), "entropy": weight * unsure})


def entropy(logits: Tensor, eps: float) -> Tensor:
    """(B, K, *space) -> (B, *space): - sum_c p_c ln(p_c + eps), in nats."""
    p = precise(logits).softmax(1)
    return -(p * (p + eps).log()).sum(1)
