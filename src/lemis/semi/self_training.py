"""Rethinking Pre-training and Self-training. B. Zoph, G. Ghiasi, T.-Y. Lin, Y. Cui, H. Liu, E. D. Cubuk, Q. V. Le.
NeurIPS 2020, https://arxiv.org/abs/2006.06882. As segmentation of medical images has it: the winner of FLARE 2022,
Z. Huang et al., Revisiting nnU-Net for Iterative Pseudo Labeling and Efficient Sliding Window Inference.

A teacher is trained on the labelled scans and segments the others; a student of its own is trained on both:

    L = (L_labelled + w R(f(u), Y')) / (1 + w)      until the last part of training
    L = L_labelled                                  in it

R is fine-tuning's loss, and u and Y' go through one geometry. Y' are label maps in files, which ``lemis predict`` has
made of the scans with the teacher, and which may be corrected by hand before the student is trained (``lemis finetune
--pseudo-labels FOLDER``); ``lemis fit`` does both trainings. The student starts from the pre-trained weights and not
from the teacher's, so that it does not keep the teacher's errors. ``true_only=1`` is fine-tuning on labels alone.

INFERRED: one labelled row for each of the others, whatever the numbers of scans; the end on true labels alone. Left
out: further rounds, with the student as teacher; Zoph's ratio of moving averages in w; their noise on the student,
which is here fine-tuning's own augmentation; and FLARE's choice among the unlabelled scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field

from lemis.contracts import Batch, Draw, Outcome
from lemis.parts import components
from lemis.parts.unlabelled import Beside, pool_of, views
from lemis.settings import Probability

DIMS = (2, 3)
PSEUDO_LABELS = True  # the unlabelled rows have label maps of a teacher


@dataclass(frozen=True, kw_only=True)
class Settings:
    """INFERRED our choice; [Z] Zoph et al."""

    weight: Annotated[float, Field(ge=0)] = 1.0  # w [Z]: both kinds of label alike; 0: fine-tuning on labels alone
    true_only: Probability = 0.25  # last share of training, on true labels alone, INFERRED
    # Of each structure of a slice, or of the region around a patch, the largest connected part is kept, INFERRED; what
    # is one part in a volume may be two in a slice, so `lemis predict` is the better place.
    largest_component: bool = False


@final
class Semi(Beside[Settings]):
    """A student; its teacher is gone, but for its label maps."""

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """The labelled loss, and the same of the unlabelled rows against their pseudo-labels."""
        how = self.settings
        if how.weight == 0 or float(self.progress) >= 1 - how.true_only:
            return self.labelled(batch, rng)
        known, label, unknown = views(self.labelled, self._cleaned(batch), rng)
        assert unknown.label is not None, "pseudo-labels"
        of_known, of_unknown = self.labelled.logits(known, unknown)
        losses = {name: loss / (1 + how.weight) for name, loss in self.labelled.losses(of_known, label).items()}
        for name, loss in self.labelled.losses(of_unknown, unknown.label).items():
            losses[f"pseudo/{name}"] = loss * how.weight / (1 + how.weight)
        return Outcome(losses)

    def _cleaned(self, batch: Batch) -> Batch:
        """The batch with the largest part of each structure of its pseudo-labels, where that is asked for."""
        pool = pool_of(batch)
        if not self.settings.largest_component:
            return batch
        assert pool.label is not None, "pseudo-labels"
        return batch._replace(unlabelled=pool._replace(label=components.largest(pool.label)))
