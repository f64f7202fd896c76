"""Networks of three dimensions through every verb, on made-up volumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lemis import phantom
from lemis.datasets import index as index_file
from lemis.errors import UsageError
from lemis.preparation.settings import Settings
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain

TINY: dict[str, Any] = {"backbone": "unet3d", "preset": "tiny", "device": "cpu"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made-up hearts of 18 slices, two of them labelled. Read only."""
    folder = tmp_path_factory.mktemp("volumes") / "scans"
    return phantom.write_dataset(folder, subjects=4, labelled=2, shape=(36, 40, 18))


@pytest.fixture
def solid(scans: Path, tmp_path: Path) -> Path:
    """A work folder with those scans, checked and prepared."""
    check(scans, output=tmp_path / "work", jobs=1)
    prepare(tmp_path / "work", jobs=1)
    return tmp_path / "work"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "model.safetensors"))


def facts(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "model.json").read_text()))


@pytest.mark.slow
def test_fit_from_scans_to_a_report(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = fit(scans, output=tmp_path / "work", backbone="unet3d", auxiliary="voxel_siamese", preset="tiny", fold=0)
    said = " ".join(capsys.readouterr().err.split())
    assert "unet3d is trained without pre-training; --method mae" in said
    assert page.exists()
    run = tmp_path / "work" / "runs" / "scratch-unet3d-voxel_siamese-m1-fold0"
    assert facts(run)["patch_px"] == [16, 32, 32]
    assert facts(run)["auxiliary"] == "voxel_siamese"
    assert not any("auxiliary" in name or "project" in name for name in weights(run)), "gone at inference"
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/voxel/1", "loss/voxel/2", "loss/voxel/3", "loss/dice"} <= logged[0].keys()
    assert "held_out/pooled_dice" in logged[-1]
    evaluation = json.loads((tmp_path / "work" / "evaluation" / "summary.json").read_text())
    assert len(evaluation["subjects_tested"]) == 1
    made = sorted((tmp_path / "work" / "predictions").glob("*.nii.gz"))
    assert len(made) == 3, "one held out and two without a label"
    for file in made:
        image = nibabel.load(next((scans / "imagesTr").glob(f"{file.name.removesuffix('.nii.gz')}_0000*")))
        label = nibabel.load(file)
        assert label.shape == image.shape
        np.testing.assert_array_equal(label.affine, image.affine)
    fit(scans, output=tmp_path / "work", backbone="unet3d", auxiliary="voxel_siamese", preset="tiny", fold=0)
    assert f"{run}: nothing to do" in " ".join(capsys.readouterr().err.split())


def test_pre_training_of_volumes_is_transferred(solid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pretrain(solid, method="mae", **TINY)
    assert before.name == "mae-unet3d"
    run = finetune(solid, pretrained=before, fold=0, preset="tiny", device="cpu", overrides=["steps=1"])
    assert facts(run)["backbone"] == "unet3d"
    said = " ".join(capsys.readouterr().err.split())
    assert "pre-training mae on 4 scans, 4 subjects" in said
    scratch = finetune(solid, fold=0, overrides=["steps=1"], **TINY)
    same = [torch.equal(weights(run)[name], weights(scratch)[name]) for name in weights(run) if "encoder" in name]
    assert not all(same), "the encoders began elsewhere"


@pytest.mark.slow
def test_same_seed_same_weights_and_another_seed_others(solid: Path) -> None:
    given: dict[str, Any] = {"fold": 0, "overrides": ["steps=2"], "auxiliary": "supervised_contrast", **TINY}
    one, two, other = (finetune(solid, name=name, seed=seed, **given) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert all(torch.equal(weights(one)[name], weights(two)[name]) for name in weights(one))
    assert not all(torch.equal(weights(one)[name], weights(other)[name]) for name in weights(one))


@pytest.mark.slow
def test_an_ensemble_of_volumes_is_predicted_with_mirror_images(solid: Path) -> None:
    runs = [finetune(solid, name=f"s{seed}", seed=seed, fold=0, overrides=["steps=1"], **TINY) for seed in (0, 1)]
    output = predict(runs, output=solid / "both", overrides=["mirror=true", "overlap=0.25"], device="cpu")
    assert len(list(output.glob("*.nii.gz"))) == 3


def test_networks_of_slices_and_of_volumes_are_no_ensemble(solid: Path) -> None:
    flat = finetune(solid, fold=0, preset="tiny", device="cpu", overrides=["steps=1"])
    deep = finetune(solid, fold=0, overrides=["steps=1"], **TINY)
    with pytest.raises(UsageError, match=r"differ in patch_px: None and \(16, 32, 32\)"):
        predict([flat, deep], output=solid / "both", device="cpu")
    assert not (solid / "both").exists(), "nothing half-written stays behind"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.size_px=[16,20,32]"], "multiples of"),
        (["objective.size_px=[16,32]"], "size_px"),
        (["precision=bf16"], "precision=bf16 for a network of three dimensions"),
    ],
)
def test_what_cannot_be_trained_is_refused(solid: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(solid, fold=0, overrides=["steps=1", *overrides], **TINY)


def test_volumes_that_lie_differently_are_refused(solid: Path) -> None:
    index = index_file.load(solid / "index.json")
    turned = dataclasses.replace(index.scans[0], slice_axis=1)
    index_file.save(dataclasses.replace(index, scans=(turned, *index.scans[1:])), solid / "index.json")
    prepare(solid, settings=Settings(spacing_mm=5.0), jobs=1)
    for verb, given in ((finetune, {"fold": 0}), (pretrain, {"method": "mae"})):
        with pytest.raises(UsageError, match="slices across the axes 1, 2 of different scans") as caught:
            verb(solid, **given, **TINY)
        assert caught.value.next == f"lemis prepare {solid} spacing_mm=5.0 slice_axis=common"
    prepare(solid, settings=Settings(spacing_mm=5.0, slice_axis="common"), jobs=1)
    assert finetune(solid, fold=0, overrides=["steps=1"], **TINY).exists()


def test_a_method_of_slices_on_volumes_is_refused(solid: Path) -> None:
    with pytest.raises(UsageError, match="method sal on the network unet3d, of 3 dimensions"):
        pretrain(solid, method="sal", **TINY)
    assert not (solid / "runs").exists(), "nothing half-written stays behind"
