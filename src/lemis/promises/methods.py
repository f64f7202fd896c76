"""Promises of every pre-training method."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lemis import contracts, plugins
from lemis.contracts import Batch, Outcome, Sampling, View
from lemis.promises import chance, own_settings, trying
from lemis.promises.material import Material, Reordered, alike, figures, take, told, total
from lemis.promises.trying import NotTried, expect, expect_citation, expect_class, known, names, of_module
from lemis.sampling.draw import Rows
from lemis.settings import resolve
from lemis.training.loop import channels_last

FOLDER = "methods"
SMALL = {
    "batch_size": 8, "per_scan": 4, "size_px": 64, "embedding": 16, "outputs": 64,
}  # what a method has of these is made small  # fmt: skip
VOLUMES = {"size_px": [16, 32, 32], "patch_px": 8}  # on networks of three dimensions instead
NARROW = {"base_width": 4, "keypoint_width": 16, "pairs": 1, "heads": 2}  # and what a network has of these
USUAL = {2: "unet2d", 3: "unet3d"}
# Settings of shared views that have no effect on slices, and why.
OF_VOLUMES = {
    "spatial.tilt_row_degrees": "turns volumes only; these are slices",
    "spatial.tilt_column_degrees": "turns volumes only; these are slices",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """A method, and what it is shown. ``uninformed`` may be excused too.

    Args:
        dims: Of the network that it trains.
        material: What it is shown.
    """

    FOLDER = FOLDER

    dims: int
    material: Material

    @property
    def batch(self) -> Batch:
        """Slices or regions of volumes."""
        return self.material.of(self.dims)

    def settings(self, *layers: Mapping[str, Any]) -> Any:
        """Small ones, and others over them."""
        small = known(self.module, SMALL, VOLUMES if self.dims == 3 else {})
        return resolve(self.module.Settings, small, *layers)

    def build(self, *layers: Mapping[str, Any]) -> contracts.Method:
        """The method on a narrow network; as in pre-training, only what it trains asks for a gradient."""
        torch.manual_seed(0)
        module = plugins.load("backbones", getattr(self.module, "BACKBONES", [USUAL[self.dims]])[0])
        of_dims = {"levels": 5} if module.__name__ == "lemis.backbones.unet3d" else {}
        narrow = resolve(module.Settings, known(module, NARROW, of_dims))
        network = module.Backbone(narrow, in_channels=1, num_classes=2)
        method: contracts.Method = self.module.Method(network, self.settings(*layers))
        for key, parameter in network.named_parameters():
            parameter.requires_grad_(network.part_of(key) in method.trains)
        return method


def own(method: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the method's own heads; not those of a network that follows the one in training."""
    return {key: p for key, p in method.named_parameters() if not key.startswith("backbone.") and p.requires_grad}


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`Method` inherits from `lemis.contracts.Method`, defines `forward`, and is made of (backbone, settings)."""
    module = of_module(FOLDER, name)
    expect_class(module, "Method", contracts.Method, ("backbone", "settings"))


def it_says_which_networks_and_which_parts_it_trains(name: str) -> None:
    """The file says, as plain values that can be read without running it, `DIMS = (2,)`, `(3,)` or `(2, 3)`: the
    dimensions of its networks, and `TRAINS = ("encoder",)`, with `"decoder 1"` and on where it trains these too: the
    parts of the network that learn and are handed on. `BACKBONES = ("kaf_unet",)` where it works on certain networks
    only.
    """
    said, module = plugins.describe(FOLDER, name), of_module(FOLDER, name)
    for key in ("dims", "trains"):
        expect(bool(said.get(key)), f"no {key.upper()}")
        expect(said[key] == getattr(module, key.upper()), f"{key.upper()} changes when the file runs")
        expect(isinstance(said[key], tuple), f"{key.upper()} is no tuple: a comma is missing")
    expect(set(said["dims"]) <= {2, 3}, f"DIMS = {said['dims']}")
    odd = [part for part in said["trains"] if not re.fullmatch(r"encoder|decoder \d+", str(part))]
    expect(not odd, f"TRAINS has {odd}")


def the_file_has_no_other_public_classes_and_they_are_final(name: str) -> None:
    """`Settings`, `Views` and `Method` are all that the file shows, and nothing inherits from them: `@final`."""
    module = of_module(FOLDER, name)
    defined = {
        key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
    }
    public = {key for key in defined if not key.startswith("_")}
    # Views that several papers share are defined in data/.
    expect({"Settings", "Method"} <= public <= {"Settings", "Views", "Method"}, f"it shows {names(public)}")
    for key in ("Method", "Views"):
        cls = getattr(module, key, None)
        expect(cls is not None, f"the file has no {key}")
        expect(getattr(cls, "__final__", False), f"{key} is not @final")


def the_file_cites_its_paper(name: str) -> None:
    """The docstring of the file names the paper, its year and its address."""
    expect_citation(FOLDER, name)


# ------------------------------------------------------------------------------------------------ one step


def views_are_views_and_the_same_numbers_give_the_same_ones(subject: Subject) -> None:
    """`Views(settings)(batch, rng)` gives `contracts.View`s by name, a row for each row of the batch, and draws from
    `rng` alone: the same seed and step give the same views, another step gives others, unless nothing is drawn.
    """
    if not hasattr(subject.module, "Views"):
        raise NotTried("the file has no Views")
    batch, how = subject.batch, subject.settings()

    def draw(step: int) -> dict[str, View]:
        drawn: dict[str, View] = subject.module.Views(how)(batch, Rows(1, step, "cpu"))
        return drawn

    first, again, other = draw(2), draw(2), draw(3)
    expect(all(isinstance(view, View) for view in first.values()), "something else than lemis.contracts.View")
    for key, view in first.items():
        expect(len(view.image) == len(batch.image), f"{len(view.image)} views {key} of {len(batch.image)} images")
        expect(view.image.shape[2:] == view.geometry.shape, f"view {key} has another shape than its geometry says")
        expect(
            torch.equal(view.image, again[key].image), f"view {key} differs for the same seed and step: draw from rng"
        )
    different = any(not torch.equal(view.image, other[key].image) for key, view in first.items())
    chance.expect_others(different, "the next step has the same views", subject.module, lambda: draw(3))


def the_outcome_is_what_the_contract_says(subject: Subject) -> None:
    """`forward(batch, rng)` gives `Outcome(losses, embeddings, uninformed)`: losses are scalars with a gradient, by
    name; embeddings are (N, D) with N > 1, detached; `uninformed` speaks of losses that are there.
    """
    outcome = subject.build()(subject.batch, Rows(0, 0, "cpu"))
    expect(isinstance(outcome, Outcome), f"forward gives a {type(outcome).__name__}, no Outcome")
    expect_outcome(outcome)


def expect_outcome(outcome: Outcome) -> None:
    """What is promised of every outcome."""
    expect(bool(outcome.losses), "no loss")
    for key, loss in outcome.losses.items():
        expect(loss.shape == (), f"loss {key} has the shape {tuple(loss.shape)}")
        expect(loss.requires_grad, f"loss {key} has no gradient")
    for key, z in outcome.embeddings.items():
        expect(z.dim() == 2 and len(z) > 1, f"embeddings {key} have the shape {tuple(z.shape)}")
        expect(not z.requires_grad, f"embeddings {key} are not detached")
    lost = set(outcome.uninformed) - set(outcome.losses)
    expect(not lost, f"uninformed speaks of {names(lost)}, which is no loss")


def trained(subject: Subject, steps: int = 4, *, elsewhere: int = 0) -> tuple[contracts.Method, list[dict[str, float]]]:
    """A method after some steps of SGD, and its losses; ``elsewhere`` is the seed of the generator that all share."""
    method = subject.build()
    torch.manual_seed(elsewhere)
    slices = subject.material.slices
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    rows = (slices.draw(method.sampling, seed=3, epoch=0) * steps)[:steps] if subject.dims == 2 else []
    seen = []
    for step, each in enumerate(slices.stream(rows) if subject.dims == 2 else [subject.batch] * steps):
        outcome = method(each, Rows(3, step, "cpu"))
        optimiser.zero_grad()
        total(outcome).backward()
        optimiser.step()
        method.after_step((step + 1) / steps)
        seen.append(figures(outcome))
    method.after_epoch(1.0)
    return method, seen


def it_trains_with_finite_losses_and_the_same_seed_gives_the_same(subject: Subject) -> None:
    """Four steps of training have finite losses and change the weights; all over again they give the same losses and
    weights, bit for bit. Every random number comes from `rng`, none from `torch.rand` or `random`, as the seed of a run
    decides `rng` alone.
    """
    before = subject.build().state_dict()
    method, losses = trained(subject)
    again, the_same = trained(subject, elsewhere=1)
    for step, terms in enumerate(losses, start=1):
        expect(bool(np.isfinite(list(terms.values())).all()), f"step {step}: {told(terms)}")
    for step, (terms, others) in enumerate(zip(losses, the_same, strict=True), start=1):
        expect(terms == others, f"step {step}, twice with one seed: {told(terms)}; {told(others)}")
    for (key, a), b in zip(method.state_dict().items(), again.state_dict().values(), strict=True):
        expect(torch.equal(a, b), f"{key} differs after training twice with one seed")
    expect(any(not torch.equal(value, before[key]) for key, value in method.state_dict().items()),
           "no weight changed")  # fmt: skip


def what_it_learned_survives_a_checkpoint(subject: Subject) -> None:
    """All that a training changes is a parameter or a buffer: the method in its state after two steps, loaded from a
    checkpoint, takes the third step as the one that was never stopped. Keep queues, averages and counters with
    `self.register_buffer`.
    """
    method, _ = trained(subject, 2)
    resumed = subject.build()
    with torch.no_grad():
        for value in resumed.state_dict().values():  # views of the weights: nothing is left of how it began
            value.zero_()
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    outcomes = [figures(one(subject.batch, Rows(3, 2, "cpu"))) for one in (method, resumed)]
    expect(outcomes[0] == outcomes[1], f"going on: {told(outcomes[0])}; after loading: {told(outcomes[1])}")


def a_gradient_reaches_what_it_trains_and_nothing_else(subject: Subject) -> None:
    """Every weight of the method's heads, and of the parts of the network in TRAINS, gets a gradient that is not zero
    in one step; no other weight gets one. `self.trains` is TRAINS, `self.backbone` the network, `self.sampling` a
    `Sampling`, which in 3D says with `patch_px` how large views are. Put into TRAINS what the loss goes through, and
    nothing else; make no layer that is not used, and no bias that cancels in a difference (`bias=False`).
    """
    method = subject.build()
    network = getattr(method, "backbone", None)
    expect(isinstance(network, contracts.Backbone), "no self.backbone")
    assert isinstance(network, contracts.Backbone)
    network.requires_grad_(True)
    expect(tuple(method.trains) == subject.module.TRAINS, f"self.trains is {method.trains}")
    expect(isinstance(method.sampling, Sampling), "self.sampling is no Sampling")
    if subject.dims == 2:
        expect(method.sampling.patch_px is None, "self.sampling has patch_px, which is of volumes")
    else:
        has_size = "size_px" in known(subject.module, VOLUMES)
        size = tuple(VOLUMES["size_px"]) if has_size else method.sampling.patch_px  # type: ignore[arg-type]
        expect(method.sampling.patch_px is not None and method.sampling.patch_px == size,
               f"self.sampling.patch_px is {method.sampling.patch_px}")  # fmt: skip
    total(method(subject.batch, Rows(0, 0, "cpu"))).backward()
    missed = [key for key, p in own(method).items() if p.grad is None or p.grad.abs().max() == 0]
    expect(not missed, f"no gradient reaches {names(missed)}")
    trains = [(key, p) for key, p in network.named_parameters() if network.part_of(key) in method.trains]
    idle = {network.part_of(key) for key, p in trains if p.grad is None or p.grad.abs().max() == 0}
    expect(not idle, f"in TRAINS, and not reached by a gradient everywhere: {names(idle)}")
    taught = {network.part_of(key) for key, p in network.named_parameters() if p.grad is not None}
    expect(
        taught <= set(method.trains), f"reached by a gradient, and not in TRAINS: {names(taught - set(method.trains))}"
    )
    parts = {network.part_of(key) for key, _ in network.named_parameters()}
    expect(set(method.trains) <= parts, f"TRAINS has parts that the network lacks: {names(set(method.trains) - parts)}")


def the_order_of_the_batch_does_not_matter(subject: Subject) -> None:
    """Scans in another order give the same losses. Use `batch.scan` and `batch.subject`, not the number of the row;
    slices of one scan keep their order, since the first one may lead.
    """
    batch = subject.batch
    count = len(batch.image)
    order = [row for pair in zip(range(count // 2, count), range(count // 2), strict=True) for row in pair]
    expected = figures(subject.build()(batch, Rows(0, 0, "cpu")))
    reordered = figures(subject.build()(take(batch, order), Reordered(Rows(0, 0, "cpu"), order)))
    expect(alike(reordered, expected, relative=1e-3), f"{told(expected)}; in another order: {told(reordered)}")


def a_network_that_knows_nothing_reaches_the_uninformed_values(subject: Subject) -> None:
    """`Outcome(..., uninformed={"contrast": log(n)})` names for each loss its value when all answers are alike; with
    all weights zero it is reached. By it the loop sees that nothing is learned. A loss that has no such value says so
    in the file: `NOT_CHECKED = {"uninformed": "why"}`.
    """
    method = subject.build()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.zero_()
    outcome = method(subject.batch, Rows(0, 0, "cpu"))
    without = "uninformed" in subject.excused
    expect(
        bool(outcome.uninformed) != without, "uninformed is there, and said not to be" if without else "none is named"
    )
    for key, value in outcome.uninformed.items():
        here = outcome.losses[key].item()
        expect(alike({key: here}, {key: value}, relative=1e-5), f"{key}: {value:.6g} is named, {here:.6g} is reached")


def it_works_in_mixed_precision(subject: Subject) -> None:
    """Under autocast to bfloat16, with the channels last, the losses are float32 and those of full precision up to
    rounding. Compute losses of `.float()`, or with `lemis.layers.basic.precise`.
    """
    batch = subject.batch
    expected = figures(subject.build()(batch, Rows(0, 0, "cpu")))
    method = channels_last(subject.build())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = method(batch, Rows(0, 0, "cpu"))
    total(outcome).backward()
    odd = [key for key, loss in outcome.losses.items() if loss.dtype != torch.float32]
    expect(not odd, f"not float32: {names(odd)}")
    found = figures(outcome)
    # A cosine may be near 0.
    expect(alike(found, expected, relative=0.2, absolute=0.02), f"{told(expected)}; in bfloat16: {told(found)}")


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(subject: Subject, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change: sampling, sizes, views, losses, gradients, running statistics, and what
    follows the network in training.
    """
    batch, method = subject.batch, subject.build(layer)
    method.after_step(0.3)
    draws: Callable[..., Mapping[str, View]] | None = getattr(method, "views", None)
    views = draws(batch, Rows(0, 0, "cpu")) if draws is not None and hasattr(subject.module, "Views") else {}
    outcome = method(batch, Rows(0, 0, "cpu"))
    total(outcome).backward()
    torch.optim.SGD([p for p in method.parameters() if p.grad is not None], lr=0.1).step()
    method.after_step(0.6)
    return (
        method.sampling,
        [tuple(p.shape) for p in method.parameters()],
        [(view.image.shape, view.image.double().square().sum().item()) for view in views.values()],
        figures(outcome),
        outcome.uninformed,
        [None if p.grad is None else p.grad.double().abs().sum().item() for p in method.parameters()],
        [p.detach().double().sum().item() for p in method.parameters() if not p.requires_grad],
        [b.double().sum().item() for b in method.buffers()],
    )


