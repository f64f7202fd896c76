"""Promises of every segmentation network. A file dropped into ``backbones/`` is tested here without being named."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lemis import contracts, plugins
from lemis.errors import UsageError
from lemis.settings import plain, resolve

BACKBONES = plugins.names("backbones")
SLOW = {("swin_unetr", 3)}  # its smallest volume that is not a cube has 200,000 voxels
CASES = [
    pytest.param((name, dims), id=f"{name}-{dims}d", marks=[pytest.mark.slow] if (name, dims) in SLOW else [])
    for name in BACKBONES
    for dims in plugins.describe("backbones", name)["dims"]
]
SMALL = {
    "base_width": 4, "pairs": 1, "keypoint_width": 16,
    "feature_size": 12, "embedding": 12, "window": 3, "drop_path": 0.0,
}  # what a network has of these is made small; dropped paths would be others in every pass  # fmt: skip
CLASSES = 3


def module_of(name: str) -> ModuleType:
    return plugins.load("backbones", name)


def build(case: tuple[str, int], in_channels: int = 1, seed: int = 0) -> contracts.Backbone:
    name, dims = case
    cls = module_of(name).Settings
    has = {field.name for field in dataclasses.fields(cls)}
    torch.manual_seed(seed)
    settings = resolve(cls, {key: value for key, value in {**SMALL, "dims": dims}.items() if key in has})
    network: contracts.Backbone = module_of(name).Backbone(settings, in_channels=in_channels, num_classes=CLASSES)
    return network


def image(network: contracts.Backbone, rows: int = 2, channels: int = 1, seed: int = 0) -> Tensor:
    """Sides that differ, and hold two cells of the coarsest map at least."""
    times = (2, 3) if network.dims == 2 else (1, 2, 3)
    sides = [many * max(network.strides) for many in times]
    return torch.randn(rows, channels, *sides, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_file_has_its_names(name: str) -> None:
    module = module_of(name)
    defined = {
        key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
    }
    assert {key for key in defined if not key.startswith("_")} == {"Settings", "Backbone"}
    assert issubclass(module.Backbone, contracts.Backbone)
    assert module.Backbone.__final__
    assert plugins.describe("backbones", name)["dims"] == module.DIMS
    assert "https://" in module.__doc__
    assert all(field.kw_only for field in dataclasses.fields(module.Settings))
    assert resolve(module.Settings, plain(module.Settings())) == module.Settings()
    assert all(row["note"] for row in plugins.settings_of("backbones", name)), "each default says where it is from"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_channels_and_strides_tell_the_truth(case: tuple[str, int], channels: int) -> None:
    network = build(case, channels)
    assert network.dims == case[1]
    x = image(network, channels=channels)
    maps = network.encode(x)
    assert len(maps) == len(network.channels) == len(network.strides)
    for features, width, stride in zip(maps, network.channels, network.strides, strict=True):
        assert features.shape == (2, width, *(side // stride for side in x.shape[2:]))
    blocks = list(zip(network.decoder_channels, network.decoder_strides, strict=True))
    for depth, (width, stride) in enumerate(blocks, start=1):
        assert network.decode(maps, depth).shape == (2, width, *(side // stride for side in x.shape[2:]))
    assert torch.equal(network.decode(maps), network.decode(maps, len(blocks)))
    assert torch.equal(network.decode(maps, 0), maps[-1])
    assert list(network.strides) == sorted(network.strides), "finest first"
    assert list(network.decoder_strides) == sorted(network.decoder_strides, reverse=True), "deepest first"


@pytest.mark.parametrize("case", CASES)
def test_logits_have_the_inputs_size(case: tuple[str, int]) -> None:
    network = build(case)
    x = image(network)
    assert network(x).shape == (2, CLASSES, *x.shape[2:])


@pytest.mark.parametrize("case", CASES)
def test_odd_sizes_work_or_say_the_cure(case: tuple[str, int]) -> None:
    network = build(case)
    x = image(network)[..., :-1]
    try:
        logits = network(x)
    except UsageError as error:
        message = error
    else:
        assert logits.shape[2:] == x.shape[2:]
        return
    cured = [int(word) for word in message.next.replace(".", " ").split() if word.isdigit()]
    assert str(x.shape[-1]) in message.given
    assert len(cured) == network.dims, f"the sizes that would work: {message.next}"
    assert network(torch.zeros(2, 1, *cured)).shape[2:] == tuple(cured)


@pytest.mark.parametrize("case", CASES)
def test_part_of_covers_every_key(case: tuple[str, int]) -> None:
    network = build(case)
    allowed = {"encoder", "head", *(f"decoder {n + 1}" for n in range(len(network.decoder_channels)))}
    parts = {key: network.part_of(key) for key in network.state_dict()}
    assert set(parts.values()) == allowed


@pytest.mark.parametrize("case", CASES)
def test_parts_are_where_the_gradient_goes(case: tuple[str, int]) -> None:
    network = build(case)
    depths = range(len(network.decoder_channels) + 1)
    for depth in depths:
        network.zero_grad(set_to_none=True)
        network.decode(network.encode(image(network)), depth).square().sum().backward()
        reached = {network.part_of(key) for key, p in network.named_parameters() if p.grad is not None}
        assert reached == {"encoder", *(f"decoder {n + 1}" for n in range(depth))}
        missed = [key for key, p in network.named_parameters() if network.part_of(key) in reached and p.grad is None]
        assert not missed


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: tuple[str, int]) -> None:
    # A ReLU may be off for a whole image, and a gate of attention shut: of several draws of the weights, one opens.
    idle = None
    for seed in range(6):
        network = build(case, seed=seed)
        network(image(network)).square().sum().backward()
        here = {key for key, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
        idle = here if idle is None else idle & here
        if not idle:
            return
    raise AssertionError(f"no gradient, whatever the weights: {sorted(idle or ())}")


@pytest.mark.parametrize("case", CASES)
def test_weights_survive_save_and_load(case: tuple[str, int], tmp_path: Path) -> None:
    network, other = build(case).eval(), build(case, seed=1).eval()
    x = image(network)
    network.train()(x)  # moves the running statistics away from their start
    network.eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(network(x), other(x))


@pytest.mark.parametrize("case", CASES)
def test_predictions_do_not_depend_on_batch_mates(case: tuple[str, int]) -> None:
    network = build(case)
    network(image(network, 4))
    network.eval()
    x = image(network, 3)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_channels_last_and_bf16(case: tuple[str, int]) -> None:
    network = build(case)
    x = image(network)
    expected = network(x)
    layout: Any = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    other = copy.deepcopy(build(case)).to(memory_format=layout)
    torch.testing.assert_close(other(x.to(memory_format=layout)), expected, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = other(x.to(memory_format=layout))
    if network.dims == 2:  # in 3D, oneDNN's bfloat16 gradient of a kernel is garbage where a map is two voxels deep
        half.float().square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in other.parameters() if p.grad is not None)
    # Compared in evaluation: batch statistics of the few keypoints of such small images magnify rounding.
    network, other = network.eval(), other.eval()
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = other(x.to(memory_format=layout))
    assert (half.float() - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_draws_the_same_weights(case: tuple[str, int]) -> None:
    for a, b in zip(build(case).state_dict().values(), build(case).state_dict().values(), strict=True):
        assert torch.equal(a, b)
