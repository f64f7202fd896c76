"""Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation (UniMatch). L. Yang, L. Qi, L. Feng,
W. Zhang, Y. Shi. CVPR 2023, https://arxiv.org/abs/2208.09910: its image stream, which is FixMatch (K. Sohn et al.,
NeurIPS 2020, https://arxiv.org/abs/2001.07685) with CutMix (S. Yun et al., ICCV 2019); and the teacher of its second
version, https://arxiv.org/abs/2410.10777.

A teacher labels the weak view w(u) of an unlabelled image; the student learns that label from a strong view of the
same geometry, wherever the teacher is sure of it:

    q       = softmax f'(w(u)),   label = argmax q,   sure = max q >= 0.95                        (no gradient)
    s(u_i)  = strong(w(u_i)), with a box of strong(w(u_k)) pasted in; label and sureness are cut with the same box
    L       = (L_labelled + lambda R(f(s(u)), label; sure)) / (1 + lambda)

R is fine-tuning's loss over the sure pixels. There is no ramp: the threshold is one. The teacher is the moving average
of the student, as in the second version; with ``decay=0`` it is the student itself.

Differences: background is most of an image, so a network that begins with random weights is sure of that alone at first
and teaches itself that all is background. For the share ``delay`` of training it learns from labels alone until it
knows more, L = L_labelled, and the teacher follows; the authors, who train 30,000 steps and more, have no delay.

INFERRED: the partners of CutMix are rows 2j and 2j + 1 of the batch, so that they do not depend on the number of
processes; of the shapes of a box those that fit into the view are drawn, in place of drawing until one fits; strong is
UniMatch's brightness, contrast and blur as far as z-scored grey values have them, on top of no other intensity change.
Left out: the second strong view and the stream of perturbed features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from lemis import processes
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.layers.basic import precise
from lemis.parts import paste
from lemis.parts.unlabelled import Followed, pool_of
from lemis.sampling import intensity
from lemis.sampling.intensity import Intensity
from lemis.settings import Probability, Range

DIMS = (2, 3)

# ColorJitter(0.5, 0.5, 0.5, 0.25) with probability 0.8 and a blur with 0.5 [C], as far as there is one of grey values:
# brightness shifts, as 0 is the mean and not black.
STRONG = Intensity(
    p_brightness=0.8,
    brightness_factor=(1.0, 1.0),
    brightness_shift=(0.0, 0.5),
    p_contrast=0.8,
    contrast_factor=(0.5, 1.5),
    p_blur=0.5,
    blur_sigma_px=(0.1, 2.0),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] UniMatch's code for ACDC, [C2] that of its second version; INFERRED our choice."""

    weight: Annotated[float, Field(ge=0)] = 1.0  # lambda [C]; 0: fine-tuning on labels alone
    delay: Probability = 0.3  # share of training on labels alone, INFERRED; 0: none [C]
    threshold: Probability = 0.95  # of a pixel's largest probability [C]
    decay: Probability = 0.99  # of the teacher, INFERRED; 0.996 [C2], for ten times as many steps; 0: none [C]
    teacher_mode: Literal["train", "eval"] = "eval"  # while it labels [C2]
    p_cutmix: Probability = 0.5  # that a view has a box of its partner's [C]
    cutmix_area: Range = (0.02, 0.4)  # share of the view [C]
    cutmix_aspect: Annotated[float, Field(ge=1)] = 1 / 0.3  # a box is at most so much longer than wide [C]
    intensity: Intensity = STRONG  # of the strong view [C], as far as grey values have it
    mean_over: Literal["sure", "all"] = "sure"  # pixels [C]; all: the loss times the share of sure ones [C2]


class Said(NamedTuple):
    """What the teacher says of a view."""

    label: Tensor  # (B, *space) int64
    sure: Tensor  # (B, *space) bool


@final
class Semi(Followed[Settings]):
    """A student and the teacher that follows it."""

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """The labelled loss, and that of strong views of the unlabelled rows against what the teacher is sure of."""
        how = self.settings
        if how.weight == 0 or float(self.progress) < how.delay:
            return self.labelled(batch, rng)
        known, weak = self.labelled.view(batch, rng), self.labelled.weak(pool_of(batch), rng)
        assert known.label is not None, "fine-tuning needs labels"
        strong, sure = self._strong(weak, self._taught(weak), rng)
        assert strong.label is not None, "the teacher's"
        of_known, of_strong = self.labelled.logits(known, strong)
        counts = sure.to(precise(of_strong).dtype)
        share = processes.total(counts.mean()) / processes.count() if how.mean_over == "all" else 1.0
        losses = {name: loss / (1 + how.weight) for name, loss in self.labelled.losses(of_known, known.label).items()}
        for name, loss in self.labelled.losses(of_strong, strong.label, counts).items():
            losses[f"pseudo/{name}"] = share * loss * how.weight / (1 + how.weight)
        return Outcome(losses)

    @torch.no_grad()
    def _taught(self, weak: View) -> Said:
        most, label = precise(self.told(weak)).softmax(1).max(1)
        return Said(label, most >= self.settings.threshold)

    def _strong(self, weak: View, taught: Said, rng: Draw) -> tuple[View, Tensor]:
        """Strong views with boxes of their partners, labelled; and where the teacher is sure of them."""
        how = self.settings
        count, shape = len(weak.image), tuple(weak.image.shape[2:])
        own = weak._replace(image=intensity.augment(weak.image, how.intensity, rng), label=taught.label)
        partner = paste.partners(count, weak.image.device)
        box = paste.box_of_area(count, shape, how.cutmix_area, how.cutmix_aspect, rng)
        with_box = rng.uniform(count) < how.p_cutmix
        box = box._replace(size=box.size * with_box[:, None])
        inside = paste.mask(box, shape)
        return (
            paste.paste(paste.rows(own, partner), own, box),
            torch.where(inside, taught.sure[partner], taught.sure),
        )
