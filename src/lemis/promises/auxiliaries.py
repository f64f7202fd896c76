"""Promises of every auxiliary loss of fine-tuning."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lemis import contracts, plugins
from lemis.contracts import Draw, Outcome
from lemis.errors import UsageError
from lemis.promises import chance, own_settings, trying
from lemis.promises.material import Reordered, alike, figures, told, total
from lemis.promises.methods import expect_known, expect_outcome
from lemis.promises.trying import NotTried, expect, expect_citation, known, names, of_module
from lemis.sampling.draw import Rows
from lemis.settings import resolve

FOLDER = "auxiliary"
USUAL = {2: "unet2d", 3: "unet3d"}
ROWS, SIDE_PX, CLASSES = 4, 32, 4
SMALL = {"hidden": 8, "voxels": 60, "false_negatives": 30, "negatives": 50}  # what a loss has of these is made small
ALL = {"voxels": 10**6, "false_negatives": 10**6, "negatives": 10**6}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """An auxiliary loss.

    Args:
        dims: Of the network that is fine-tuned.
        folder: Where its processes meet.
    """

    FOLDER = FOLDER

    dims: int
    folder: Path = Path()

    @property
    def network(self) -> str:
        """The one that is fine-tuned."""
        return USUAL[self.dims]


def settings_of(name: str, *layers: Mapping[str, Any]) -> Any:
    """Small ones, and others over them; of each those that the loss has."""
    module = of_module(FOLDER, name)
    return resolve(module.Settings, *(known(module, layer) for layer in (SMALL, *layers)))


class Both(nn.Module):
    """A network and the loss beside it, as fine-tuning has them; it keeps the maps."""

    def __init__(self, name: str, network: str = "unet2d", *layers: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        module = plugins.load("backbones", network)
        narrow = resolve(module.Settings, {"base_width": 4})
        self.backbone = module.Backbone(narrow, in_channels=1, num_classes=CLASSES)
        loss = of_module(FOLDER, name).Auxiliary
        self.auxiliary = loss(self.backbone, settings_of(name, *layers), num_classes=CLASSES)
        for key, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self.backbone.part_of(key) == "encoder")  # the loss has no say on the others
        self.maps: list[Tensor] = []

    def forward(self, image: Tensor, label: Tensor, rng: Draw) -> Outcome:
        """Image (B, 1, *space) and label (B, *space) through the encoder, the decoder and the loss."""
        self.maps = self.backbone.encode(image)
        for each in self.maps:
            if each.requires_grad:
                each.retain_grad()
        logits = self.backbone.head(self.backbone.decode(self.maps))
        outcome: Outcome = self.auxiliary(self.maps, label, logits, rng)
        return outcome


def batch(network: str = "unet2d", kind: str = "random") -> tuple[Tensor, Tensor]:
    """Images (B, 1, *space) and their labels (B, *space)."""
    generator = torch.Generator().manual_seed(1)
    # Of two slices in the bottleneck, oneDNN's bfloat16 convolution leaves part of a gradient unset (torch 2.13, CPU).
    space = (SIDE_PX, SIDE_PX) if network == "unet2d" else (SIDE_PX, SIDE_PX // 2, SIDE_PX // 2)
    image = torch.randn(ROWS, 1, *space, generator=generator)
    label = torch.randint(0, CLASSES, (ROWS, *space), generator=generator)
    if kind == "no foreground":
        label.zero_()
    if kind == "half without":
        label[ROWS // 2 :] = 0
    return image, label


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`Auxiliary` inherits from `lemis.contracts.Auxiliary`, defines `forward`, and is made of (backbone, settings, *,
    num_classes).
    """
    module = of_module(FOLDER, name)
    expect(inspect.isclass(module.Auxiliary) and issubclass(module.Auxiliary, contracts.Auxiliary),
           "Auxiliary does not inherit from lemis.contracts.Auxiliary")  # fmt: skip
    expect(not inspect.isabstract(module.Auxiliary), "Auxiliary has no forward(self, maps, label, logits, rng)")
    parameters = inspect.signature(module.Auxiliary).parameters
    expect(list(parameters) == ["backbone", "settings", "num_classes"], f"Auxiliary takes ({', '.join(parameters)})")
    expect(parameters["num_classes"].kind is inspect.Parameter.KEYWORD_ONLY, "num_classes is not after a *")


