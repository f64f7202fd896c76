"""To nnU-Net and back: the same weights under all the names that are asked for there, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lemis
from lemis.backbones import plainconv_unet, residual_encoder_unet
from lemis.errors import UsageError
from lemis.exchange import nnunet_files, nnunet_names
from lemis.exchange.nnunet_files import ADAPTATION, ADD, FRAGMENT
from lemis.formats import nnunet_plans
from lemis.runs.run import load_model
from lemis.settings import resolve
from lemis.work_files.run import PretrainedModel, read_status

FEW = ("steps=2", "precision=32")


def test_every_layer_has_the_names_that_nnunet_gives_it() -> None:
    assert nnunet_names.aliases("encoder.stem.convs.0.norm.bias") == [
        "encoder.stem.convs.0.norm.bias", "encoder.stem.convs.0.all_modules.1.bias",
        "decoder.encoder.stem.convs.0.norm.bias", "decoder.encoder.stem.convs.0.all_modules.1.bias",
    ]  # fmt: skip
    assert nnunet_names.aliases("decoder.stages.1.convs.0.conv.weight") == [
        "decoder.stages.1.convs.0.conv.weight", "decoder.stages.1.convs.0.all_modules.0.weight",
    ]  # fmt: skip
    assert nnunet_names.aliases("decoder.transpconvs.0.weight") == ["decoder.transpconvs.0.weight"]


def network(kind: Any = plainconv_unet, channels: int = 1, **settings: Any) -> Any:
    torch.manual_seed(0)
    chosen = resolve(kind.Settings, {"base_width": 2, "n_stages": 3, **settings})
    return kind.Backbone(chosen, in_channels=channels, num_classes=4)


def test_aliases_go_and_come_and_inner_heads_are_added() -> None:
    weights = network().state_dict()
    theirs = nnunet_names.as_theirs(weights)
    # Encoder: 6 layers of 2 tensors for conv and norm, 4 names each. Decoder: 4 such, 2 names. 2 x 2 transposed, heads.
    assert len(theirs) == 6 * 4 * 4 + 4 * 4 * 2 + 4 + 4
    assert theirs["decoder.seg_layers.0.weight"].shape == (4, 4, 1, 1)
    back = nnunet_names.as_ours(theirs, "a")
    assert back.keys() == weights.keys() | {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}
    assert all(torch.equal(back[name], one) for name, one in weights.items())
    theirs["decoder.encoder.stages.0.0.convs.0.conv.weight"] = torch.zeros(2, 1, 3, 3)
    with pytest.raises(UsageError, match=r"is another tensor than encoder\.stages\.0"):
        nnunet_names.as_ours(theirs, "a")


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trainings of both networks and of another, and a fine-tuning."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("nnunet") / "work"))
    solid = ("backbone.dims=3", "backbone.n_stages=3", "backbone.strides=[1,[1,2,2],2]")
    for name, backbone, more in (
        ("plain", "plainconv_unet", ()), ("residual", "residual_encoder_unet", solid), ("other", "unet2d", ()),
    ):  # fmt: skip
        lemis.pretrain(
            work, method="mae", name=name, preset="tiny", backbone=backbone, overrides=(*FEW, *more), device="cpu"
        )
    lemis.finetune(
        work, pretrained=work / "runs" / "plain", name="tuned", fold=0, preset="tiny", overrides=FEW, device="cpu"
    )
    return work


@pytest.mark.parametrize("name", ["plain", "residual", "tuned"])
def test_weights_go_to_nnunet_and_come_back_bit_by_bit(trained: Path, tmp_path: Path, name: str) -> None:
    out = lemis.export(trained / "runs" / name, output=tmp_path / "out", to="nnunet")
    assert {file.name for file in out.iterdir()} == {f"{name}.pth", FRAGMENT, ADD, "README.md", "expects.json"}
    content = torch.load(out / f"{name}.pth", weights_only=True)
    assert content["lemis"]["saw_labels"] == (name == "tuned")
    plans = tmp_path / "nnUNetPlans.json"
    sides = {"2d": [20, 30], "3d_fullres": [5, 20, 30]}
    plans.write_text(json.dumps({"configurations": {key: {"patch_size": one} for key, one in sides.items()}}))
    done = subprocess.run(
        [sys.executable, "-I", str(out / ADD), str(plans)], capture_output=True, text=True, check=True
    )
    assert "lemis is in" in done.stdout
    added = json.loads(plans.read_text())["configurations"]["lemis"]
    assert added["patch_size"] == ([4, 20, 32] if name == "residual" else [16, 32])
    assert added["inherits_from"] == ("3d_fullres" if name == "residual" else "2d")
    run = lemis.import_weights(
        out / f"{name}.pth", output=tmp_path / "runs" / "back", plans=plans, configuration="lemis"
    )
    before, was = load_model(trained / "runs" / name)
    after, model = load_model(run)
    assert isinstance(model, PretrainedModel)
    assert model.imported is not None
    assert (model.backbone, model.imported.share) == (was.backbone, 1.0)
    assert all(torch.equal(after[key], one) for key, one in before.items() if "seg_layers" not in key)
    assert any("labels of others" in one for one in read_status(run).warnings) == (name == "tuned")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"nnUNetv2_train 4 lemis 0 -pretrained_weights this/folder/{name}.pth" in card


def test_fine_tuning_goes_on_with_the_plan_of_the_import(trained: Path, tmp_path: Path) -> None:
    out = lemis.export(trained / "runs" / "residual", output=tmp_path / "out", to="nnssl")
    assert {file.name for file in out.iterdir()} == {"residual.pth", ADAPTATION, "README.md", "expects.json"}
    run = lemis.import_weights(out / "residual.pth", output=trained / "runs" / "again")
    assert load_model(run)[1].backbone_settings["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    tuned = lemis.finetune(trained, pretrained=run, name="further", fold=0, preset="tiny", device="cpu", overrides=FEW)
    assert load_model(tuned)[1].backbone_settings == load_model(run)[1].backbone_settings
    assert load_model(tuned)[1].backbone_settings["features_per_stage"] == [4, 8, 16]
    lemis.predict([tuned], device="cpu")


def test_the_plan_of_nnssl_says_where_the_encoder_is(trained: Path, tmp_path: Path) -> None:
    out = lemis.export(trained / "runs" / "residual", output=tmp_path / "out", to="nnssl")
    content = torch.load(out / "residual.pth", weights_only=True)
    plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
    assert plan == json.loads((out / ADAPTATION).read_text())
    assert (plan["key_to_encoder"], plan["key_to_stem"], plan["key_to_lpe"]) == ("encoder.stages", "encoder.stem", None)
    assert all(f"{key}.weight" in weights for key in plan["keys_to_in_proj"])
    assert plan["recommended_downstream_patchsize"] == [16, 32, 32]
    assert content["citations"][1]["name"] == "mae"


def test_other_networks_are_refused_with_what_to_do(trained: Path, tmp_path: Path) -> None:
    for to in ("nnunet", "nnssl"):
        with pytest.raises(UsageError, match="unet2d has no counterpart in nnU-Net") as caught:
            lemis.export(trained / "runs" / "other", output=tmp_path / "out", to=to)
        assert caught.value.allowed == "plainconv_unet or residual_encoder_unet"
        volumes = " backbone.dims=3" if to == "nnssl" else ""
        command = f"lemis pretrain {trained} --method mae --backbone residual_encoder_unet{volumes}"
        assert caught.value.next == command
    with pytest.raises(UsageError, match="whose network is of slices"):
        lemis.export(trained / "runs" / "plain", output=tmp_path / "out", to="nnssl")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------- checkpoints of theirs


def checkpoint(file: Path, weights: dict[str, Tensor], **more: Any) -> Path:
    """As nnU-Net's trainer saves it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    logging = {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1.5)]}
    torch.save(
        {"network_weights": weights, "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(9)}}},
         "logging": logging, "_best_ema": np.float64(0.5), "trainer_name": "nnUNetTrainer", **more}, file,
    )  # fmt: skip
    return file