def setting_has_an_effect(subject: Subject, key: str) -> bool:
    """Whether other values of a setting change anything in a step of training."""
    base = subject.where.get(key, {})
    before = _unchanged(subject, str(base))
    return own_settings.has_an_effect(partial(subject.settings, base), key, partial(fingerprint, subject), before)


@functools.lru_cache(maxsize=64)
def _unchanged(subject: Subject, base: str) -> tuple[Any, ...]:
    layer = next((layer for layer in subject.where.values() if str(layer) == base), {})
    return fingerprint(subject, layer)


def every_setting_has_an_effect(subject: Subject) -> None:
    """Another value of each setting changes a step of training. One that acts only where another is set says so in the
    file: `CHECKED_WITH = {"momentum": {"encoder": "ema"}}`; one that acts at another time: `NOT_CHECKED = {"transfer":
    "acts after the last step"}`. Delete a setting that does nothing.
    """
    expect_known(subject)
    excused = {key: why for key, why in subject.excused.items() if key != "uninformed"}
    if subject.dims == 2:
        excused |= {key: why for key, why in OF_VOLUMES.items() if key in own_settings.leaves(subject.module.Settings)}
    own_settings.expect_effects(subject.module.Settings, partial(setting_has_an_effect, subject), excused)


def expect_known(subject: Any) -> None:
    """What a file says of its settings is of settings that it has."""
    has = {*own_settings.leaves(subject.module.Settings), "uninformed"}
    odd = {*subject.where, *subject.excused} - has
    expect(not odd, f"CHECKED_WITH or NOT_CHECKED speaks of {names(odd)}, which is no setting")


