"""Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation (BCP). Y. Bai, D. Chen, Q. Li, W. Shen,
Y. Wang. CVPR 2023, https://arxiv.org/abs/2305.00673.

A box of a labelled image is pasted into an unlabelled one and the other way round, so that the student learns both
kinds in one image. M is 0 in the box and 1 around it; a, b are rows with their unlabelled images u:

    stage 1   x      = l_a M + l_b (1 - M)     labels likewise
    stage 2   x_out  = u_a M + l_a (1 - M)     target Y'_a around, y_a in the box
              x_in   = l_b M + u_b (1 - M)     target y_b around, Y'_b in the box
    Y'        = largest component of each class of argmax f'(u)                                  (no gradient)
    L_out     = alpha R(Y'_a, M) + R(y_a, 1 - M),     L_in = R(y_b, M) + alpha R(Y'_b, 1 - M),     L = L_out + L_in

R(Y, W) is fine-tuning's loss over the pixels where W = 1, a mean of its own: box and surroundings count alike,
whatever their size. The teacher f' is the moving average of the student; it sees u as the student does. Stage 1 trains
on labelled images alone, which makes the first teacher a good one, and there the teacher is a copy of the student.

``stage_1=1`` is stage 1 to the end, *copy-paste among labelled images*: the control that shows what the unlabelled
scans bring. ``alpha=0`` learns from no pseudo-label.

INFERRED: even rows of a batch are a, odd ones b, and stage 1 pastes rows 2j and 2j + 1 into each other; every row has a
box of its own (the code has one for the batch); both stages are one run, with one schedule of the learning rate. Where
each image has a geometry of its own, as in the code, full turns and random crops put half a heart beside half of
another; with ``geometry=shared`` the four images of rows 2j and 2j + 1 are turned, scaled and cropped alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from lemis.contracts import Batch, Draw, Outcome, View
from lemis.parts import components, paste
from lemis.parts.momentum import follow
from lemis.parts.unlabelled import Taught, pool_of
from lemis.settings import Probability

DIMS = (2, 3)

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] the authors' code, ACDC."""

    alpha: Annotated[float, Field(ge=0)] = 0.5  # weight of what the teacher labelled [C]
    stage_1: Probability = 0.25  # share of training on labelled images alone [C]: 10,000 of 40,000 steps; 1: all of it
    box: Annotated[float, Field(gt=0, le=1)] = 2 / 3  # a side of the box, of the view's [C]
    decay: Probability = 0.99  # of the teacher, from the first step of stage 2 on [C]
    teacher_mode: Literal["train", "eval"] = "train"  # while it labels [C]: it normalises by its own batch
    largest_component: bool = True  # of each class of a pseudo-label [C]
    geometry: Literal["own", "shared"] = "own"  # of each image [C], or of all images that are pasted into each other


@final
class Semi(Taught[Settings]):
    """A student and the teacher that follows it."""

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """Stage 1 among the labelled rows, or stage 2 between these and the unlabelled ones."""
        shared = paste.InRegister(rng) if self.settings.geometry == "shared" else None
        known = self.labelled.strong(self.labelled.weak(batch, shared or rng), rng)
        if self._stage_1():
            return self._among_labelled(known, rng)
        unknown = self.labelled.strong(self.labelled.weak(pool_of(batch), shared.again() if shared else rng), rng)
        return self._both_ways(known, unknown._replace(label=self._taught(unknown)), rng)

    def _among_labelled(self, known: View, rng: Draw) -> Outcome:
        box = self._boxes(known, rng)
        partner = paste.rows(known, paste.partners(len(known.image), known.image.device))
        x = paste.paste(partner, known, box)
        (logits,) = self.labelled.logits(x)
        return Outcome(_summed({"": self._regions(logits, x, box, (1.0, 1.0))}))

    def _both_ways(self, known: View, unknown: View, rng: Draw) -> Outcome:
        paste.refuse_odd_rows(len(known.image))
        box = self._boxes(known, rng)
        out = paste.paste(paste.rows(known, EVEN), paste.rows(unknown, EVEN), box.rows(EVEN))
        into = paste.paste(paste.rows(unknown, ODD), paste.rows(known, ODD), box.rows(ODD))
        of_out, of_into = self.labelled.logits(out, into)
        alpha = self.settings.alpha
        terms = {
            "out/": self._regions(of_out, out, box.rows(EVEN), (alpha, 1.0)),
            "in/": self._regions(of_into, into, box.rows(ODD), (1.0, alpha)),
        }
        return Outcome(_summed(terms))

    def _regions(
        self, logits: Tensor, x: View, box: paste.Box, weights: tuple[float, float]
    ) -> list[dict[str, Tensor]]:
        """R around the boxes and R in them, each with its weight."""
        assert x.label is not None, "fine-tuning needs labels"
        inside = paste.mask(box, tuple(x.image.shape[2:]))
        return [
            {name: weight * loss for name, loss in self.labelled.losses(logits, x.label, counts.to(x.image)).items()}
            for weight, counts in zip(weights, (~inside, inside), strict=True)
        ]

    def _boxes(self, view: View, rng: Draw) -> paste.Box:
        return paste.box_of_sides(len(view.image), tuple(view.image.shape[2:]), self.settings.box, rng)

    @torch.no_grad()
    def _taught(self, unknown: View) -> Tensor:
        """Y'."""
        label = self.told(unknown).argmax(1)
        return components.largest(label) if self.settings.largest_component else label

    def _stage_1(self) -> bool:
        return float(self.progress) < self.settings.stage_1

    def after_step(self, progress: float) -> None:
        """The teacher follows: in stage 1 as a copy, after it slowly; its running statistics do too [C]."""
        follow(self.teacher, self.labelled.backbone, 0.0 if self._stage_1() else self.settings.decay, buffers=True)
        super().after_step(progress)


def _summed(terms: dict[str, list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Regions of an image added up, by name."""
    return {
        f"{image}{name}": torch.stack([region[name] for region in regions]).sum()
        for image, regions in terms.items()
        for name in regions[0]
    }