def planned(backbone: str = "plainconv_unet", **settings: Any) -> dict[str, Any]:
    kind = plainconv_unet if backbone == "plainconv_unet" else residual_encoder_unet
    chosen = resolve(kind.Settings, {"base_width": 2, "n_stages": 3, **settings})
    block = nnunet_plans.architecture(backbone, nnunet_files.as_planned(backbone, chosen))
    return {"configurations": {"2d": {"architecture": block}, "3d_lowres": {"patch_size": [8, 8, 8]}}}


def test_a_checkpoint_names_its_network_and_so_does_the_plan_above_it(tmp_path: Path) -> None:
    theirs = nnunet_names.as_theirs(network().state_dict())
    arguments = {"plans": planned(), "configuration": "2d", "fold": 0, "device": torch.device("cpu")}
    inside = checkpoint(tmp_path / "a.pth", theirs, init_args=arguments)
    folder = tmp_path / "Dataset001" / "nnUNetTrainer__nnUNetPlans__2d"
    beside = checkpoint(folder / "fold_0" / "checkpoint_final.pth", theirs)
    (folder / "plans.json").write_text(json.dumps(planned()))
    for file in (inside, beside):
        run = lemis.import_weights(file, output=tmp_path / file.stem)
        weights, model = load_model(run)
        assert isinstance(model, PretrainedModel)
        assert model.imported is not None
        assert (model.backbone, model.imported.made_by, model.imported.saw_labels) == (
            "plainconv_unet", "nnU-Net, nnUNetTrainer", True,
        )  # fmt: skip
        assert torch.equal(
            weights["encoder.stages.2.0.convs.1.norm.weight"], theirs["encoder.stages.2.0.convs.1.norm.weight"]
        )


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (3, 1)])
def test_channels_are_shared_out_or_summed_up(tmp_path: Path, theirs: int, ours: int) -> None:
    given = network(residual_encoder_unet, theirs, dims=3).state_dict()
    plan = {"architecture_plans": nnssl(dims=3), "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem"}
    file = checkpoint(tmp_path / "a.pth", nnunet_names.as_theirs(given), nnssl_adaptation_plan=plan)
    weights, model = load_model(lemis.import_weights(file, output=tmp_path / "run", channels=ours))
    assert isinstance(model, PretrainedModel)
    assert model.imported is not None
    assert (model.imported.saw_labels, model.imported.share) == (None, 1.0)
    first = given["encoder.stem.convs.0.conv.weight"]
    expected = first.sum(1, keepdim=True) if ours == 1 else first.repeat(1, 3, 1, 1, 1) / 3
    assert torch.equal(weights["encoder.stem.convs.0.conv.weight"], expected)


