"""Watching for collapse: embeddings that are all alike, and losses that say nothing was learned.

A collapsed run looks healthy from afar: its loss falls or stands still, and hours later the weights are worth nothing.
So every embedding that a method names is measured, and the verdict is given at the end of the first epoch (of the first
that reaches ``FEWEST_STEPS`` after the warm-up), with what to change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import final

import torch
from torch import Tensor

from lemis.contracts import Outcome
from lemis.engine.run import Run

SMALLEST_SPREAD = 0.1  # of 1; measured on healthy runs after one epoch: 0.3 to 0.9
NOTHING_LEARNED = 2e-3  # relative distance of a loss to its no-information value
FEWEST_STEPS = 50  # before a verdict: healthy runs look collapsed in their first 30 steps


def spread(z: Tensor) -> float:
    """Per-dimension standard deviation of unit vectors, times sqrt(D): 1 when spread evenly, 0 when all are equal.

    Args:
        z: (N, D) embeddings, of any length.
    """
    directions = torch.nn.functional.normalize(z.float(), dim=1)
    return float(directions.std(0, correction=0).square().mean().sqrt() * z.shape[1] ** 0.5)


def mean_cosine(z: Tensor) -> float:
    """Mean cosine of two different rows of z (N, D): 1 when all are equal."""
    directions = torch.nn.functional.normalize(z.float(), dim=1)
    count = len(z)
    return float((directions.sum(0).square().sum() - count) / (count * (count - 1)))


@final
class Watch:
    """Figures for the log at any step, and a warning at the end of an epoch that shows a collapse."""

    def __init__(self, run: Run, warm_up_steps: int = 0) -> None:
        self._run = run
        self._patience = warm_up_steps + FEWEST_STEPS
        self._losses: dict[str, list[Tensor]] = defaultdict(list)
        self._logged: dict[str, int] = defaultdict(int)  # how many of them the log has
        self._last: Outcome | None = None
        self._warned: set[str] = set()

    def see(self, outcome: Outcome) -> None:
        """Remember one step; nothing is copied off the device."""
        for name, loss in outcome.losses.items():
            self._losses[name].append(loss.detach())
        self._last = outcome

    def figures(self, outcome: Outcome) -> dict[str, float]:
        """Mean of each loss term and of their sum since the last call, and spread and mean cosine of each embedding."""
        terms = {name: float(torch.stack(losses[self._logged[name] :]).mean()) for name, losses in self._losses.items()}
        self._logged.update((name, len(losses)) for name, losses in self._losses.items())
        figures = {"loss": sum(terms.values()), **{f"loss/{name}": value for name, value in terms.items()}}
        for name, z in outcome.embeddings.items():
            figures[f"embedding/{name}/std"] = spread(z)
            figures[f"embedding/{name}/cosine"] = mean_cosine(z)
        return figures

    def end_of_epoch(self, epoch: int, step: int) -> None:
        """Warn, once per symptom, of what the steps since the last verdict show; ``step`` counts those of the run."""
        if self._last is None or step < self._patience:
            return
        for name, uninformed in self._last.uninformed.items():
            losses = torch.stack(self._losses[name])
            mean = float(losses[len(losses) // 2 :].mean())
            if abs(mean - uninformed) < NOTHING_LEARNED * abs(uninformed):
                self._warn(
                    f"loss/{name}",
                    f"epoch {epoch + 1}: the {name} loss is {mean:.4f}, what a network that knows nothing has "
                    f"({uninformed:.4f}). Nothing is being learned: the learning rate is probably too high. "
                    f"Stop, and try a third of it or a tenth (learning_rate=...), or warm_up_steps=500.",
                )
        for name, z in self._last.embeddings.items():
            if spread(z) < SMALLEST_SPREAD:
                self._warn(
                    f"embedding/{name}",
                    f"epoch {epoch + 1}: the {name} embedding has collapsed: all its vectors point the same way "
                    f"(mean cosine {mean_cosine(z):.4f}, spread {spread(z):.3f} of 1). Its loss term says nothing any "
                    f"more. {_ADVICE.get(name, _ADVICE['global'])}",
                )
        self._losses.clear()
        self._logged.clear()

    def _warn(self, symptom: str, text: str) -> None:
        if symptom not in self._warned:
            self._warned.add(symptom)
            self._run.warn(text)


_ADVICE = {
    "global": "Try a smaller learning_rate, or a larger batch.",
    "local": "Try method.centring=batch, method.geometry=independent, or a smaller method.alignment_weight.",
}
