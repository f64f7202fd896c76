"""Promises of every way to fine-tune with unlabelled scans too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemis import contracts, plugins
from lemis.contracts import Backbone, Batch
from lemis.promises import own_settings, trying
from lemis.promises.material import Reordered, alike, figures, take, told, total
from lemis.promises.methods import expect_known
from lemis.promises.trying import NotTried, expect, expect_citation, expect_class, known, names, of_module
from lemis.sampling.draw import Rows
from lemis.sampling.intensity import Intensity
from lemis.settings import resolve
from lemis.training import supervised

FOLDER = "semi"
USUAL = {2: "unet2d", 3: "unet3d"}
ROWS, CLASSES = 4, 4
SHAPE_PX = {2: (40, 36), 3: (36, 24, 24)}
# Of two slices in the bottleneck, oneDNN's bfloat16 convolution leaves part of a gradient unset (torch 2.13, CPU).
VIEW_PX: dict[int, Any] = {2: 32, 3: [32, 16, 16]}
# A network that was just made is sure of nothing, and its teacher is asked from the first step on.
SMALL: dict[str, Any] = {
    "threshold": 0.3, "delay": 0.1,
    "intensity": {field.name: 0.9 for field in dataclasses.fields(Intensity) if field.name.startswith("p_")},
}  # fmt: skip
LATE = 0.6  # share of training, at which all that a way does has begun


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """A way to use unlabelled scans.

    Args:
        dims: Of the network that is fine-tuned.
        folder: Where its processes meet.
    """

    FOLDER = FOLDER

    dims: int
    folder: Path = Path()

    def settings(self, *layers: Mapping[str, Any]) -> Any:
        """Those to try it with, and others over them; of each those that the way has."""
        return resolve(self.module.Settings, *(known(self.module, layer) for layer in (SMALL, *layers)))

    def build(self, *layers: Mapping[str, Any], network: str | None = None) -> contracts.Semi:
        """On a small network that says something else of each pixel."""
        built: contracts.Semi = self.module.Semi(objective(self.dims, network), self.settings(*layers))
        return built

    @property
    def batch(self) -> Batch:
        """Labelled rows, and unlabelled ones beside them, with label maps of a teacher where the way wants them."""
        return batch(self.dims, taught=self.is_taught)

    @cached_property
    def apart(self) -> contracts.Semi:
        """It, after steps in which student and teacher have come apart: to be copied, not to be trained."""
        return _apart(self)

    @property
    def is_taught(self) -> bool:
        """Whether its unlabelled rows have label maps of a teacher."""
        return bool(getattr(self.module, "PSEUDO_LABELS", False))


def objective(dims: int, network: str | None = None) -> supervised.Objective:
    """Fine-tuning of a small network with cross-entropy and Dice."""
    module = plugins.load("backbones", network or USUAL[dims])
    narrow = resolve(module.Settings, known(module, {"base_width": 4, "pairs": 1, "keypoint_width": 16}))

    def made() -> Backbone:
        backbone: Backbone = module.Backbone(narrow, in_channels=1, num_classes=CLASSES)
        return backbone

    torch.manual_seed(0)
    layer = {"size_px": VIEW_PX[dims], "loss": "dice_and_cross_entropy"}
    return supervised.Objective(made(), resolve(supervised.Settings, layer), another=made)


def batch(dims: int, seed: int = 1, *, taught: bool = False) -> Batch:
    """Smooth enough to be told apart from its noise; the unlabelled rows have no label, or that of a teacher."""
    generator = torch.Generator().manual_seed(seed)
    shape, numbers = SHAPE_PX[dims], torch.arange(ROWS)

    def rows(first: int, label: Tensor | None) -> Batch:
        image = torch.randn(ROWS, 1, *shape, generator=generator)
        return Batch(
            image=image, index=numbers + first, scan=numbers, subject=numbers, position=(numbers + 1) / ROWS,
            spacing_mm=torch.ones(ROWS, dims), label=label,
        )  # fmt: skip

    def some() -> Tensor:
        return torch.randint(0, CLASSES, (ROWS, *shape), generator=generator)

    known, unknown = rows(0, some()), rows(ROWS, None)
    return known._replace(unlabelled=unknown._replace(label=some()) if taught else unknown)


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`Semi` inherits from `lemis.contracts.Semi`, defines `forward`, and is made of (labelled, settings). The file
    says, as a plain value that can be read without running it, `DIMS = (2,)`, `(3,)` or `(2, 3)`; and `NETWORKS = 2`
    or `PSEUDO_LABELS = True` where it trains two networks, or its unlabelled rows have label maps of a teacher.
    """
    module = of_module(FOLDER, name)
    expect_class(module, "Semi", contracts.Semi, ("labelled", "settings"))
    said = plugins.describe(FOLDER, name)
    expect(bool(said.get("dims")), "no DIMS")
    expect(said["dims"] == module.DIMS, "DIMS changes when the file runs")
    expect(isinstance(said["dims"], tuple) and set(said["dims"]) <= {2, 3}, f"DIMS = {said['dims']}")
    for key, allowed in (("NETWORKS", (1, 2)), ("PSEUDO_LABELS", (False, True))):
        here = getattr(module, key, allowed[0])
        expect(here in allowed, f"{key} = {here}")
        expect(said.get(key.lower(), allowed[0]) == here, f"{key} is no plain value")


