"""Promises of every pre-training method. A file dropped into ``methods/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemis import contracts, plugins
from lemis.contracts import Batch, Draw, Outcome, Sampling, View
from lemis.sampling.draw import Rows
from lemis.sampling.samples import Slices, draw_batches
from lemis.settings import resolve
from lemis.training.loop import channels_last

METHODS = plugins.names("methods")
CASES = [(name, dims) for name in METHODS for dims in plugins.describe("methods", name)["dims"]]
SMALL = {
    "batch_size": 8,
    "per_scan": 4,
    "size_px": 64,
    "embedding": 16,
    "outputs": 64,
}  # what a method has of these is made small
VOLUMES = {"size_px": [16, 32, 32], "patch_px": 8}  # on networks of three dimensions instead
NARROW = {"base_width": 4, "keypoint_width": 16, "pairs": 1, "heads": 2}  # and what a network has of these

# What must be set for a setting to have an effect.
WHERE = {
    ("glcl", "local_from"): {"stages": "one after the other"},
    ("glcl", "decoder_blocks"): {"decoder_blocks": 2},  # the network has four
    ("pirl", "patch_share"): {"size_px": 128},  # in a view of 64 only one stride fits a cell
    ("sal", "same_slice"): {"geometry": "independent"},
    ("kaf", "iterations"): {"iterations": 3},  # after a hundred, more change nothing
    ("macl", "momentum"): {"encoder": "ema"},
    ("swav", "crop_px"): {"crops": 1, "crop_px": 32},
    ("caid", "distortion.cut_around_share"): {"distortion": {"p_cut_out": 0.0, "p_cut_around": 1.0, "p_shuffle": 0.0}},
    ("dira", "distortion.cut_around_share"): {"distortion": {"p_cut_out": 0.0, "p_cut_around": 1.0, "p_shuffle": 0.0}},
    ("dira", "adversarial_weight"): {"adversarial_from": 0.0},  # the adversary acts late by default
}
# Settings without an effect in these tests, and why.
INERT = {
    "spatial.tilt_row_degrees": "turns volumes only; these are slices",
    "spatial.tilt_column_degrees": "turns volumes only; these are slices",
    "transfer": "acts after the last step; tests/papers/test_desd.py",
}
# Methods whose loss has no value that means "knows nothing", and why.
WITHOUT_UNINFORMED = {
    "byol": "0 is reached by a constant answer, 4 by an untrained predictor",
    "simsiam": "-1 is reached by a constant answer, 0 by an untrained predictor",
    "simtriplet": "as simsiam",
}


def module_of(name: str) -> ModuleType:
    return plugins.load("methods", name)


def settings_of(name: str, *layers: Mapping[str, Any], dims: int = 2) -> Any:
    return resolve(module_of(name).Settings, known(module_of(name), SMALL, VOLUMES if dims == 3 else {}), *layers)


def known(module: ModuleType, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Of these settings those that the module has."""
    has = {field.name for field in dataclasses.fields(module.Settings)}
    return {key: value for layer in layers for key, value in layer.items() if key in has}


def build(name: str, *layers: Mapping[str, Any], dims: int = 2) -> contracts.Method:
    """A method on a narrow network; as in pre-training, only what it trains asks for a gradient."""
    torch.manual_seed(0)
    usual = "unet2d" if dims == 2 else "unet3d"
    module = plugins.load("backbones", getattr(module_of(name), "BACKBONES", [usual])[0])
    narrow = resolve(module.Settings, known(module, NARROW), {"levels": 5} if dims == 3 else {})
    network = module.Backbone(narrow, in_channels=1, num_classes=2)
    method: contracts.Method = module_of(name).Method(network, settings_of(name, *layers, dims=dims))
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(key) in method.trains)
    return method


def total(outcome: Outcome) -> Tensor:
    return torch.stack(list(outcome.losses.values())).sum()


def figures(outcome: Outcome) -> dict[str, float]:
    return {key: loss.item() for key, loss in outcome.losses.items()}


