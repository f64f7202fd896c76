"""Unlabelled images beside labelled ones: what ways to learn from both are built on, with and without a teacher."""

from __future__ import annotations

from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from lemis import contracts
from lemis.contracts import Batch, Draw, Labelled, View
from lemis.parts.momentum import follow, follower, warmed

How = TypeVar("How")


class HowTaught(Protocol):
    """What ``Taught`` reads of a way's settings."""

    @property
    def teacher_mode(self) -> Literal["train", "eval"]:
        """Whether the teacher normalises by its own batch, or by its running statistics."""


Taking = TypeVar("Taking", bound=HowTaught)


class Beside(contracts.Semi, Generic[How]):
    """A way with fine-tuning, its settings, and how far training is.

    Args:
        labelled: Fine-tuning on labels.
        settings: Of the way.
    """

    progress: Tensor

    def __init__(self, labelled: Labelled, settings: How) -> None:
        super().__init__()
        self.labelled = labelled
        self.settings = settings
        self.register_buffer("progress", torch.zeros(()))

    def after_step(self, progress: float) -> None:
        """Remembers how far training is, for ramps."""
        self.progress.fill_(progress)


class Taught(Beside[Taking]):
    """A way with a teacher too, which begins as the student and follows it as ``after_step`` says."""

    def __init__(self, labelled: Labelled, settings: Taking) -> None:
        super().__init__(labelled, settings)
        self.teacher = follower(labelled.backbone)

    @torch.no_grad()
    def told(self, view: View) -> Tensor:
        """The teacher's logits of a view, (B, K, *space), without gradient."""
        self.teacher.train(self.settings.teacher_mode == "train")
        (logits,) = self.labelled.logits(view, network=self.teacher)
        return logits


class HowFollowed(HowTaught, Protocol):
    """What ``Followed`` reads of a way's settings."""

    @property
    def decay(self) -> float:
        """Of the moving average, d."""


Following = TypeVar("Following", bound=HowFollowed)


class Followed(Taught[Following]):
    """A way whose teacher is the moving average of its student from the first step on.

    w' <- d w' + (1 - d) w after each step, with d = min(1 - 1/(k + 1), ``decay``) after k of them. Its running
    statistics follow too, so that it can be used in evaluation mode.
    """

    steps: Tensor

    def __init__(self, labelled: Labelled, settings: Following) -> None:
        super().__init__(labelled, settings)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        super().after_step(progress)
        follow(self.teacher, self.labelled.backbone, warmed(self.settings.decay, int(self.steps)), buffers=True)
        self.steps += 1


def pool_of(batch: Batch) -> Batch:
    """The unlabelled rows of a batch."""
    assert batch.unlabelled is not None, "unlabelled rows beside the labelled ones"
    return batch.unlabelled


def views(labelled: Labelled, batch: Batch, rng: Draw) -> tuple[View, Tensor, View]:
    """Labelled rows and their label, and unlabelled rows, as fine-tuning shows them to its network."""
    known, unknown = labelled.view(batch, rng), labelled.view(pool_of(batch), rng)
    assert known.label is not None, "fine-tuning needs labels"
    return known, known.label, unknown