def the_class_is_final_and_the_file_cites_its_paper(name: str) -> None:
    """Nothing inherits from `Semi`: `@final`. The docstring of the file names the paper, its year and its address."""
    expect(getattr(of_module(FOLDER, name).Semi, "__final__", False), "Semi is not @final")
    expect_citation(FOLDER, name)


# ------------------------------------------------------------------------------------------------- one step


def all_of_the_network_in_training_gets_a_gradient(subject: Subject) -> None:
    """Early and late in training, losses are finite, and a finite gradient reaches every weight that asks for one,
    those of `labelled.backbone` among them. What follows it asks for none: `lemis.parts.momentum.follower`.
    """
    for progress in (0.0, LATE, 1.0):
        semi = subject.build()
        if progress:
            semi.after_step(progress)
        outcome = semi(subject.batch, Rows(0, 0, "cpu"))
        for key, loss in outcome.losses.items():
            expect(bool(torch.isfinite(loss)), f"{key} is not finite at {progress:g} of training")
        total(outcome).backward()
        for key, parameter in semi.named_parameters():
            if parameter.requires_grad:
                gradient = parameter.grad
                expect(gradient is not None, f"no gradient reaches {key} at {progress:g} of training")
                expect(gradient is not None and bool(torch.isfinite(gradient).all()), f"the gradient of {key}")
            else:
                expect(parameter.grad is None, f"{key} asks for no gradient and has one")
        student = list(semi.labelled.backbone.parameters())
        expect(all(parameter.requires_grad for parameter in student), "the network in training is not trained")
        expect(any(bool(p.grad.abs().max() > 0) for p in student if p.grad is not None), "its gradient is 0")


def it_says_how_many_networks_it_trains(subject: Subject) -> None:
    """A file that trains a second network, `labelled.another()`, says `NETWORKS = 2`; others need not say anything."""
    networks = [each for each in subject.build().modules() if isinstance(each, Backbone)]
    trained = sum(any(parameter.requires_grad for parameter in each.parameters()) for each in networks)
    said = getattr(subject.module, "NETWORKS", 1)
    expect(trained == said, f"{trained} networks are trained, and NETWORKS is {said}")


def labels_of_the_pool_are_not_read(subject: Subject) -> None:
    """Unlabelled rows that have a label all the same, one that no class has, give the same losses; but where the file
    says `PSEUDO_LABELS = True`, it is given label maps of a teacher.
    """
    if subject.is_taught:
        raise NotTried("its unlabelled rows have label maps of a teacher")
    found = []
    for poisoned in (False, True):
        here = subject.batch
        assert here.unlabelled is not None, "made so"
        if poisoned:
            label = torch.full_like(here.label if here.label is not None else here.index, 10**6)
            here = here._replace(unlabelled=here.unlabelled._replace(label=label))
        found.append(figures(_late(subject)(here, Rows(0, 0, "cpu"))))
    expect(found[0] == found[1], f"{told(found[0])}; with labels on the unlabelled rows: {told(found[1])}")