def own(method: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the method's own heads; not those of a network that follows the one in training."""
    return {key: p for key, p in method.named_parameters() if not key.startswith("backbone.") and p.requires_grad}


class Reordered:
    """A draw whose rows come in another order."""

    def __init__(self, inner: Draw, order: Sequence[int]) -> None:
        self.inner, self.order = inner, list(order)

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        assert rows == len(self.order), "one row of numbers per slice of the batch"
        return self.inner.uniform(rows, *shape, low=low, high=high)[self.order]

    def normal(self, rows: int, *shape: int) -> Tensor:
        assert rows == len(self.order), "one row of numbers per slice of the batch"
        return self.inner.normal(rows, *shape)[self.order]


def take(batch: Batch, order: Any) -> Batch:
    taken: Batch = apply_to_collection(batch, Tensor, itemgetter(order))
    return taken


# ------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", METHODS)
def test_the_file_has_the_three_names(name: str) -> None:
    module = module_of(name)
    defined = {
        key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
    }
    public = {key for key in defined if not key.startswith("_")}
    # Views that several papers share are defined in sampling/.
    assert {"Settings", "Method"} <= public <= {"Settings", "Views", "Method"}
    assert issubclass(module.Method, contracts.Method)
    assert module.Method.__final__
    assert module.Views.__final__


@pytest.mark.parametrize("name", METHODS)
def test_the_file_says_what_it_is_without_being_imported(name: str) -> None:
    said = plugins.describe("methods", name)
    assert set(said["dims"]) <= {2, 3}
    assert said["dims"]
    assert said["trains"]
    assert (said["dims"], said["trains"]) == (module_of(name).DIMS, module_of(name).TRAINS)
    cited = module_of(name).__doc__
    assert re.search(r"\b(19|20)\d\d\b", cited), "the year of the paper"
    assert re.search(r"https://\S+", cited), "its address"


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_views_are_views_and_the_same_numbers_give_the_same_ones(
    name: str, dims: int, batches: Mapping[int, Batch]
) -> None:
    batch, how = batches[dims], settings_of(name, dims=dims)
    drawn = [module_of(name).Views(how)(batch, Rows(1, 2, "cpu")) for _ in range(2)]
    assert all(isinstance(view, View) for view in drawn[0].values())
    for key, view in drawn[0].items():
        assert len(view.image) == len(batch.image)
        assert view.image.shape[2:] == view.geometry.shape
        assert torch.equal(view.image, drawn[1][key].image)
    other = module_of(name).Views(how)(batch, Rows(1, 3, "cpu"))
    assert any(not torch.equal(view.image, other[key].image) for key, view in drawn[0].items())


# ------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def batches(batch: Batch) -> dict[int, Batch]:
    """The batch of slices, and one of regions of volumes: two of each of two scans, of which one ends in them."""
    count = 4
    coarse = torch.randn(count, 1, 5, 10, 10, generator=torch.Generator().manual_seed(0))
    numbers, inside = torch.arange(count), torch.ones(count, 1, 20, 40, 40, dtype=torch.bool)
    inside[-2:, :, 12:] = False
    regions = Batch(
        image=nn.functional.interpolate(coarse, (20, 40, 40), mode="trilinear") * inside, index=numbers + 7,
        scan=numbers // 2, subject=numbers // 2, position=(numbers + 1) / count, spacing_mm=torch.ones(count, 3),
        inside=inside,
    )  # fmt: skip
    return {2: batch, 3: regions}


def train(
    name: str, dims: int, slices: Slices, batches: Mapping[int, Batch], steps: int = 4
) -> tuple[contracts.Method, list[dict[str, float]]]:
    method = build(name, dims=dims)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    rows = draw_batches(method.sampling, slices.scan, slices.subject, seed=3, epoch=0)
    rows = (rows * steps)[:steps]
    seen = []
    for step, each in enumerate(slices.stream(rows) if dims == 2 else [batches[3]] * steps):
        outcome = method(each, Rows(3, step, "cpu"))
        optimiser.zero_grad()
        total(outcome).backward()
        optimiser.step()
        method.after_step((step + 1) / steps)
        seen.append(figures(outcome))
    method.after_epoch(1.0)
    return method, seen


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_trains_with_finite_losses_and_the_same_seed_gives_the_same(
    name: str, dims: int, slices: Slices, batches: Mapping[int, Batch]
) -> None:
    before = build(name, dims=dims).state_dict()
    method, losses = train(name, dims, slices, batches)
    again, the_same = train(name, dims, slices, batches)
    assert all(np.isfinite(list(terms.values())).all() for terms in losses)
    assert losses == the_same
    for (key, a), b in zip(method.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert any(not torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_the_outcome_is_what_the_contract_says(name: str, dims: int, batches: Mapping[int, Batch]) -> None:
    outcome = build(name, dims=dims)(batches[dims], Rows(0, 0, "cpu"))
    assert outcome.losses
    assert all(loss.shape == () and loss.requires_grad for loss in outcome.losses.values())
    for z in outcome.embeddings.values():
        assert z.dim() == 2
        assert len(z) > 1
        assert not z.requires_grad
    assert set(outcome.uninformed) <= set(outcome.losses)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_a_gradient_reaches_what_it_trains_and_nothing_else(name: str, dims: int, batches: Mapping[int, Batch]) -> None:
    method = build(name, dims=dims)
    network: contracts.Backbone = method.backbone
    network.requires_grad_(True)
    assert tuple(method.trains) == module_of(name).TRAINS
    assert isinstance(method.sampling, Sampling)
    assert method.sampling.patch_px == (tuple(VOLUMES["size_px"]) if dims == 3 else None)
    total(method(batches[dims], Rows(0, 0, "cpu"))).backward()
    for key, parameter in own(method).items():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
    parts = set()
    for key, parameter in network.named_parameters():
        parts.add(network.part_of(key))
        if network.part_of(key) in method.trains:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None, key
    assert set(method.trains) <= parts


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_the_order_of_the_batch_does_not_matter(name: str, dims: int, batches: Mapping[int, Batch]) -> None:
    # Scans are shuffled into each other; slices of one scan keep their order, since the first one may lead.
    batch = batches[dims]
    count = len(batch.image)
    order = [row for pair in zip(range(count // 2, count), range(count // 2), strict=True) for row in pair]
    method = build(name, dims=dims)
    expected = figures(method(batch, Rows(0, 0, "cpu")))
    method = build(name, dims=dims)
    reordered = figures(method(take(batch, order), Reordered(Rows(0, 0, "cpu"), order)))
    assert reordered == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_a_network_that_knows_nothing_reaches_the_uninformed_values(
    name: str, dims: int, batches: Mapping[int, Batch]
) -> None:
    method = build(name, dims=dims)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.zero_()
    outcome = method(batches[dims], Rows(0, 0, "cpu"))
    assert bool(outcome.uninformed) != (name in WITHOUT_UNINFORMED), "by them the loop sees that nothing is learned"
    for key, value in outcome.uninformed.items():
        assert outcome.losses[key].item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_mixed_precision_and_channels_last(name: str, dims: int, batches: Mapping[int, Batch]) -> None:
    batch, method = batches[dims], build(name, dims=dims)
    expected = figures(method(batch, Rows(0, 0, "cpu")))
    method = channels_last(build(name, dims=dims))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = method(batch, Rows(0, 0, "cpu"))
    total(outcome).backward()
    assert all(loss.dtype == torch.float32 for loss in outcome.losses.values())
    assert figures(outcome) == pytest.approx(expected, rel=0.2, abs=0.02)  # a cosine may be near 0


# ------------------------------------------------------------------------------------------------ settings


def leaves(cls: Any, prefix: str = "") -> Iterator[str]:
    """Names of all settings, those of nested classes with a dot."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def fingerprint(name: str, layer: Mapping[str, Any], batch: Batch) -> tuple[Any, ...]:
    """Everything that a setting could change: sampling, sizes, views, losses, gradients, running statistics, and what
    follows the network in training."""
    method = build(name, layer)
    method.after_step(0.3)
    views = method.views(batch, Rows(0, 0, "cpu"))
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


@pytest.fixture(scope="module")
def unchanged() -> Callable[..., tuple[Any, ...]]:
    """``fingerprint``, computed once for the same settings."""
    found: dict[str, tuple[Any, ...]] = {}

    def of(name: str, layer: Mapping[str, Any], batch: Batch) -> tuple[Any, ...]:
        key = f"{name} {layer}"
        if key not in found:
            found[key] = fingerprint(name, layer, batch)
        return found[key]

    return of


@pytest.mark.slow  # one small training step for each of several hundred values
@pytest.mark.parametrize(("name", "key"), [(name, key) for name in METHODS for key in leaves(module_of(name).Settings)])
def test_every_setting_has_an_effect(
    name: str, key: str, batch: Batch, unchanged: Callable[..., tuple[Any, ...]], changed: Callable[..., Any]
) -> None:
    base = WHERE.get((name, key), {})
    before = unchanged(name, base, batch)
    effect = any(fingerprint(name, layer, batch) != before for layer in changed(partial(settings_of, name, base), key))
    assert effect != (key in INERT), INERT.get(key, f"{key} changes nothing")


TILTS = [(name, key) for name, dims in CASES if dims == 3 for key in leaves(module_of(name).Settings) if "tilt" in key]


@pytest.mark.parametrize(("name", "key"), TILTS)
def test_what_has_no_effect_on_slices_turns_volumes(
    name: str, key: str, batches: Mapping[int, Batch], changed: Callable[..., Any]
) -> None:
    base = known(module_of(name), VOLUMES)
    layers = [base, *changed(partial(settings_of, name, base), key)]
    drawn = [module_of(name).Views(settings_of(name, layer))(batches[3], Rows(0, 0, "cpu")) for layer in layers]
    first, *others = (next(iter(views.values())).image for views in drawn)
    assert others
    assert all(not torch.equal(first, other) for other in others)


# ------------------------------------------------------------------------------------------ many processes

LAYERS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
LAYERS += [
    ("gcl", {"form": "domain"}),
    ("glcl", {"stages": "one after the other"}),
    ("glcl", {"stages": "one after the other", "local_from": 1.0}),
    ("contrastive_crop", {"refresh_every": 1.0}),
    ("sal", {"geometry": "independent", "centring": "batch", "same_slice": True, "stop_gradient": True}),
    ("sal", {"alignment_weight": 0.0}),
    ("pcl", {"views_together": False}),
    ("macl", {"form": "article", "encoder": "independent", "photometric": "released"}),
    ("macl", {"weight_global": 0.0, "weight_dense": 0.0}),
    ("dira", {"adversarial_from": 0.0, "adversarial_weight": 1.0}),
    ("swin_unetr_ssl", {"read": "places"}),
]


def step(name: str, layer: Mapping[str, Any], batch: Batch, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Losses and gradients of one step in float64; a process of several sees its share of the rows."""
    method = build(name, layer).double()
    method.after_step(0.5)
    model = DistributedDataParallel(method) if world > 1 else method
    batch = apply_to_collection(batch, Tensor, lambda x: x.double() if x.is_floating_point() else x)
    size = len(batch.image) // world
    outcome = model(take(batch, slice(rank * size, (rank + 1) * size)), Rows(5, 7, "cpu", rank, world))
    total(outcome).backward()
    found = {f"loss {key}": loss.detach() for key, loss in outcome.losses.items()}
    found |= {f"gradient {key}": p.grad for key, p in method.named_parameters() if p.grad is not None}
    return found | {f"buffer {key}": b for key, b in method.named_buffers()}


def saved(batch: Batch) -> dict[str, Any]:
    """A batch as plain types, its neighbours too."""
    return {key: saved(value) if isinstance(value, Batch) else value for key, value in batch._asdict().items()}


def unsaved(fields: Mapping[str, Any]) -> Batch:
    return Batch(**{key: unsaved(value) if isinstance(value, dict) else value for key, value in fields.items()})


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    batch = unsaved(torch.load(f"{folder}/batch.pt", weights_only=True))
    torch.save([step(name, layer, batch, rank, world) for name, layer in LAYERS], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def uneven(slices: Slices) -> Batch:
    """Scans of 3, 3 and 2 slices, each with the next one: the border between two processes lies inside a scan."""
    rows = np.concatenate([np.flatnonzero(slices.scan == scan)[:count] for scan, count in ((0, 3), (2, 3), (3, 2))])
    return next(slices.stream([np.stack([rows, rows + 1], axis=1)]))


@pytest.fixture(scope="module")
def of_two(uneven: Batch, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.save(saved(uneven), folder / "batch.pt")
    mp.spawn(work, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(LAYERS)), ids=lambda case: f"{LAYERS[case][0]} {LAYERS[case][1] or ''}")
def test_two_processes_equal_one(case: int, uneven: Batch, of_two: list[list[dict[str, Tensor]]]) -> None:
    expected = step(*LAYERS[case], uneven)
    first, second = (found[case] for found in of_two)
    assert first.keys() == second.keys() == expected.keys()
    for key, value in expected.items():
        got = (first[key] + second[key]) / 2 if key.startswith("loss") else first[key]
        torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")