def it_says_of_which_networks_it_is(name: str) -> None:
    """The file says, as a plain value that can be read without running it, `DIMS = (2,)`, `(3,)` or `(2, 3)`."""
    said = plugins.describe(FOLDER, name)
    expect(bool(said.get("dims")), "no DIMS")
    expect(said["dims"] == of_module(FOLDER, name).DIMS, "DIMS changes when the file runs")
    expect(isinstance(said["dims"], tuple) and set(said["dims"]) <= {2, 3}, f"DIMS = {said['dims']}")


def the_class_is_final(name: str) -> None:
    """Nothing inherits from `Auxiliary`: `@final`."""
    expect(getattr(of_module(FOLDER, name).Auxiliary, "__final__", False), "it is not @final")


def the_file_cites_its_paper(name: str) -> None:
    """The docstring of the file names the paper, its year and its address."""
    expect_citation(FOLDER, name)


# ------------------------------------------------------------------------------------------------- one step


def losses_and_gradients_are_finite(subject: Subject) -> None:
    """`forward(maps, label, logits, rng)` gives an `Outcome` of scalar losses with a gradient, which reaches the
    deepest map, and the loss's own weights where it has any, and is finite everywhere.
    """
    both = Both(subject.name, subject.network)
    outcome = both(*batch(subject.network), Rows(0, 0, "cpu"))
    expect(isinstance(outcome, Outcome), f"forward gives a {type(outcome).__name__}, no Outcome")
    expect_outcome(outcome)
    total(outcome).backward()
    expect(bool(torch.isfinite(total(outcome))), told(figures(outcome)))
    for key, parameter in (*both.auxiliary.named_parameters(), *both.backbone.encoder.named_parameters()):
        if parameter.requires_grad:
            expect(parameter.grad is not None, f"no gradient reaches {key}")
            expect(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {key} is not finite")
    deepest = both.maps[-1].grad
    expect(deepest is not None and bool(deepest.abs().max() > 0), "no gradient reaches the deepest map")
    own = list(both.auxiliary.parameters())
    reached = [p for p in own if p.grad is not None and p.grad.abs().max() > 0]
    expect(bool(reached) or not own, "no gradient reaches the weights of the loss")


def the_network_is_no_part_of_it(subject: Subject) -> None:
    """No weight of the network is one of the loss: keep what you need of it (`backbone.channels`), not the network."""
    both = Both(subject.name, subject.network)
    theirs = {id(parameter) for parameter in both.backbone.parameters()}
    shared = [key for key, p in both.auxiliary.named_parameters() if id(p) in theirs]
    expect(not shared, f"weights of the network: {names(shared)}")
    expect(
        all(p.grad is None for _, p in both.backbone.named_parameters() if not p.requires_grad), "a gradient of others"
    )


def nothing_to_compare_is_zero_with_a_gradient(subject: Subject) -> None:
    """Without foreground the losses are 0, and every weight has a gradient, of zeros: multiply by 0 what you computed,
    or several processes wait for each other.
    """
    both = Both(subject.name, subject.network)
    outcome = both(*batch(subject.network, "no foreground"), Rows(0, 0, "cpu"))
    expect(figures(outcome) == dict.fromkeys(outcome.losses, 0.0), told(figures(outcome)))
    total(outcome).backward()
    for key, parameter in both.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            expect(gradient is not None, f"{key} has no gradient")
            expect(gradient is not None and bool(gradient.abs().max() == 0), f"the gradient of {key} is not zero")


def the_same_numbers_give_the_same_loss(subject: Subject) -> None:
    """Every random number comes from `rng`: the same seed and step give the same losses, bit for bit; another step
    takes other voxels, unless nothing is drawn.
    """

    def losses(step: int, elsewhere: int) -> dict[str, float]:
        both = Both(subject.name, subject.network)
        torch.manual_seed(elsewhere)
        return figures(both(*batch(subject.network), Rows(3, step, "cpu")))

    first, again, other = losses(5, 0), losses(5, 1), losses(6, 2)
    expect(first == again, f"twice with one seed and step: {told(first)}; {told(again)}")
    both, shown = Both(subject.name, subject.network), batch(subject.network)
    chance.expect_others(
        first != other, "the next step has the same losses", subject.module, lambda: both(*shown, Rows(3, 6, "cpu"))
    )


def the_order_of_the_batch_does_not_matter(subject: Subject) -> None:
    """Images in another order give the same losses. Use labels and scans, not the number of the row."""
    order = [2, 0, 3, 1]
    image, label = batch(subject.network)
    expected = figures(Both(subject.name, subject.network)(image, label, Rows(0, 0, "cpu")))
    again = Both(subject.name, subject.network)
    reordered = figures(again(image[order], label[order], Reordered(Rows(0, 0, "cpu"), order)))
    same = alike(reordered, expected, relative=1e-3, absolute=1e-4)
    expect(same, f"{told(expected)}; in another order: {told(reordered)}")


def it_works_in_mixed_precision(subject: Subject) -> None:
    """Under autocast to bfloat16 the losses are float32 and those of full precision up to rounding, and gradients are
    finite. Compute losses of `.float()`, or with `lemis.layers.basic.precise`.
    """
    expected = figures(Both(subject.name, subject.network, ALL)(*batch(subject.network), Rows(0, 0, "cpu")))
    both = Both(subject.name, subject.network, ALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = both(*batch(subject.network), Rows(0, 0, "cpu"))
    total(outcome).backward()
    odd = [key for key, loss in outcome.losses.items() if loss.dtype != torch.float32]
    expect(not odd, f"not float32: {names(odd)}")
    found = figures(outcome)
    expect(alike(found, expected, relative=0.05, absolute=0.1), f"{told(expected)}; in bfloat16: {told(found)}")
    wild = [key for key, p in both.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    expect(not wild, f"gradients that are not finite: {names(wild)}")


def more_layers_than_maps_are_refused(subject: Subject) -> None:
    """A setting `layers` larger than the number of maps raises `UsageError("auxiliary.layers=9", allowed="1 to 5",
    next=...)`.
    """
    if "layers" not in known(subject.module, {"layers": 9}):
        raise NotTried("it has no setting layers")
    try:
        Both(subject.name, "unet2d", {"layers": 9})
    except UsageError as error:
        expect(
            bool(re.search(r"auxiliary\.layers=9\n.*1 to 5", str(error))), f"refused with other words: {error.given}"
        )
    else:
        expect(False, "layers=9 of 5 maps is not refused")


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(subject: Subject, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change: sizes, losses, gradients."""
    both = Both(subject.name, subject.network, layer)
    outcome = both(*batch(subject.network), Rows(0, 0, "cpu"))
    total(outcome).backward()
    return (
        [tuple(p.shape) for p in both.parameters()],
        figures(outcome),
        outcome.uninformed,
        [None if p.grad is None else p.grad.double().abs().sum().item() for p in both.parameters()],
    )


def setting_has_an_effect(subject: Subject, key: str) -> bool:
    """Whether other values of a setting change anything in a step of fine-tuning."""
    base = subject.where.get(key, {})
    resolved = partial(settings_of, subject.name, base)
    return own_settings.has_an_effect(resolved, key, partial(fingerprint, subject), fingerprint(subject, base))


def every_setting_has_an_effect(subject: Subject) -> None:
    """Another value of each setting changes a step of fine-tuning. One that acts only where another is set says so in
    the file: `CHECKED_WITH = {"others": {"negatives": 20}}`; one that acts at another time: `NOT_CHECKED = {"others":
    "why"}`. Delete a setting that does nothing.
    """
    expect_known(subject)
    own_settings.expect_effects(subject.module.Settings, partial(setting_has_an_effect, subject), subject.excused)


FILE = (the_file_has_its_names, it_says_of_which_networks_it_is)
FILE_OF_OURS = (the_class_is_final, the_file_cites_its_paper)
STEP = (
    losses_and_gradients_are_finite,
    the_network_is_no_part_of_it,
    nothing_to_compare_is_zero_with_a_gradient,
    the_same_numbers_give_the_same_loss,
    the_order_of_the_batch_does_not_matter,
    it_works_in_mixed_precision,
    more_layers_than_maps_are_refused,
)