def label_maps_of_a_teacher_are_read(subject: Subject) -> None:
    """Where the file says `PSEUDO_LABELS = True`, other label maps on the unlabelled rows give other losses."""
    if not subject.is_taught:
        raise NotTried("it wants none")
    here = subject.batch
    assert here.unlabelled is not None, "made so"
    assert here.unlabelled.label is not None, "made so"
    others = here._replace(unlabelled=here.unlabelled._replace(label=here.unlabelled.label.flip(-1)))
    first, second = (figures(_late(subject)(each, Rows(0, 0, "cpu"))) for each in (here, others))
    expect(first != second, f"with other label maps too: {told(first)}")


def the_pool_is_looked_at(subject: Subject) -> None:
    """Other unlabelled images give other losses."""
    here = subject.batch
    assert here.unlabelled is not None, "made so"
    other = batch(subject.dims, seed=2).unlabelled
    assert other is not None, "made so"
    others = here._replace(unlabelled=here.unlabelled._replace(image=other.image))
    first, second = (figures(_late(subject)(each, Rows(0, 0, "cpu"))) for each in (here, others))
    expect(first != second, f"with other unlabelled images too: {told(first)}")


def without_weight_it_is_fine_tuning_on_labels(subject: Subject) -> None:
    """Where there is a setting `weight`, `weight=0` gives the losses, gradients and running statistics of fine-tuning
    without unlabelled rows, bit for bit: draw what is for the labelled rows first, and look at nothing else.
    """
    if "weight" not in known(subject.module, {"weight": 0}):
        raise NotTried("it has no setting weight")
    semi, plain = subject.build({"weight": 0.0}), objective(subject.dims)
    semi.after_step(LATE)
    outcome, expected = (each(subject.batch, Rows(0, 0, "cpu")) for each in (semi, plain))
    total(outcome).backward()
    total(expected).backward()
    same = {key: outcome.losses[key].item() for key in expected.losses} == figures(expected)
    expect(same, f"{told(figures(expected))} on labels alone; with weight=0: {told(figures(outcome))}")
    ours, theirs = semi.labelled.backbone, plain.backbone
    for (key, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        ours_of_it, theirs_of_it = one.grad, other.grad
        assert ours_of_it is not None, f"{key} is trained"
        assert theirs_of_it is not None, f"{key} is trained"
        expect(torch.equal(ours_of_it, theirs_of_it), f"another gradient of {key}")
    for (key, here), there in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        expect(torch.equal(here, there), f"another {key}")


def the_same_numbers_give_the_same_loss(subject: Subject) -> None:
    """Every random number comes from `rng`: the same seed and step give the same losses, bit for bit; another step
    gives others.
    """
    found = []
    for elsewhere, step in enumerate((5, 5, 6)):
        semi = _late(subject)
        torch.manual_seed(elsewhere)
        found.append(figures(semi(subject.batch, Rows(3, step, "cpu"))))
    first, again, other = found
    expect(first == again, f"twice with one seed and step: {told(first)}; {told(again)}")
    expect(first != other, "the next step has the same losses")


def the_order_of_pairs_does_not_matter(subject: Subject) -> None:
    """Rows 2j and 2j + 1 may belong to each other, and no others: pairs in another order give the same losses."""
    order = [2, 3, 0, 1]
    expected = figures(_late(subject)(subject.batch, Rows(0, 0, "cpu")))
    found = figures(_late(subject)(take(subject.batch, order), Reordered(Rows(0, 0, "cpu"), order)))
    same = alike(found, expected, relative=1e-3, absolute=1e-5)
    expect(same, f"{told(expected)}; with pairs in another order: {told(found)}")


def it_works_in_mixed_precision(subject: Subject) -> None:
    """Under autocast to bfloat16 the losses are float32 and finite, and so are gradients. Compute losses of
    `.float()`, or with `lemis.layers.basic.precise`.
    """
    semi = _late(subject)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = semi(subject.batch, Rows(0, 0, "cpu"))
    total(outcome).backward()
    odd = [key for key, loss in outcome.losses.items() if loss.dtype != torch.float32]
    expect(not odd, f"not float32: {names(odd)}")
    wild = [key for key, p in semi.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    expect(not wild, f"gradients that are not finite: {names(wild)}")


def it_goes_on_where_it_was(subject: Subject) -> None:
    """What it remembers is in its state: after two steps, one that was built anew and given the state goes on with the
    same losses and weights, bit for bit. Keep numbers that change as buffers.
    """
    first, second = subject.build(), subject.build()
    for step, progress in enumerate((0.2, LATE)):
        _step(first, subject.batch, step, progress)
    second.load_state_dict(first.state_dict())
    outcomes = [_step(each, subject.batch, 2, 0.9) for each in (first, second)]
    expect(outcomes[0] == outcomes[1], f"{told(outcomes[0])}; after it was built anew: {told(outcomes[1])}")
    for (key, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        expect(torch.equal(one, other), f"another {key}")


def what_predicts_is_a_network_of_its_own(subject: Subject) -> None:
    """`predicts` is one of its networks, with the weights by the names that `labelled.backbone` has."""
    semi = subject.build()
    expect(isinstance(semi.predicts, Backbone), "predicts is no network")
    expect(any(each is semi.predicts for each in semi.modules()), "predicts is not among its modules")
    expect(semi.predicts.state_dict().keys() == semi.labelled.backbone.state_dict().keys(), "weights by other names")


def _late(subject: Subject) -> contracts.Semi:
    """After steps in which student and teacher have come apart; what dropout draws next is always the same."""
    try:
        semi = copy.deepcopy(subject.apart)
    except RuntimeError:  # it holds on to tensors of a step, which have no copies
        semi = _apart(subject)
    torch.manual_seed(0)
    return semi


def _apart(subject: Subject) -> contracts.Semi:
    semi = subject.build()
    _step(semi, subject.batch, 0, 0.3)
    _step(semi, subject.batch, 1, LATE)
    for parameter in semi.parameters():
        parameter.grad = None
    return semi


def _step(semi: contracts.Semi, here: Batch, step: int, progress: float) -> dict[str, float]:
    trained = [p for p in semi.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    outcome = semi(here, Rows(0, step, "cpu"))
    total(outcome).backward()
    torch.optim.SGD(trained, lr=0.1).step()
    semi.after_step(progress)
    return figures(outcome)


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(subject: Subject, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change in three steps: losses, and what predicts after them."""
    semi = subject.build(layer)
    losses = [_step(semi, subject.batch, step, progress) for step, progress in enumerate((0.2, 0.4, 0.8))]
    kept = [value.double().sum().item() for value in semi.predicts.state_dict().values()]
    return losses, kept, [value.double().sum().item() for value in semi.state_dict().values()]


def setting_has_an_effect(subject: Subject, key: str) -> bool:
    """Whether other values of a setting change anything in three steps of fine-tuning."""
    base = subject.where.get(key, {})
    resolved = partial(subject.settings, base)
    return own_settings.has_an_effect(resolved, key, partial(fingerprint, subject), fingerprint(subject, base))


def every_setting_has_an_effect(subject: Subject) -> None:
    """Another value of each setting changes three steps of fine-tuning. One that acts only where another is set says so
    in the file: `CHECKED_WITH = {"decay": {"predicts": "teacher"}}`; one that acts at another time: `NOT_CHECKED =
    {"others": "why"}`. Delete a setting that does nothing.
    """
    expect_known(subject)
    own_settings.expect_effects(subject.module.Settings, partial(setting_has_an_effect, subject), subject.excused)


FILE = (the_file_has_its_names,)
FILE_OF_OURS = (the_class_is_final_and_the_file_cites_its_paper,)
STEP = (
    all_of_the_network_in_training_gets_a_gradient,
    it_says_how_many_networks_it_trains,
    labels_of_the_pool_are_not_read,
    label_maps_of_a_teacher_are_read,
    the_pool_is_looked_at,
    without_weight_it_is_fine_tuning_on_labels,
    the_same_numbers_give_the_same_loss,
    the_order_of_pairs_does_not_matter,
    it_works_in_mixed_precision,
    it_goes_on_where_it_was,
    what_predicts_is_a_network_of_its_own,
)