def nnssl(**settings: Any) -> dict[str, Any]:
    block = planned("residual_encoder_unet", **settings)["configurations"]["2d"]["architecture"]
    return {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": block["arch_kwargs"],
            "arch_kwargs_requiring_import": block["_kw_requires_import"]}  # fmt: skip


def test_an_encoder_alone_is_enough_and_less_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = nnunet_names.as_theirs(network().state_dict())
    (tmp_path / "plans.json").write_text(json.dumps(planned()))
    some = {name: one for name, one in theirs.items() if name.startswith("encoder.")}
    file = checkpoint(tmp_path / "a.pth", some)
    run = lemis.import_weights(file, output=tmp_path / "run", plans=tmp_path / "plans.json", configuration="2d")
    model = load_model(run)[1]
    assert isinstance(model, PretrainedModel)
    assert model.trained == ("encoder",)
    assert "100 %" in capsys.readouterr().err
    few = {name: one for name, one in some.items() if "stages.2." not in name}
    with pytest.raises(UsageError, match=r"encoder's parameters are in .*\n.*encoder.stages.2.0.convs.0.conv.weight"):
        lemis.import_weights(
            checkpoint(tmp_path / "b.pth", few),
            output=tmp_path / "no",
            plans=tmp_path / "plans.json",
            configuration="2d",
        )
    assert not (tmp_path / "no").exists()


def test_any_file_of_such_weights_goes_with_a_plan(tmp_path: Path) -> None:
    theirs = network().state_dict()
    torch.save({"state_dict": {f"module.{name}": one for name, one in theirs.items()}}, tmp_path / "a.pt")
    (tmp_path / "plans.json").write_text(json.dumps(planned()))
    run = lemis.import_weights(
        tmp_path / "a.pt", output=tmp_path / "run", plans=tmp_path / "plans.json", configuration="2d"
    )
    weights, model = load_model(run)
    assert isinstance(model, PretrainedModel)
    assert model.imported is not None
    assert (model.imported.prefix, model.imported.made_by, model.imported.saw_labels) == ("module.", None, None)
    assert torch.equal(
        weights["encoder.stages.1.0.convs.0.conv.weight"], theirs["encoder.stages.1.0.convs.0.conv.weight"]
    )


def test_networks_that_are_not_here_are_refused_by_name(tmp_path: Path) -> None:
    eva = {"eva.blocks.0.attn.proj.weight": torch.zeros(4, 4)}
    older = tmp_path / "model_final_checkpoint.model"
    torch.save({"state_dict": {"conv_blocks_context.0.blocks.0.conv.weight": torch.zeros(4)}}, older)
    primus = {"architecture_plans": {"arch_class_name": "PrimusM", "arch_kwargs": None}}
    for file, match in (
        (checkpoint(tmp_path / "a.pth", eva, nnssl_adaptation_plan=primus), "a network PrimusM"),
        (checkpoint(tmp_path / "b.pth", eva), r"Primus, a transformer \(Eva\)"),
        (older, "a checkpoint of nnU-Net 1"),
        (checkpoint(tmp_path / "c.pth", {"w": torch.zeros(3)}), "does not say which network"),
    ):
        with pytest.raises(UsageError, match=match):
            lemis.import_weights(file, output=tmp_path / "run")
    with pytest.raises(UsageError, match=r"--configuration 2d, and .* has no plan"):
        lemis.import_weights(tmp_path / "c.pth", output=tmp_path / "run", configuration="2d")
    with pytest.raises(UsageError, match="--plans for unet2d"):
        lemis.import_weights(older, output=tmp_path / "run", backbone="unet2d", plans=tmp_path / "plans.json")
    assert not (tmp_path / "run").exists()
