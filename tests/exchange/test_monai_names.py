"""Weights of MONAI's SwinUNETR become those of ``swin_unetr`` and back, and the logits stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import lemis
from lemis.backbones import swin_unetr
from lemis.exchange import incoming, monai_names
from lemis.exchange.incoming import Found
from lemis.prediction.loaded import load

SIZE = {"depths": (1, 1, 1, 1), "window_size": 2}
SETTINGS = swin_unetr.Settings(dims=2, feature_size=12, depths=(1, 1, 1, 1), window=2)


def theirs(seed: int, classes: int = 3, dims: int = 2) -> torch.nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    torch.manual_seed(seed)
    return SwinUNETR(
        in_channels=1, out_channels=classes, feature_size=12, num_heads=(3, 6, 12, 24), spatial_dims=dims, **SIZE
    ).eval()


def ours(seed: int, classes: int = 3) -> swin_unetr.Backbone:
    torch.manual_seed(seed)
    return swin_unetr.Backbone(SETTINGS, in_channels=1, num_classes=classes).eval()


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return incoming._renamed(weights, monai_names.RULES, Path("theirs.pt"))


def test_every_name_has_a_counterpart_and_logits_are_equal_to_the_bit() -> None:
    there, here = theirs(0), ours(1)
    here.load_state_dict(renamed(there.state_dict()))
    image = torch.randn(2, 1, 64, 32)
    with torch.inference_mode():
        assert torch.equal(here(image), there(image))
    assert renamed(here.state_dict()).keys() == here.state_dict().keys()  # those of ours stay
    again = theirs(2)
    again.load_state_dict(monai_names.to_monai(here.state_dict()))
    with torch.inference_mode():
        assert torch.equal(again(image), there(image))


def pretrained_as_published(network: torch.nn.Module) -> dict[str, Tensor]:
    """As model_swinvit.pt has it: the transformer alone, trained by several processes, with MLPs of older names."""
    weights = {f"module.{name}": one for name, one in network.swinViT.state_dict().items()}
    weights = {
        name.replace("mlp.linear1", "mlp.fc1").replace("mlp.linear2", "mlp.fc2"): one for name, one in weights.items()
    }
    return weights | {"module.rotation_head.weight": torch.zeros(4, 192), "module.convTrans3d.0.bias": torch.zeros(7)}


def test_weights_of_pre_training_load_as_monai_loads_them(tmp_path: Path) -> None:
    donor, target = theirs(0, dims=3), theirs(1, dims=3)
    weights = pretrained_as_published(donor)
    assert "module.layers1.0.blocks.0.mlp.fc1.weight" in weights
    target.load_from({"state_dict": weights})  # MONAI's own way
    torch.save({"epoch": 100, "state_dict": weights, "optimizer": {}}, tmp_path / "model_swinvit.pt")
    settings = ["dims=3", "feature_size=12", "depths=[1,1,1,1]", "window=2"]
    run = lemis.import_weights(
        tmp_path / "model_swinvit.pt", output=tmp_path / "work" / "runs" / "swinvit", backbone="swin_unetr",
        overrides=[f"backbone.{one}" for one in settings],
    )  # fmt: skip
    loaded = load(run, device="cpu")
    assert loaded.model.imported.share == 1.0
    image = torch.randn(1, 1, 32, 32, 64)
    with torch.inference_mode():
        for here, there in zip(loaded.network.encode(image)[1:], target.swinViT(image), strict=True):
            assert torch.equal(here, there)


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_a_whole_network_loads_but_for_its_head(prefix: str) -> None:
    there, here = theirs(0), ours(1)
    weights = {prefix + name: one for name, one in there.state_dict().items()}
    placed = incoming.place(here, Found(weights, ""), monai_names.RULES, Path("model.pt"), least=0.5)
    assert (placed.share, placed.left) == (1.0, ())
    assert {row.part for row in placed.rows if row.fresh} == {"head"}
    here.head.load_state_dict(there.out.state_dict())
    image = torch.randn(1, 1, 32, 64)
    with torch.inference_mode():
        assert torch.equal(here(image), there(image))
