"""Watching for collapse: embeddings that are all alike, and losses that say nothing was learned.

A collapsed run looks healthy from afar: its loss falls or stands still, and hours later the weights are worth nothing.
So every embedding that a method names is measured. What the first epoch shows is said at its end, as a note with what
to change; what still holds after ``patience`` steps is a warning, and is kept with the run. On ACDC, runs that
would learn and runs that would not looked alike for four epochs: both within 0.1 % of the no-information loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from lemis.contracts import Outcome
from lemis.engine.run import Run

SMALLEST_SPREAD = 0.1  # of 1; measured on healthy runs after ten epochs: 0.2 to 0.4
NOTHING_LEARNED = 2e-3  # relative distance of a loss to its no-information value
FEWEST_STEPS = 50  # before a warning: healthy runs look collapsed in their first 30 steps
PATIENCE_SHARE = 0.2  # of training, before a warning: 8 epochs of 40
SHORT_STEPS = 400  # a warning before says that training may only be short: four epochs of ACDC


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
    """Figures for the log at any step; a note after the first epoch, and warnings later, where there is a collapse.

    Args:
        run: Where it is said.
        patience: Steps before a symptom is a warning.
    """

    def __init__(self, run: Run, patience: int = FEWEST_STEPS) -> None:
        self._run = run
        self._patience = patience
        self._of_epoch: dict[str, list[Tensor]] = defaultdict(list)
        self._not_logged: dict[str, list[Tensor]] = defaultdict(list)
        self._last: Outcome | None = None
        self._warned: set[str] = set()

    def see(self, outcome: Outcome) -> None:
        """Remember one step; nothing is copied off the device."""
        for name, loss in outcome.losses.items():
            self._of_epoch[name].append(loss.detach())
            self._not_logged[name].append(loss.detach())
        self._last = outcome

    def figures(self, outcome: Outcome) -> dict[str, float]:
        """Mean of each loss term and of their sum since the last call, and spread and mean cosine of each embedding."""
        terms = {name: float(torch.stack(losses).mean()) for name, losses in self._not_logged.items()}
        self._not_logged.clear()
        figures = {"loss": sum(terms.values()), **{f"loss/{name}": value for name, value in terms.items()}}
        for name, z in outcome.embeddings.items():
            figures[f"embedding/{name}/std"] = spread(z)
            figures[f"embedding/{name}/cosine"] = mean_cosine(z)
        return figures

    def end_of_epoch(self, epoch: int, step: int) -> None:
        """Say, once per symptom, what the epoch shows; ``step`` counts the steps of the run."""
        if self._last is None:
            return
        if epoch == 0 or step >= self._patience:
            for symptom, text in self._symptoms(self._last):
                if step < self._patience:
                    self._run.note(
                        f"epoch {epoch + 1}: {text} So early it can pass; if it stays, there will be a warning."
                    )
                elif symptom not in self._warned:
                    self._warned.add(symptom)
                    short = f" Or {step} steps are too few to tell." if step < SHORT_STEPS else ""
                    self._run.warn(f"epoch {epoch + 1}: {text}{short}")
        self._of_epoch.clear()

    def _symptoms(self, last: Outcome) -> Iterator[tuple[str, str]]:
        means = {name: self._later_half(name) for name in last.uninformed}
        learned = [name for name, mean in means.items() if mean < (1 - NOTHING_LEARNED) * last.uninformed[name]]
        for name, uninformed in last.uninformed.items():
            if abs(means[name] - uninformed) < NOTHING_LEARNED * abs(uninformed):
                advice = _OF_ONE_TERM.format(learned=" and ".join(learned)) if learned else _OF_ALL_TERMS
                yield (
                    f"loss/{name}",
                    f"the {name} loss is {means[name]:.4f}, what a network that knows nothing has "
                    f"({uninformed:.4f}). {advice}",
                )
        for name, z in last.embeddings.items():
            if spread(z) < SMALLEST_SPREAD:
                yield (
                    f"embedding/{name}",
                    f"the {name} embedding has collapsed: all its vectors point the same way "
                    f"(mean cosine {mean_cosine(z):.4f}, spread {spread(z):.3f} of 1). Its loss term says nothing any "
                    f"more. {_ADVICE.get(name, _ADVICE['global'])}",
                )

    def _later_half(self, name: str) -> float:
        losses = torch.stack(self._of_epoch[name])
        return float(losses[len(losses) // 2 :].mean())


_OF_ALL_TERMS = (
    "Nothing is being learned: the learning rate is probably too high. Stop, and try a third of it or a tenth "
    "(learning_rate=...), or warm_up_steps=500."
)
# MACL on ACDC gained most of all methods with its image-level term within 0.3 % of there to the end (docs/results.md).
_OF_ONE_TERM = "This term teaches nothing, {learned} does. Whether the weights are worth it, `lemis compare` tells."
_ADVICE = {
    "global": "Try a smaller learning_rate, or a larger batch.",
    "local": "Try method.centring=batch, method.geometry=independent, or a smaller method.alignment_weight.",
}
