"""Optimiser and learning rate: a function of the step alone, so that a resumed run has them right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field
from torch import nn

from lemis.settings import Probability

# `precision=32` is a number to YAML.
Precision = Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Optimiser and schedule; the defaults are those of the PCL protocol's pre-training."""

    epochs: Annotated[int, Field(gt=0)] = 300  # passes over the slices
    steps: Annotated[int, Field(gt=0)] | None = None  # optimiser steps; where given, the length instead of ``epochs``
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.1
    floor: Annotated[float, Field(ge=0, le=1000)] = 0.0  # the learning rate never goes below; not where the cosine ends
    schedule: Literal["cosine", "poly", "constant"] = "cosine"  # poly: (1 - T / T_total)^0.9
    warm_up_steps: Annotated[int, Field(ge=0)] = 0  # linear from 0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of SGD
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 1e-5
    accumulate: Annotated[int, Field(gt=0)] = 1  # parts a batch is taken in; a contrast sees one part at a time
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient
    precision: Precision = "auto"  # auto: bf16 where the hardware has it, else 32
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    log_every_steps: Annotated[int, Field(gt=0)] = 10
    evaluations: Annotated[int, Field(ge=0)] | None = None  # of the held-out fold; None: 5, and 1 of volumes


@dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """Of fine-tuning: that, and what becomes of its weights."""

    average: Probability = 0.0  # decay of a moving average of the weights, which then predicts; 0: the last ones do
    # Learning rate of weights from a pre-training, as a share of that of fresh ones; 0: they and their statistics rest.
    loaded_rate: Probability = 1.0
    load: Literal["trained", "encoder"] = (
        "trained"  # parts of a pre-training: all that it trained, or its encoder alone
    )


class Slower(NamedTuple):
    """What learns more slowly than the rest."""

    parameters: Sequence[nn.Parameter] = ()
    share: float = 1.0  # of the learning rate, through the whole schedule


ALIKE = Slower()


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """Of step ``step``, counted from 0, of ``total``."""
    if step < settings.warm_up_steps:
        return settings.learning_rate * (step + 1) / settings.warm_up_steps
    share = (step - settings.warm_up_steps) / max(1, total - settings.warm_up_steps)
    factors: dict[str, float] = {"cosine": 0.5 * (1 + cos(pi * share)), "poly": (1 - share) ** 0.9, "constant": 1.0}
    return max(settings.learning_rate * factors[settings.schedule], settings.floor)


def due(every: int, step: int, total: int) -> bool:
    """Whether what happens every so many steps, and at the end, happens after step ``step`` of ``total``."""
    return step % every == 0 or step == total


def build_optimiser(module: nn.Module, settings: Settings, slower: Slower = ALIKE) -> torch.optim.Optimizer:
    """Over the parameters that require a gradient, those that learn more slowly in a group of their own."""
    parameters = _groups([p for p in module.parameters() if p.requires_grad], slower)
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay)


def set_rate(optimiser: Any, rate: float) -> float:
    """Give each group its learning rate; returns the full one."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
    return rate


def _groups(parameters: Sequence[nn.Parameter], slower: Slower) -> list[dict[str, Any]]:
    slow = {id(p) for p in slower.parameters} if slower.share != 1 else set()
    fast = {"params": [p for p in parameters if id(p) not in slow]}
    own = {"params": [p for p in parameters if id(p) in slow], "share": slower.share}
    return [group for group in (fast, own) if group["params"]]
