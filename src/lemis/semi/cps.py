"""Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision. X. Chen, Y. Yuan, G. Zeng, J. Wang. CVPR 2021,
https://arxiv.org/abs/2106.01226. As segmentation of medical images has it in SSL4MIS,
https://github.com/HiLab-git/SSL4MIS.

Two networks of one architecture with other random weights see the same images, and each learns from the other's hard
labels:

    L = L_labelled(f1) + L_labelled(f2) + lambda(t) [ CE(f1(u), argmax f2(u)) + CE(f2(u), argmax f1(u)) ]

No gradient goes through an argmax, and no pixel is left out. Where fine-tuning starts from a pre-training both
networks do, and differ in the rest of their weights, most of all in the head; or f2 starts from another one
(``--second``), which keeps them further apart. f1 is scored and kept; f2 is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor

from lemis.contracts import Batch, Draw, Labelled, Outcome
from lemis.parts.overlap import cross_entropy
from lemis.parts.ramp import ramp_up
from lemis.parts.unlabelled import Beside, pool_of
from lemis.settings import Probability

DIMS = (2, 3)
NETWORKS = 2  # are trained; the second may begin from a pre-training of its own


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] SSL4MIS."""

    weight: Annotated[float, Field(ge=0)] = 0.1  # lambda [C]; 1.5 on natural images; 0: two networks on labels alone
    ramp: Probability = 1.0  # share of training over which lambda grows [C]


@final
class Semi(Beside[Settings]):
    """Two networks."""

    def __init__(self, labelled: Labelled, settings: Settings) -> None:
        super().__init__(labelled, settings)
        self.second = labelled.another()

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """Both networks on the labelled rows, and each against the other on the unlabelled ones."""
        known = self.labelled.view(batch, rng)
        assert known.label is not None, "fine-tuning needs labels"
        seen = [known]
        if self.settings.weight > 0:
            seen.append(self.labelled.view(pool_of(batch), rng))
        first, *of_first = self.labelled.logits(*seen)
        second, *of_second = self.labelled.logits(*seen, network=self.second)
        losses = dict(self.labelled.losses(first, known.label))
        losses |= {f"second/{name}": loss for name, loss in self.labelled.losses(second, known.label).items()}
        weight = self.settings.weight * ramp_up(self.progress, self.settings.ramp)
        for p1, p2 in zip(of_first, of_second, strict=True):
            losses["pseudo"] = weight * cross(p1, p2)
            losses["second/pseudo"] = weight * cross(p2, p1)
        return Outcome(losses)


def cross(logits: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy against the labels that the other network gives; no gradient reaches that one."""
    return cross_entropy(logits, others.detach().argmax(1))