def settings_without_an_effect_on_slices_turn_volumes(subject: Subject, key: str) -> None:
    """Tilts turn views of volumes."""
    base = known(subject.module, VOLUMES)
    layers = [base, *own_settings.changed(partial(subject.settings, base), key)]
    drawn = [
        subject.module.Views(subject.settings(layer))(subject.material.regions, Rows(0, 0, "cpu")) for layer in layers
    ]
    first, *others = (next(iter(views.values())).image for views in drawn)
    expect(bool(others), "no other value")
    expect(all(not torch.equal(first, other) for other in others), "the same views")


FILE = (the_file_has_its_names, it_says_which_networks_and_which_parts_it_trains)
FILE_OF_OURS = (the_file_has_no_other_public_classes_and_they_are_final, the_file_cites_its_paper)
STEP = (
    views_are_views_and_the_same_numbers_give_the_same_ones,
    the_outcome_is_what_the_contract_says,
    it_trains_with_finite_losses_and_the_same_seed_gives_the_same,
    what_it_learned_survives_a_checkpoint,
    a_gradient_reaches_what_it_trains_and_nothing_else,
    the_order_of_the_batch_does_not_matter,
    a_network_that_knows_nothing_reaches_the_uninformed_values,
    it_works_in_mixed_precision,
)
