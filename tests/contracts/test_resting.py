"""What a stage of a method does not train keeps its bits, however long the stage is: with the presets' optimisers."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from lemis import plugins
from lemis.contracts import Batch, Method
from lemis.promises.material import Material
from lemis.promises.methods import Subject
from lemis.sampling.draw import Rows
from lemis.settings import load_preset, presets, resolve
from lemis.training import loop
from lemis.training.schedule import Settings, build_optimiser

STEPS = 2000
MOVES = ("optimiser", "learning_rate", "momentum", "weight_decay")  # what of a schedule decides on one step


class Case(NamedTuple):
    """A method as some presets have it, and how they train it."""

    name: str
    chosen: tuple[tuple[str, Any], ...]  # its settings that are words: numbers are made small
    optimisers: frozenset[Settings]


@functools.cache
def cases() -> list[Case]:
    """Of all presets, alike ones once."""
    found: dict[tuple[str, tuple[tuple[str, Any], ...]], set[Settings]] = {}
    for preset in presets():
        tree = load_preset(preset)
        for name, given in tree.get("methods", {}).items():
            words = tuple(sorted((key, value) for key, value in (given or {}).items() if isinstance(value, str | bool)))
            timing = {**tree.get("pretrain", {}), **tree.get("schedules", {}).get(name, {})}
            how = resolve(Settings, {key: value for key, value in timing.items() if key in MOVES})
            found.setdefault((name, words), set()).add(how)
    for name in plugins.names("methods"):
        found.setdefault((name, ()), set()).add(Settings())
    return [Case(*key, frozenset(optimisers)) for key, optimisers in found.items()]


def without_gradient(method: Method, batch: Batch) -> dict[str, nn.Parameter]:
    """What could learn and does not, after one step's backward pass; statistics of batches that move are a failure."""
    before = {name: value.clone() for name, value in method.named_buffers()}
    outcome = method(batch, Rows(0, 0, "cpu"))
    torch.stack(list(outcome.losses.values())).sum().backward()
    still = {
        name: parameter
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.any()))
    }
    places = {name.rpartition(".")[0] for name, parameter in method.named_parameters() if parameter.requires_grad}
    places -= {name.rpartition(".")[0] for name, _ in method.named_parameters() if name not in still}
    for name, value in method.named_buffers():
        if name.rpartition(".")[0] in places:
            assert torch.equal(value, before[name]), f"{name} follows batches though its layer rests"
    return still


@pytest.mark.parametrize("case", cases(), ids=lambda case: " ".join([case.name, *(f"{k}={v}" for k, v in case.chosen)]))
@pytest.mark.parametrize("progress", [0.01, 0.9])
def test_what_gets_no_gradient_does_not_change(case: Case, progress: float, material: Material) -> None:
    dims = plugins.describe("methods", case.name)["dims"][0]
    method = Subject(case.name, dims, material).build(dict(case.chosen))
    method.after_step(progress)
    still = without_gradient(method, material.of(dims))
    before = {name: parameter.detach().clone() for name, parameter in still.items()}
    gradients = [None if parameter.grad is None else torch.zeros_like(parameter) for parameter in still.values()]
    for how in case.optimisers if still else ():
        for name, parameter in still.items():
            parameter.data.copy_(before[name])
        alone = nn.ParameterList(still.values())
        optimiser = build_optimiser(alone, how)
        for _ in range(STEPS):
            for parameter, gradient in zip(alone, gradients, strict=True):
                parameter.grad = gradient
            loop.rest(method)
            optimiser.step()
        for name, parameter in still.items():
            assert torch.equal(parameter, before[name]), f"{name} moved in {STEPS} steps of {how.optimiser}"
