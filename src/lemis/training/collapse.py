"""Watching for collapse: embeddings that are all alike, and losses that say nothing was learned.

A collapsed run looks healthy from afar: its loss falls or stands still, and hours later the weights are worth nothing.
So every embedding that a method names is measured. What still holds after ``patience`` steps is a warning, and is kept
with the run; before, nothing is said. On ACDC, runs that would learn and runs that would not looked alike for four
epochs: both within 0.1 % of the no-information loss, which the default left in its fourth. One thing is told at once:
that a loss starts far above that value. Such a term first learns to say the same of everything, and may stay there.

What holds at the end decides: a pre-training without a loss term that is learned, or with embeddings that are all
alike, has learned nothing, and whoever uses its weights says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from lemis.contracts import Outcome
from lemis.runs.run import Run

SMALLEST_SPREAD = 0.1  # of 1; measured on healthy runs after ten epochs: 0.2 to 0.4
NOTHING_LEARNED = 2e-3  # relative distance of a loss to its no-information value
STARTS_ABOVE = 0.5  # relative distance of a first loss above it
FEWEST_STEPS = 50  # before a warning: healthy runs look collapsed in their first 30 steps
PATIENCE_SHARE = 0.2  # of training, before a warning: 8 epochs of 40
SHORT_STEPS = 400  # a warning before says that training may only be short: four epochs of ACDC


Symptoms = Mapping[str, tuple[str, str]]  # loss/TERM or embedding/NAME -> what is seen, what to try


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
    """Figures for the log at any step, and warnings from some step on, where there is a collapse.

    Args:
        run: Where it is said.
        patience: Steps before a symptom is a warning.
        learning_rate: The highest of the schedule; a third of it is what the advice names.
        prefix: What stands before the schedule's keys in the command that was typed.
    """

    def __init__(self, run: Run, patience: int = FEWEST_STEPS, *, learning_rate: float = 0.1, prefix: str = "") -> None:
        self.learned_nothing: str | None = None  # why, in words, as of the last epoch that ended
        self._run = run
        self._patience = patience
        self._keys = {"prefix": prefix, "third": f"{learning_rate / 3:.2g}"}
        self._of_epoch: dict[str, list[Tensor]] = defaultdict(list)
        self._not_logged: dict[str, list[Tensor]] = defaultdict(list)
        self._last: Outcome | None = None
        self._warned: set[str] = set()

    def see(self, outcome: Outcome, step: int | None = None) -> None:
        """Remember one step, and say of the first (``step`` = 1) which terms start far above no information.

        Nothing is copied off the device but at the first step.
        """
        if step == 1:
            self._see_start(outcome)
        for name, loss in outcome.losses.items():
            self._of_epoch[name].append(loss.detach())
            self._not_logged[name].append(loss.detach())
        self._last = outcome

    def _see_start(self, outcome: Outcome) -> None:
        firsts = {name: float(outcome.losses[name].detach()) for name in outcome.uninformed}
        for name, first in firsts.items():
            nothing = outcome.uninformed[name]
            if first > (1 + STARTS_ABOVE) * nothing:
                self._run.note(f"step 1: {_starts_above(name, first, nothing)}. {_OF_A_START}")

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
        """Warn, once per symptom, of what the epoch shows; ``step`` counts the steps of the run."""
        if self._last is not None and step >= self._patience:
            losses, embeddings = self._stale_losses(self._last), _collapsed(self._last)
            for key, (seen, advice) in {**losses, **embeddings}.items():
                if key not in self._warned:
                    self._warned.add(key)
                    short = f" Or {step} steps are too few to tell." if step < SHORT_STEPS else ""
                    self._run.warn(f"epoch {epoch + 1}: {seen}. {advice.format(**self._keys)}{short}")
            decisive, watched = (
                (losses, self._last.uninformed) if self._last.uninformed else (embeddings, self._last.embeddings)
            )
            nothing = watched and len(decisive) == len(watched)
            self.learned_nothing = "; ".join(seen for seen, _ in decisive.values()) if nothing else None
        self._of_epoch.clear()

    def _stale_losses(self, last: Outcome) -> Symptoms:
        """Of terms that are not better than without any knowledge."""
        means = {name: self._later_half(name) for name in last.uninformed}
        stale = [name for name, mean in means.items() if mean >= (1 - NOTHING_LEARNED) * last.uninformed[name]]
        learned = " and ".join(name for name in means if name not in stale)
        advice = _OF_ONE_TERM.format(learned=learned) if learned else _OF_ALL_TERMS
        return {f"loss/{name}": (_stale(name, means[name], last.uninformed[name]), advice) for name in stale}

    def _later_half(self, name: str) -> float:
        losses = torch.stack(self._of_epoch[name])
        return float(losses[len(losses) // 2 :].mean())


def _stale(name: str, mean: float, uninformed: float) -> str:
    worse = "worse than " if mean > (1 + NOTHING_LEARNED) * uninformed else ""
    return f"the {name} loss is {mean:.4f}, {worse}what a network that knows nothing has ({uninformed:.4f})"


def _starts_above(name: str, first: float, uninformed: float) -> str:
    here = f"{first:.4f}, where a network that knows nothing has {uninformed:.4f}"
    return f"the {name} loss starts above no information: {here}"


def _collapsed(last: Outcome) -> Symptoms:
    return {
        f"embedding/{name}": (
            f"the {name} embedding has collapsed: all its vectors point the same way (mean cosine "
            f"{mean_cosine(z):.4f}, spread {spread(z):.3f} of 1), so that its loss term says nothing any more",
            _ADVICE.get(name, _ADVICE["global"]),
        )
        for name, z in last.embeddings.items()
        if spread(z) < SMALLEST_SPREAD
    }


_OF_ALL_TERMS = (
    "Nothing is being learned: the learning rate is probably too high. Stop, and try a third of it "
    "({prefix}learning_rate={third}), or {prefix}warm_up_steps=500."
)
_OF_A_START = (
    "What it compares begins unlike, and is made alike first: such a term falls to that value and may stay there. If "
    "it does, try method.batch_norm=true where the method has it, or, of MACL, method.form=article."
)
# MACL on ACDC gained most of all methods with its image-level term within 0.3 % of there to the end (docs/notebook).
_OF_ONE_TERM = "This term teaches nothing, {learned} does. Whether the weights are worth it, `lemis compare` tells."
_ADVICE = {
    "global": "Try a smaller learning rate ({prefix}learning_rate={third}), or a larger batch.",
    "local": "Try method.centring=batch, method.geometry=independent, or a smaller method.alignment_weight.",
}
