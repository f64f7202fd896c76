"""What stops a training run: signals from outside, values that are not finite, batches that do not fit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, final

import numpy as np
import torch
from torch import nn

from lemis.contracts import Outcome, Sampling
from lemis.errors import TrainingStopped, UsageError, first_of
from lemis.runs.run import Run


def not_finite(outcome: Outcome, step: int, scans: Sequence[str], run: Run) -> TrainingStopped:
    """The error for a loss that is not finite: the step, its terms, the scans of the batch, what is kept."""
    terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in outcome.losses.items())
    return TrainingStopped(
        f"the loss of step {step + 1} is not finite: {terms}\n"
        f"  scans of the batch: {', '.join(scans)}\n"
        f"  last good checkpoint: {_kept(run)}\n"
        f"  next:    run `lemis check` on these scans; then a smaller learning_rate, clip_norm=1, or precision=32"
    )


def refuse_not_finite_weights(module: nn.Module, step: int, run: Run) -> None:
    """A gradient can overflow where its loss does not; such weights must never replace good ones on disk."""
    for name, values in module.state_dict().items():
        if not bool(torch.isfinite(values).all()):
            raise TrainingStopped(
                f"after step {step} the weights are not finite ({name})\n"
                f"  last good checkpoint: {_kept(run)}\n"
                f"  next:    a smaller learning_rate, clip_norm=1, or precision=32"
            )


def _kept(run: Run) -> str:
    return str(run.checkpoint) if run.checkpoint.exists() else "none yet"


def refuse_batch(batch_size: int, parts: int, world: int, prefix: str = "") -> None:
    """A batch must spread evenly over the processes, and be no smaller than its parts.

    ``prefix`` is what the user typed before the schedule's keys.
    """
    if batch_size % world:
        whole = -(-batch_size // world) * world
        raise UsageError(
            f"a batch of {batch_size} on {world} processes",
            allowed="a batch size that the number of processes divides",
            next=f"method.batch_size={whole} to pre-train, {prefix}objective.batch_size={whole} to fine-tune",
        )
    if parts > batch_size // world:
        raise UsageError(
            f"{prefix}accumulate={parts} for a batch of {batch_size // world} in each process",
            allowed=f"1 to {batch_size // world}",
            next=f"{prefix}accumulate={batch_size // world}",
        )


def refuse_nothing_marked(subjects: Sequence[str], marked: bool) -> None:
    """Refuse labels that mark nothing: no network can learn from background alone, and Dice has no value there.

    Args:
        subjects: Whose labels are trained on.
        marked: Whether any of these labels marks a structure.

    Raises:
        UsageError: None does.
    """
    if not marked:
        raise UsageError(
            f"the labels of {first_of(subjects, 5)} mark nothing: every voxel is background",
            allowed="labels to train on of which at least one marks a structure",
            next="complete these labels and run `lemis check` again, or choose another --fold or --labelled",
        )


def shareable(batches: list[np.ndarray], sampling: Sampling, parts: int, world: int) -> list[np.ndarray]:
    """Batches of an epoch, a smaller last one as far as it does what ``refuse_batch`` asks of a whole one.

    Several processes leave out the rows of it that they cannot share evenly, which one process alone sees. Where that
    leaves less than a row for each part of each process, an epoch goes without it.
    """
    *others, last = batches
    if sampling.last == "drop" or not others:
        return batches
    unit = 2 * parts * world if sampling.in_pairs and world > 1 else world
    size = len(last) // unit * unit
    return [*others, last[:size]] if size >= parts * world else others


@final
class Signals:
    """SIGUSR1 asks for a checkpoint; SIGTERM and Ctrl-C ask for one and for the end, a second Ctrl-C for that at once.

    Outside the main thread nothing is heard, and no Ctrl-C where it is ignored (``nohup``, a child of ``compare``).
    """

    def __init__(self) -> None:
        self._save = self._stop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None and (name, signal.getsignal(number)) != ("SIGINT", signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._save, self._stop = True, self._stop or number != getattr(signal, "SIGUSR1", None)

    @property
    def stop(self) -> bool:
        """Was the end asked for?"""
        return self._stop

    def take(self) -> tuple[bool, bool]:
        """Was a checkpoint asked for, and the end? A request is given out once; that for the end stays."""
        asked, self._save = self._save, False
        return asked or self._stop, self._stop
