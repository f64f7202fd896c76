"""Promises of a method and a network together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lemis import contracts, plugins
from lemis.contracts import Batch
from lemis.prediction.padding import padded_logits
from lemis.promises.material import total
from lemis.promises.trying import expect, known, names
from lemis.sampling.draw import Rows
from lemis.training import pairing, run_settings
from lemis.training.transfer import transfer


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A method on a network.

    Args:
        method: File name, or a dotted name.
        backbone: File name, or a dotted name.
        dims: Of the network.
        batch: What the method sees.
        needs: Settings of the method other than those of the preset ``tiny``.
        network: Settings of the network, likewise.
    """

    method: str
    backbone: str
    dims: int
    batch: Batch
    needs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def settings(self) -> run_settings.Pretraining:
        """Those of the tiny preset, with views that the coarsest network takes; FCN has keypoint layers."""
        several = len(_dims_of(self.backbone)) > 1
        volumes = [32, 64, 64] if several else [16, 32, 32]
        module = plugins.load("methods", self.method)
        usual = known(module, {"size_px": 64 if self.dims == 2 else volumes})
        given: dict[str, Any] = {"method": usual | dict(self.needs)}
        if self.backbone == "fcn":
            given["backbone"] = {"levels": [1, 2, 3, 4]}
        if several:
            given["backbone"] = {"dims": self.dims, **self.network}
        return run_settings.pretraining(self.method, self.backbone, run_settings.base("tiny", None), given)


def _dims_of(backbone: str) -> tuple[int, ...]:
    dims: tuple[int, ...] = plugins.describe("backbones", backbone)["dims"]
    return dims


def of_method(name: str) -> list[tuple[str, str, int]]:
    """A method, each network of ours that it works on, and its dimensions there."""
    dims = plugins.describe("methods", name)["dims"]
    return [(name, backbone, d) for backbone in pairing.backbones_of(name) for d in _dims_of(backbone) if d in dims]


def of_backbone(name: str) -> list[tuple[str, str, int]]:
    """One method of ours that trains an encoder, and one that trains a decoder, on a network of each dimension."""
    return [(method, name, d) for method in ("simclr", "models_genesis") for d in _dims_of(name)]


def it_trains_a_network_and_hands_its_weights_on(pair: Pair) -> None:
    """In one step of pre-training with the preset `tiny` every weight that is trained gets a finite gradient and the
    network changes; what was trained is handed on to a new network, bit for bit, which predicts.
    """
    settings, batch = pair.settings(), pair.batch
    network = _network(settings, 0)
    method = settings.method_module.Method(network, settings.method_settings)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(key) in method.trains)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    total(method(batch, Rows(0, 0, "cpu"))).backward()
    trained = {key: p for key, p in network.named_parameters() if p.requires_grad}
    parts = {network.part_of(key) for key in trained}
    expect("encoder" in parts, "the encoder is not trained")
    missed = [key for key, p in trained.items() if p.grad is None]
    expect(not missed, f"no gradient reaches {names(missed)}, which would stop several processes")
    wild = [key for key, p in trained.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    expect(not wild, f"gradients that are not finite: {names(wild)}")
    torch.optim.SGD(trained.values(), lr=0.1).step()
    expect(any(not torch.equal(value, before[key]) for key, value in network.state_dict().items()), "no weight changed")

    fresh = _network(settings, 1)
    rows = transfer(fresh, network.state_dict(), tuple(method.trains), Path("run"))
    left = parts - {row.part for row in rows if row.loaded}
    expect(not left, f"not handed on: {names(left)}")
    differ = [
        key for key, value in fresh.state_dict().items()
        if fresh.part_of(key) in parts and not torch.equal(value, network.state_dict()[key])
    ]  # fmt: skip
    expect(not differ, f"handed on, and another: {names(differ)}")
    with torch.no_grad():
        logits = padded_logits(fresh.eval(), batch.image[:2], None)
    expect(logits.shape == (2, 3, *batch.image.shape[2:]), f"logits have the shape {tuple(logits.shape)}")
    expect(bool(torch.isfinite(logits).all()), "logits are not finite")


def _network(settings: run_settings.Pretraining, seed: int) -> contracts.Backbone:
    torch.manual_seed(seed)
    module = plugins.load("backbones", settings.backbone)
    network: contracts.Backbone = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=3)
    return network
