"""Promises of every auxiliary loss. A file dropped into ``auxiliary/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemis import contracts, plugins
from lemis.contracts import Draw, Outcome
from lemis.errors import UsageError
from lemis.sampling.draw import Rows
from lemis.settings import resolve

AUXILIARIES = plugins.names("auxiliary")
NETWORKS = ("unet2d", "unet3d")
ROWS, SIDE, CLASSES = 4, 32, 4
SMALL = {"hidden": 8, "voxels": 60, "false_negatives": 30, "negatives": 50}  # what a loss has of these is made small
ALL = {"voxels": 10**6, "false_negatives": 10**6, "negatives": 10**6}

# What must be set for a setting to have an effect.
WHERE: dict[tuple[str, str], dict[str, Any]] = {
    ("supervised_contrast", "others"): {"negatives": 20},
}
# Settings without an effect in these tests, and why.
INERT: dict[tuple[str, str], str] = {}


def module_of(name: str) -> ModuleType:
    return plugins.load("auxiliary", name)


def settings_of(name: str, *layers: Mapping[str, Any]) -> Any:
    cls = module_of(name).Settings
    has = {field.name for field in dataclasses.fields(cls)}
    given = [{key: value for key, value in layer.items() if key in has} for layer in (SMALL, *layers)]
    return resolve(cls, *given)


class Both(nn.Module):
    """A network and the loss beside it, as fine-tuning has them; it keeps the maps."""

    def __init__(self, name: str, network: str = "unet2d", *layers: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        module = plugins.load("backbones", network)
        narrow = resolve(module.Settings, {"base_width": 4})
        self.backbone = module.Backbone(narrow, in_channels=1, num_classes=CLASSES)
        self.auxiliary = module_of(name).Auxiliary(self.backbone, settings_of(name, *layers), num_classes=CLASSES)
        for key, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self.backbone.part_of(key) == "encoder")  # the loss has no say on the others
        self.maps: list[Tensor] = []

    def forward(self, image: Tensor, label: Tensor, rng: Draw) -> Outcome:
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
    space = (SIDE, SIDE) if network == "unet2d" else (SIDE, SIDE // 2, SIDE // 2)
    image = torch.randn(ROWS, 1, *space, generator=generator)
    label = torch.randint(0, CLASSES, (ROWS, *space), generator=generator)
    if kind == "no foreground":
        label.zero_()
    if kind == "half without":
        label[ROWS // 2 :] = 0
    return image, label


def total(outcome: Outcome) -> Tensor:
    return torch.stack(list(outcome.losses.values())).sum()


def figures(outcome: Outcome) -> dict[str, float]:
    return {key: loss.item() for key, loss in outcome.losses.items()}


class Reordered:
    """A draw whose rows come in another order."""

    def __init__(self, inner: Draw, order: Sequence[int]) -> None:
        self.inner, self.order = inner, list(order)

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        assert rows == len(self.order), "one row of numbers per row of the batch"
        return self.inner.uniform(rows, *shape, low=low, high=high)[self.order]

    def normal(self, rows: int, *shape: int) -> Tensor:
        assert rows == len(self.order), "one row of numbers per row of the batch"
        return self.inner.normal(rows, *shape)[self.order]


# ------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_file_has_its_names(name: str) -> None:
    module = module_of(name)
    assert issubclass(module.Auxiliary, contracts.Auxiliary)
    assert module.Auxiliary.__final__
    parameters = inspect.signature(module.Auxiliary).parameters
    assert list(parameters) == ["backbone", "settings", "num_classes"]
    assert parameters["num_classes"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_file_says_what_it_is_without_being_imported(name: str) -> None:
    said = plugins.describe("auxiliary", name)
    assert set(said["dims"]) <= {2, 3}
    assert said["dims"] == module_of(name).DIMS
    assert re.search(r"\b(19|20)\d\d\b", said["title"]), "the year of the paper"
    assert re.search(r"https://\S+", said["title"]), "its address"


# ------------------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", AUXILIARIES)
def test_finite_losses_and_gradients(name: str, network: str) -> None:
    both = Both(name, network)
    outcome = both(*batch(network), Rows(0, 0, "cpu"))
    assert outcome.losses
    assert all(loss.shape == () and loss.requires_grad for loss in outcome.losses.values())
    assert set(outcome.uninformed) <= set(outcome.losses)
    for z in outcome.embeddings.values():
        assert z.dim() == 2
        assert len(z) > 1
        assert not z.requires_grad
    total(outcome).backward()
    assert torch.isfinite(total(outcome))
    for key, parameter in (*both.auxiliary.named_parameters(), *both.backbone.encoder.named_parameters()):
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
    assert both.maps[-1].grad is not None
    assert both.maps[-1].grad.abs().max() > 0
    assert any(p.grad.abs().max() > 0 for p in both.auxiliary.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_network_is_no_part_of_it(name: str) -> None:
    both = Both(name)
    own = {id(parameter) for parameter in both.auxiliary.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in both.backbone.parameters())
    assert all(p.grad is None for key, p in both.backbone.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", AUXILIARIES)
def test_nothing_to_compare_is_zero_with_a_gradient(name: str, network: str) -> None:
    both = Both(name, network)
    outcome = both(*batch(network, "no foreground"), Rows(0, 0, "cpu"))
    assert figures(outcome) == dict.fromkeys(outcome.losses, 0.0)
    total(outcome).backward()
    for key, parameter in both.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() == 0, key


@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_same_numbers_give_the_same_loss(name: str) -> None:
    first, again, other = (figures(Both(name)(*batch(), Rows(3, step, "cpu"))) for step in (5, 5, 6))
    assert first == again
    assert first != other, "which voxels are taken is drawn"


@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    order = [2, 0, 3, 1]
    image, label = batch()
    expected = figures(Both(name)(image, label, Rows(0, 0, "cpu")))
    reordered = figures(Both(name)(image[order], label[order], Reordered(Rows(0, 0, "cpu"), order)))
    assert reordered == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", AUXILIARIES)
def test_mixed_precision(name: str, network: str) -> None:
    both = Both(name, network, ALL)
    expected = figures(both(*batch(network), Rows(0, 0, "cpu")))
    both = Both(name, network, ALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = both(*batch(network), Rows(0, 0, "cpu"))
    total(outcome).backward()
    assert all(loss.dtype == torch.float32 for loss in outcome.losses.values())
    assert figures(outcome) == pytest.approx(expected, rel=0.05, abs=0.1)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in both.parameters())


@pytest.mark.parametrize("name", AUXILIARIES)
def test_more_layers_than_maps_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"auxiliary\.layers=9\n.*1 to 5"):
        Both(name, "unet2d", {"layers": 9})


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(name: str, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change: sizes, losses, gradients."""
    both = Both(name, "unet2d", layer)
    outcome = both(*batch(), Rows(0, 0, "cpu"))
    total(outcome).backward()
    return (
        [tuple(p.shape) for p in both.parameters()],
        figures(outcome),
        outcome.uninformed,
        [None if p.grad is None else p.grad.double().abs().sum().item() for p in both.parameters()],
    )


