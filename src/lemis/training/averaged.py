"""A moving average of the weights of fine-tuning, which is used in place of the last ones. B. Polyak, A. Juditsky.
Acceleration of stochastic approximation by averaging. SIAM J. Control Optim. 30(4), 1992; with a decay as in
https://arxiv.org/abs/1703.01780, whose teacher it is without unlabelled scans.

    w' <- d w' + (1 - d) w after each step,     d = min(1 - 1/(k + 1), decay) after k of them

The average begins as the true mean, so that nothing of the first weights is left in it. Running statistics are averaged
too, as it only ever predicts. What is trained is the same to the bit, with and without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn

from lemis.contracts import Backbone, Batch, Draw, Outcome, Semi, Trained
from lemis.parts.momentum import follow, follower, warmed
from lemis.training.supervised import Objective


@final
class Averaged(Trained):
    """Fine-tuning, on labels alone or with unlabelled scans too, whose average is scored, kept and used.

    Args:
        inner: What is trained.
        decay: Above 0; 1 is the mean over all of training.
    """

    steps: Tensor

    def __init__(self, inner: Objective | Semi, decay: float) -> None:
        super().__init__()
        self.inner = inner
        self.decay = decay
        self.average = follower(inner.predicts)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def predicts(self) -> Backbone:
        """The average."""
        return self.average

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """As without it."""
        outcome: Outcome = self.inner(batch, rng)
        return outcome

    def resting(self) -> Iterable[nn.Parameter]:
        """As without it."""
        return self.inner.resting()

    def after_step(self, progress: float) -> None:
        """The average follows what would predict without it."""
        self.inner.after_step(progress)
        follow(self.average, self.inner.predicts, warmed(self.decay, int(self.steps)), buffers=True)
        self.steps += 1

    def after_epoch(self, progress: float) -> None:
        """As without it."""
        self.inner.after_epoch(progress)
