"""Every method on every network that it says it works on: one step, and its weights fine-tune the same network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lemis import contracts, plugins
from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.prediction.padding import padded_logits
from lemis.sampling.draw import Rows
from lemis.training import pairing, run_settings
from lemis.training.transfer import transfer

PAIRS = [(method, name) for method in plugins.names("methods") for name in pairing.backbones_of(method)]
CASES = [
    (method, name, dims)
    for method, name in PAIRS
    for dims in plugins.describe("backbones", name)["dims"] if dims in plugins.describe("methods", method)["dims"]
]  # fmt: skip


# What a method or a pair needs other than the tiny preset, as its message says when it has not got it.
NEEDS: dict[Any, dict[str, Any]] = {
    "macl": {"size_px": 128},
    "pirl": {"size_px": 96},
    ("macl", "swin_unetr"): {"size_px": 256},
    ("pirl", "swin_unetr"): {"size_px": 192},
    ("glcl", "fcn"): {"decoder_blocks": 2},
}
WITH_DIMS = [name for name in plugins.names("backbones") if len(plugins.describe("backbones", name)["dims"]) > 1]


@pytest.fixture(scope="module")
def volumes() -> Batch:
    """Regions of four scans."""
    numbers = torch.arange(4)
    coarse = torch.randn(4, 1, 6, 12, 12, generator=torch.Generator().manual_seed(0))
    return Batch(
        image=torch.nn.functional.interpolate(coarse, (20, 40, 40), mode="trilinear"), index=numbers, scan=numbers,
        subject=numbers, position=(numbers + 1) / 4, spacing_mm=torch.ones(4, 3),
    )  # fmt: skip


def settings_of(method: str, backbone: str, dims: int) -> run_settings.Pretraining:
    """Those of the tiny preset, with views that the coarsest network takes; FCN has keypoint layers."""
    has = {field.name for field in dataclasses.fields(plugins.load("methods", method).Settings)}
    volumes = [32, 64, 64] if backbone in WITH_DIMS else [16, 32, 32]
    usual = {"size_px": 64 if dims == 2 else volumes} if "size_px" in has else {}
    given: dict[str, Any] = {"method": usual | NEEDS.get(method, {}) | NEEDS.get((method, backbone), {})}
    if backbone == "fcn":
        given["backbone"] = {"levels": [1, 2, 3, 4]}
    if backbone in WITH_DIMS:
        given["backbone"] = {"dims": dims}
    return run_settings.pretraining(method, backbone, run_settings.base("tiny", None), given)


def network_of(settings: run_settings.Pretraining, seed: int) -> contracts.Backbone:
    torch.manual_seed(seed)
    module = plugins.load("backbones", settings.backbone)
    network: contracts.Backbone = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=3)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone", "dims"), CASES)
def test_a_method_trains_a_network_and_its_weights_fine_tune_it(
    name: str, backbone: str, dims: int, batch: Batch, volumes: Batch
) -> None:
    settings = settings_of(name, backbone, dims)
    network = network_of(settings, 0)
    batch = batch if dims == 2 else volumes
    method = settings.method_module.Method(network, settings.method_settings)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(key) in method.trains)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    outcome = method(batch, Rows(0, 0, "cpu"))
    torch.stack(list(outcome.losses.values())).sum().backward()
    trained = {key: p for key, p in network.named_parameters() if p.requires_grad}
    parts = {network.part_of(key) for key in trained}
    assert "encoder" in parts
    for key, parameter in trained.items():
        assert parameter.grad is not None, f"{key} would stop several processes"
        assert torch.isfinite(parameter.grad).all(), key
    torch.optim.SGD(trained.values(), lr=0.1).step()
    assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())

    fresh = network_of(settings, 1)
    rows = transfer(fresh, network.state_dict(), tuple(method.trains), Path("run"))
    assert {row.part for row in rows if row.loaded} >= parts
    for key, value in fresh.state_dict().items():
        if fresh.part_of(key) in parts:
            assert torch.equal(value, network.state_dict()[key]), key
    with torch.no_grad():
        logits = padded_logits(fresh.eval(), batch.image[:2], None)
    assert logits.shape == (2, 3, *batch.image.shape[2:])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_a_wrong_pair_is_refused_with_the_right_ones(method: str) -> None:
    right = pairing.backbones_of(method)
    assert right
    every = [
        (name, dims) for name in plugins.names("backbones") for dims in plugins.describe("backbones", name)["dims"]
    ]
    wrong = [(name, dims) for name, dims in every if (method, name, dims) not in CASES]
    assert bool(wrong) == (len(right) < len({name for name, _ in every}))
    for name, dims in wrong:
        with pytest.raises(UsageError, match=f"{method} on the network {name}") as error:
            pairing.refuse_pair(method, name, dims)
        assert all(one in error.value.allowed for one in right)


def test_a_method_of_slices_is_refused_on_networks_of_volumes() -> None:
    with pytest.raises(UsageError, match="sal on the network unet3d") as error:
        run_settings.pretraining("sal", "unet3d", run_settings.base("tiny", None), {})
    assert "unet2d" in error.value.allowed
    with pytest.raises(UsageError, match="sal on the network swin_unetr, of 3 dimensions") as error:
        run_settings.pretraining("sal", "swin_unetr", run_settings.base("tiny", None), {"backbone": {"dims": 3}})
    assert all(name in error.value.allowed for name in ("pcl", "simclr", "rotation", "mae", "models_genesis"))
    assert (
        run_settings.pretraining("sal", "swin_unetr", run_settings.base("tiny", None), {}).backbone_settings.dims == 2
    )