SETTINGS = [(name, field.name) for name in AUXILIARIES for field in dataclasses.fields(module_of(name).Settings)]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str, changed: Callable[..., Any]) -> None:
    base = WHERE.get((name, key), {})
    before = fingerprint(name, base)
    effects = []
    for layer in changed(partial(settings_of, name, base), key):
        try:
            effects.append(fingerprint(name, layer) != before)
        except UsageError:  # more layers than the network has
            continue
    assert any(effects) != ((name, key) in INERT), INERT.get((name, key), f"{key} changes nothing")


# ------------------------------------------------------------------------------------------ many processes

CASES: list[tuple[str, str, dict[str, Any], str]] = [
    (name, network, layer, kind)
    for name in AUXILIARIES
    for network, layer, kind in (
        ("unet3d", {}, "random"),
        ("unet2d", ALL, "half without"),  # one process has no foreground
        ("unet2d", {"background": True, "voxels": 40}, "half without"),
        ("unet2d", {"counted": "batch", "with_itself": False, "class_weight": "inverse"}, "random"),
        (
            "unet2d",
            {"over_classes": "mean", "others": False, "negatives_from": "organs", "head": "mlp"},
            "half without",
        ),
        ("unet3d", {}, "no foreground"),
    )
]


def step(
    name: str, network: str, layer: Mapping[str, Any], kind: str, rank: int = 0, world: int = 1
) -> dict[str, Tensor]:
    """Losses and gradients of one step in float64; a process of several sees its share of the rows."""
    both = Both(name, network, layer).double()
    model = DistributedDataParallel(both) if world > 1 else both
    image, label = batch(network, kind)
    here = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    outcome = model(image[here].double(), label[here], Rows(5, 7, "cpu", rank, world))
    total(outcome).backward()
    found = {f"loss {key}": loss.detach() for key, loss in outcome.losses.items()}
    found |= {f"gradient {key}": p.grad for key, p in both.named_parameters() if p.grad is not None}
    found |= {f"embedding {key}": z for key, z in outcome.embeddings.items()}
    return found | {f"buffer {key}": b for key, b in both.named_buffers()}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save([step(*case, rank, world) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: "-".join(map(str, CASES[case])))
def test_two_processes_equal_one(case: int, of_two: list[list[dict[str, Tensor]]]) -> None:
    expected = step(*CASES[case])
    for found in of_two:
        assert found[case].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                found[case][key], value, rtol=1e-6, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
            )
