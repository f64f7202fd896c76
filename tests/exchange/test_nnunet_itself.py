"""nnU-Net's own code takes what goes to it and gives what comes from it.

Runs where ``LEMIS_NNUNET_PYTHON`` names the Python of an environment that has nnunetv2; docs/compare.md makes one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import lemis
from lemis import phantom, plugins
from lemis.comparison.external_rows import PYTHON
from lemis.errors import UsageError
from lemis.exchange import nnunet_files, nnunet_names
from lemis.formats import nnunet_plans
from lemis.runs.run import load_model
from lemis.settings import resolve
from lemis.work_files.run import PretrainedModel, read_status

REAL = os.environ.get(PYTHON)  # before any test sets it
SCRIPT = Path(__file__).with_name("nnunet_itself.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REAL is None, reason=f"{PYTHON} names no Python with nnunetv2 (docs/compare.md makes one)"),
]
FLAT = {"dims": 3, "n_stages": 4, "base_width": 4, "strides": [1, [1, 2, 2], [1, 2, 2], 2],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], 3, 3]}  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain_2d": ("plainconv_unet", {"n_stages": 5, "base_width": 4}),
    "plain_flat": ("plainconv_unet", {**FLAT, "n_conv_per_stage": [2, 3, 2, 1], "conv_bias": False}),
    "residual_2d": ("residual_encoder_unet", {"n_stages": 4, "base_width": 4, "features_per_stage": [4, 4, 8, 9]}),
    "residual_flat": ("residual_encoder_unet", {**FLAT, "n_conv_per_stage_decoder": [1, 2, 3], "norm_eps": 1e-3}),
    "no_affine": ("plainconv_unet", {"n_stages": 3, "base_width": 4, "norm_affine": False}),
}


def ask(what: str, folder: Path) -> None:
    assert REAL is not None
    done = subprocess.run([REAL, "-I", str(SCRIPT), what, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_its_networks_have_these_names_and_say_these_logits(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    for number, (name, (backbone, settings)) in enumerate(NETWORKS.items()):
        torch.manual_seed(number)
        module = plugins.load("backbones", backbone)
        chosen = resolve(module.Settings, settings, {"begin_as_identity": False} if "residual" in backbone else {})
        network = module.Backbone(chosen, in_channels=2, num_classes=3).eval()
        image = torch.randn(2, 2, *(2 * by for by in network.divisors))
        asked = {
            "architecture": nnunet_plans.architecture(backbone, nnunet_files.as_planned(backbone, chosen)),
            "network_weights": nnunet_names.as_theirs(network.state_dict()), "image": image, "channels": 2,
            "classes": 3,
        }  # fmt: skip
        torch.save(asked, tmp_path / f"{name}.pt")
        with torch.inference_mode():
            made[name] = network(image), sum(one.numel() for one in network.parameters()), network
    ask("logits", tmp_path)
    for name, (logits, parameters, network) in made.items():
        answer = torch.load(tmp_path / f"{name}.answer", weights_only=True)
        assert torch.equal(answer["logits"], logits), name
        inner = sum(3 * width + 3 for width in network.decoder_channels[:-1])  # its heads, which ours has one of
        assert answer["parameters"] == parameters + inner
        assert answer["keys"] == len(nnunet_names.as_theirs(network.state_dict()))


@pytest.fixture(scope="module")
def work(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("itself") / "work"))
    few = ("steps=2", "precision=32")
    for name, backbone, more in (
        ("plain", "plainconv_unet", ()),
        ("residual", "residual_encoder_unet", ("backbone.dims=3", "backbone.n_stages=4")),
    ):
        lemis.pretrain(
            work, method="mae", name=name, preset="tiny", backbone=backbone, overrides=(*few, *more), device="cpu"
        )
    return work


def test_it_loads_what_is_exported_trains_on_and_what_it_saves_is_imported(work: Path, tmp_path: Path) -> None:
    phantom.write_dataset(tmp_path / "nnUNet_raw" / "Dataset004_Made", subjects=3, labelled=3, shape=(40, 40, 12))
    for name in ("plain", "residual"):
        lemis.export(work / "runs" / name, output=tmp_path / "exports" / name, to="nnunet")
    ask("train", tmp_path)
    for name in ("plain", "residual"):
        said = json.loads((tmp_path / f"{name}.json").read_text())
        print(name, said)
        assert "Loading pretrained weights from file" in said["message"]
        assert all(".seg_layers." in key for key in said["others"])
        assert said["equal"] + len(said["others"]) == said["keys"]
        assert all(0 < abs(loss) < 100 for loss in said["losses"])
        assert said["moved"] > 0
        fold = tmp_path / name / "nnUNetTrainer__nnUNetPlans__lemis" / "fold_all"
        run = lemis.import_weights(fold / "checkpoint_final.pth", output=work / "runs" / f"back-{name}")
        weights, model = load_model(run)
        assert isinstance(model, PretrainedModel)
        assert model.imported is not None
        assert (model.imported.share, model.imported.saw_labels) == (1.0, True)
        assert model.imported.made_by == "nnU-Net, nnUNetTrainer"
        assert any("labels of others" in warning for warning in read_status(run).warnings)
        theirs = torch.load(fold / "trained.pt", weights_only=True)
        same = [key for key, one in weights.items() if torch.equal(one, theirs[key])]
        assert all(".seg_layers." in key for key in weights if key not in same)
        backbone = "plainconv_unet" if name == "plain" else "residual_encoder_unet"
        other = "residual_encoder_unet" if name == "plain" else "plainconv_unet"
        assert model.backbone == backbone
        with pytest.raises(UsageError, match=f"--backbone {other}"):
            lemis.import_weights(fold / "checkpoint_final.pth", output=work / "runs" / "other", backbone=other)


def test_its_trainer_for_nnssl_finds_the_encoder(work: Path, tmp_path: Path) -> None:
    out = lemis.export(work / "runs" / "residual", output=tmp_path / "out", to="nnssl")
    shutil.copy(out / "residual.pth", tmp_path)
    ask("encoder", tmp_path)
    said = json.loads((tmp_path / "residual.json").read_text())
    assert said["encoder"] is True
    assert said["patch"] == [16, 32, 32]
