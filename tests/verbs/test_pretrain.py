"""pretrain: a run folder from a prepared one, and again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lemis import plugins
from lemis.errors import UsageError
from lemis.runs.run import load_model
from lemis.training import pairing
from lemis.verbs.pretrain import pretrain
from stores import lose_keypoints, replace_prepared

FEW = ("steps=2", "precision=32")


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_every_method_trains_and_says_what_it_trained(method: str, work: Path) -> None:
    run = pretrain(work, method=method, preset="tiny", overrides=FEW, device="cpu")
    assert run == work / "runs" / method
    weights, facts = load_model(run)
    assert facts.verb == "pretrain"
    assert (facts.method, facts.backbone) == (method, pairing.default_backbone(method))
    assert facts.trained == tuple(plugins.load("methods", method).TRAINS)
    assert list(facts.subjects) == [f"heart_00{n}" for n in range(1, 7)]
    assert facts.labelled_subjects == ()
    assert (facts.channels, facts.label_names) == (("MR",), ("background", "RV", "MYO", "LV"))
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == pytest.approx(sum(v for k, v in lines[0].items() if k.startswith("loss/")))


@pytest.mark.parametrize(("threshold", "told"), [("0.1", True), ("0.35", False)])
def test_a_threshold_that_makes_neighbours_negatives_is_told(
    threshold: str, told: bool, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(work, method="pcl", preset="tiny", overrides=(*FEW, f"method.threshold={threshold}"), device="cpu")
    said = " ".join(capsys.readouterr().err.split())
    assert ("100% of neighbouring slices are negatives" in said) == told
    assert ("as scans have 5 slices here (median). Try method.threshold=0.35" in said) == told


@pytest.mark.parametrize(("rate", "nothing"), [("1e-9", True), ("0.05", False)])
@pytest.mark.slow
def test_a_run_that_learned_nothing_is_named_so(rate: str, nothing: bool, work: Path) -> None:
    few = ("steps=60", "precision=32", f"learning_rate={rate}", "schedule=constant")
    run = pretrain(work, method="rotation", preset="tiny", overrides=few, device="cpu", prefix="")
    why = load_model(run)[1].learned_nothing
    assert (why is not None) == nothing
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    assert status["learned_nothing"] == why
    said = f"this pre-training learned nothing: at its end {why}"
    assert (said in status.get("warnings", [])) == nothing


def test_only_the_parts_that_a_method_trains_change(work: Path) -> None:
    first, _ = load_model(pretrain(work, method="pcl", name="one", preset="tiny", overrides=FEW, device="cpu"))
    more = ("steps=3", "precision=32")
    second, _ = load_model(pretrain(work, method="pcl", name="two", preset="tiny", overrides=more, device="cpu"))
    changed = {name.split(".")[0] for name, value in first.items() if not torch.equal(value, second[name])}
    assert changed == {"encoder"}


def test_the_same_command_again_has_nothing_to_do(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
    said = capsys.readouterr().err
    assert "pre-training pcl on 30 slices of 6 scans, 6 subjects (cpu, 32-true, resident)" in said
    assert "bfloat16" not in said
    before = (run / "model.safetensors").stat().st_mtime_ns
    pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
    assert "nothing to do" in capsys.readouterr().err
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_have_a_run_of_their_own_and_under_a_given_name_are_refused(work: Path) -> None:
    def names(*overrides: str, **given: Any) -> str:
        wanted = ["precision=32", *overrides]
        return pretrain(work, method="pcl", preset="tiny", overrides=wanted, device="cpu", **given).name

    assert names("steps=2") == "pcl"
    other = names("steps=3")
    assert re.fullmatch(r"pcl-[0-9a-f]{4}", other)
    assert (names("steps=2"), names("steps=3"), names("steps=2", seed=1)) == ("pcl", other, "pcl-seed1")
    with pytest.raises(UsageError, match=r"made with steps=2, now it is 3"):
        names("steps=3", name="pcl")
    assert sorted(path.name for path in (work / "runs").iterdir()) == sorted(["pcl", other, "pcl-seed1"])


def test_another_image_trains_it_anew_and_another_label_does_not(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again() -> str:
        capsys.readouterr()
        pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
        return capsys.readouterr().err.strip()

    again()
    replace_prepared(work, "heart_001", label=True)
    assert again().endswith("nothing to do")
    before = (work / "runs" / "pcl" / "model.safetensors").read_bytes()
    replace_prepared(work, "heart_004", image=True)
    assert "image changed: heart_004" in again()
    assert (work / "runs" / "pcl" / "model.safetensors").read_bytes() != before
    (kept,) = (work / "stale").iterdir()
    assert (kept / "model.safetensors").read_bytes() == before
    assert again().endswith("nothing to do")


def test_a_refused_run_leaves_no_folder(work: Path) -> None:
    with pytest.raises(UsageError, match="accumulate=64"):
        pretrain(work, method="pcl", preset="tiny", overrides=[*FEW, "accumulate=64"], device="cpu")
    assert not (work / "runs").exists()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(work: Path) -> None:
    runs = [
        pretrain(work, method="sal", name=name, preset="tiny", overrides=FEW, seed=seed, device="cpu")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    one, same, other = ((run / "model.safetensors").read_bytes() for run in runs)
    assert one == same
    assert one != other


def test_a_fold_leaves_its_test_subjects_out(work: Path) -> None:
    run = pretrain(work, method="pcl", preset="tiny", overrides=FEW, fold=0, device="cpu")
    excluded = yaml.safe_load((run / "settings.yaml").read_text(encoding="utf-8"))["excluded"]
    subjects = load_model(run)[1].subjects
    assert len(excluded) == 1
    assert sorted([*subjects, *excluded]) == [f"heart_00{n}" for n in range(1, 7)]


def test_the_method_is_the_presets(work: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "method: rotation\nmethods: {rotation: {batch_size: 4, size_px: 32}}\nbackbones: {unet2d: {base_width: 2}}\n"
    )
    run = pretrain(work, preset=str(preset), overrides=FEW, device="cpu")
    assert load_model(run)[1].method == "rotation"


@pytest.mark.parametrize(("learning_rate", "symptoms"), [(0.1, ["loss", "embedding"]), (0.01, [])])
@pytest.mark.slow
def test_a_learning_rate_that_collapses_pcl_is_told_as_soon_as_it_shows(
    learning_rate: float, symptoms: list[str], work: Path
) -> None:
    overrides = ("steps=60", "precision=32", f"learning_rate={learning_rate}")
    run = pretrain(work, method="pcl", preset="tiny", overrides=overrides, device="cpu")
    warnings = json.loads((run / "status.json").read_text(encoding="utf-8")).get("warnings", [])
    told = [warning for warning in warnings if warning.startswith("epoch 17:")]  # three steps an epoch: the first of 50
    assert len(told) == len(symptoms)
    for symptom, warning in zip(symptoms, told, strict=True):
        assert symptom in warning


def test_an_unknown_method_and_an_unprepared_folder_are_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pcll"):
        pretrain(work, method="pcll", preset="tiny", device="cpu")
    with pytest.raises(UsageError, match="no finished preparation"):
        pretrain(tmp_path / "nothing", method="pcl", preset="tiny", device="cpu")


def test_a_network_of_ones_choice_has_a_run_of_its_own(work: Path) -> None:
    run = pretrain(work, method="pcl", backbone="fcn", preset="tiny", overrides=FEW, device="cpu")
    assert run.name == "pcl-fcn"
    assert load_model(run)[1].backbone == "fcn"


def test_keypoints_that_are_missing_are_refused_before_there_is_a_run(work: Path) -> None:
    lose_keypoints(work)
    with pytest.raises(UsageError, match="prepared: no keypoints") as caught:
        pretrain(work, method="kaf", preset="tiny", overrides=FEW, device="cpu")
    assert caught.value.next.endswith("keypoints.detector=sift keypoints.most=16")
    assert not (work / "runs").exists()


def test_a_network_that_the_method_refuses_leaves_no_run_behind(work: Path) -> None:
    with pytest.raises(UsageError, match="method kaf on the network unet2d"):
        pretrain(work, method="kaf", backbone="unet2d", preset="tiny", overrides=FEW, device="cpu")
    with pytest.raises(UsageError, match="KAF on a network without keypoint layers"):
        pretrain(work, method="kaf", backbone="fcn", preset="tiny", overrides=FEW, device="cpu")
    assert not (work / "runs").exists()


def test_slices_without_a_keypoint_train_like_any(work: Path) -> None:
    for file in (work / "prepared").glob("*.keypoints.npz"):
        with np.load(file) as found:
            content = dict(found)
        content["count"] = np.zeros_like(content["count"])
        content["place"], content["descriptor"] = content["place"][:0], content["descriptor"][:0]
        np.savez(file, **content)
    run = pretrain(work, method="kaf", preset="tiny", overrides=FEW, device="cpu")
    assert all(bool(torch.isfinite(value).all()) for value in load_model(run)[0].values())
