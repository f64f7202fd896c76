"""finetune: from pre-trained weights or none, on the labels of a split."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemis.datasets.split import choose
from lemis.errors import UsageError
from lemis.prediction.inference import load_network
from lemis.prediction.padding import padded_logits
from lemis.preparation import keypoints, store_files
from lemis.preparation.settings import Settings
from lemis.preparation.store import open_store
from lemis.runs.run import Run, load_model
from lemis.sampling.samples import Slices
from lemis.settings import resolve
from lemis.verbs.finetune import finetune
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.work_files.run import read_status
from stores import lose_keypoints, replace_prepared

FEW = ("steps=4", "precision=32")


def tune(work: Path, **given: object) -> Path:
    arguments: dict[str, object] = {"preset": "tiny", "overrides": FEW, "device": "cpu", **given}
    return finetune(work, **arguments)  # type: ignore[arg-type]


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_scratch_on_a_fold_trains_on_its_labels_and_scores_the_held_out(work: Path) -> None:
    run = tune(work, fold=1)
    assert run.name == "scratch-m2-fold1"
    split = choose(open_store(work / "prepared").scans, fold=1)
    _, facts = load_model(run)
    assert facts.labelled_subjects == split.labelled_subjects
    assert facts.test_subjects == split.test_subjects
    assert facts.pretraining_subjects == ()
    assert facts.pretrained is None
    assert (facts.fold, facts.label_values) == (1, (0, 1, 2, 3))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        each = [line[f"held_out/pooled_dice/{name}"] for name in ("RV", "MYO", "LV")]
        assert line["held_out/pooled_dice"] == pytest.approx(sum(each) / 3)
        overlap = [line[f"held_out/jaccard/{name}"] for name in ("RV", "MYO", "LV")]
        assert overlap == pytest.approx([dice / (2 - dice) for dice in each])
        assert {"held_out/jaccard", "held_out/hd95_px", "held_out/asd_px/LV"} < line.keys()
        assert line["loss"] == pytest.approx(line["loss/cross_entropy"] + line["loss/dice"])


def without(work: Path, structures: tuple[int, ...], folder: Path) -> Path:
    """A copy of a work folder where no label of training in fold 1 marks these."""
    shutil.copytree(work, folder)
    store = open_store(folder / "prepared")
    train = choose(store.scans, fold=1).labelled_subjects
    for number, facts in enumerate(store.scans):
        label = store.label(number)
        if label is not None and facts.subject in train:
            marked = np.where(np.isin(label, structures), 0, label).astype(np.uint8)
            again = dataclasses.replace(facts, fingerprint=f"{facts.fingerprint}, and again")
            store_files.write_scan(store.path, again, np.array(store.image(number)), marked)
    return folder


def test_structures_that_no_label_of_training_marks_are_named(work: Path, tmp_path: Path) -> None:
    run = tune(without(work, (1, 3), tmp_path / "some"), fold=1)
    assert read_status(run).warnings == (
        "no label that it was trained on marks RV, LV: it has not learned what that is",
    )
    with pytest.raises(UsageError, match="mark nothing: every voxel is background"):
        tune(without(work, (1, 2, 3), tmp_path / "none"), fold=1)


def test_without_a_fold_every_label_is_used_and_none_held_out(work: Path) -> None:
    run = tune(work)
    assert run.name == "scratch-m3-all"
    assert "held_out/pooled_dice" not in json.loads(
        (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    )


def test_a_budget_of_labels(work: Path) -> None:
    run = tune(work, fold=0, labelled=1)
    assert run.name == "scratch-m1-fold0"
    assert len(load_model(run)[1].labelled_subjects) == 1


def test_pretrained_weights_are_the_start(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
    capsys.readouterr()
    # A rate of almost nothing: what comes out is what went in.
    overrides = ("steps=1", "precision=32", "learning_rate=1e-12", "weight_decay=0", "floor=0")
    run = tune(work, pretrained=start, fold=0, overrides=overrides)
    assert run.name == "pcl-m2-fold0"
    before, after = load_model(start)[0], load_model(run)[0]
    for name, value in before.items():
        if name.startswith("encoder") and name.endswith(("weight", "bias")):
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    facts = load_model(run)[1]
    assert (facts.pretrained, facts.method) == ("pcl", "pcl")
    assert list(facts.pretraining_subjects) == [f"heart_00{n}" for n in range(1, 7)]
    said = capsys.readouterr().err
    assert "weights from pcl" in said
    assert "not trained by the method" in said


def test_the_network_is_that_of_the_pretrained_run(work: Path) -> None:
    start = pretrain(work, method="pcl", backbone="fcn", preset="tiny", overrides=FEW, device="cpu")
    run = tune(work, pretrained=start, fold=0)
    assert run.name == "pcl-fcn-m2-fold0"
    assert load_model(run)[1].backbone == "fcn"
    assert tune(work, pretrained=start, fold=0, backbone="fcn") == run
    with pytest.raises(UsageError, match=r"--backbone unet2d with --pretrained .*, where fcn was trained") as caught:
        tune(work, pretrained=start, fold=1, backbone="unet2d")
    assert caught.value.next.startswith("leave out --backbone")
    assert not (work / "runs" / "pcl-fcn-m2-fold1").exists()


@pytest.mark.slow
def test_a_network_that_looks_at_keypoints(work: Path) -> None:
    lose_keypoints(work)
    with pytest.raises(UsageError, match="prepared: no keypoints"):
        tune(work, fold=0, backbone="kaf_unet")
    assert not (work / "runs").exists()
    images = resolve(Settings, open_store(work / "prepared").settings)
    store = prepare(work, settings=images, keypoints=keypoints.Settings(most=20), jobs=1)  # more than the 16 it takes
    run = tune(work, fold=0, backbone="kaf_unet")
    assert run.name == "scratch-kaf_unet-m2-fold0"
    # What a new scan gets, whose keypoints are found as it is predicted, is what training saw.
    cpu = torch.device("cpu")
    network, _ = load_network(run, cpu)
    slices = Slices(store, range(len(store.scans)), cpu, keypoints=16)
    batch = next(slices.stream([np.arange(len(slices))]))
    assert batch.keypoints is not None
    assert batch.keypoints.shape == (len(slices), 16, 2)
    with torch.inference_mode():
        stored, found = padded_logits(network, batch.image, batch.keypoints), padded_logits(network, batch.image)
        other = padded_logits(network, batch.image, batch.keypoints[:, :1])
    torch.testing.assert_close(found, stored, rtol=1e-5, atol=1e-6)
    assert float((other - stored).abs().max()) > 1e-4


def test_the_same_command_again_has_nothing_to_do(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(work, fold=0)
    before = (run / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    tune(work, fold=0)
    assert capsys.readouterr().err.strip().endswith("scratch-m2-fold0: nothing to do")
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_a_seed_has_a_run_of_its_own(work: Path) -> None:
    one, other = tune(work, fold=0), tune(work, fold=0, seed=1)
    assert other.name == "scratch-seed1-m2-fold0"
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_the_seed_is_named_once(work: Path) -> None:
    start = pretrain(work, method="pcl", preset="tiny", overrides=FEW, seed=1, device="cpu")
    assert tune(work, pretrained=start, seed=1).name == "pcl-seed1-m3-all"
    assert tune(work, pretrained=start, seed=2).name == "pcl-seed1-m3-all-seed2"


@pytest.mark.slow
def test_a_corrected_label_trains_what_it_was_trained_on_and_scores_what_held_it_out(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = {fold: choose(open_store(work / "prepared").scans, fold=fold) for fold in range(3)}
    runs = {fold: tune(work, fold=fold) for fold in folds}
    before = {fold: (run / "model.safetensors").read_bytes() for fold, run in runs.items()}
    scored = {fold: lines_of(run)[-1]["held_out/pooled_dice"] for fold, run in runs.items()}
    (corrected,) = folds[0].test_subjects
    replace_prepared(work, corrected, label=True)
    for fold, run in runs.items():
        capsys.readouterr()
        assert tune(work, fold=fold) == run
        said = capsys.readouterr().err
        assert f"label changed: {corrected}" in said
        assert ("scored again" in said) == (fold == 0)
        assert ("fine-tuning" in said) == (fold != 0)
        assert ((run / "model.safetensors").read_bytes() == before[fold]) == (fold == 0)
        assert tune(work, fold=fold) == run
        assert capsys.readouterr().err.strip().endswith("nothing to do")
    assert lines_of(runs[0])[-1]["held_out/pooled_dice"] != scored[0]
    assert {path.name[:-9] for path in (work / "stale").iterdir()} == {runs[1].name, runs[2].name}


@pytest.mark.slow
def test_new_pretrained_weights_train_anew_what_starts_from_them(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def way() -> str:
        capsys.readouterr()
        start = pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
        assert tune(work, pretrained=start, fold=0).name == "pcl-m2-fold0"
        return capsys.readouterr().err

    way()
    replace_prepared(work, "heart_004", image=True)  # without a label: fine-tuning never reads it
    assert "the weights that it starts from changed" in way()


def test_an_interrupted_run_does_not_go_on_with_other_labels(
    work: Path, fresh_work: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, save = (*FEW, "checkpoint_minutes=1e-9"), Run.save_checkpoint

    def save_and_stop(run: Run, state: Mapping[str, Any]) -> None:
        save(run, state)
        if state["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        tune(work, fold=0, overrides=steps)
    monkeypatch.setattr(Run, "save_checkpoint", save)
    whole = fresh_work("whole")
    for folder in (work, whole):
        replace_prepared(folder, "heart_002", label=True)
    again, expected = (tune(folder, fold=0, overrides=steps) for folder in (work, whole))
    assert (again / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert [line["step"] for line in lines_of(again)] == [1, 2, 3, 4]


@pytest.mark.parametrize(("asked", "times"), [((), 4), (("evaluations=2",), 2), (("evaluations=0",), 0)])
def test_how_often_the_held_out_are_scored_can_be_set_and_changes_no_weight(
    work: Path, fresh_work: Callable[[str], Path], asked: tuple[str, ...], times: int
) -> None:
    run = tune(work, fold=0, overrides=(*FEW, *asked))
    assert sum("held_out/pooled_dice" in line for line in lines_of(run)) == times  # 5 of 4 steps are 4
    usual = tune(fresh_work("usual"), fold=0)
    assert (run / "model.safetensors").read_bytes() == (usual / "model.safetensors").read_bytes()


def test_a_refused_run_leaves_no_folder(work: Path) -> None:
    for refused in ("accumulate=64", "objective.batch_size=0"):
        with pytest.raises(UsageError):
            tune(work, name="mine", overrides=(*FEW, refused))
        assert not (work / "runs").exists()
    assert tune(work, name="mine").name == "mine"


def test_a_batch_larger_than_the_labelled_slices_is_cut(work: Path) -> None:
    run = tune(work, labelled=1, overrides=(*FEW, "objective.batch_size=64"))
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["slices"] == 5


def test_what_is_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="fold 9"):
        tune(work, fold=9)
    with pytest.raises(UsageError, match="7 labelled subjects"):
        tune(work, labelled=7)
    with pytest.raises(UsageError, match=r"nothing is not there"):
        tune(work, pretrained=work / "runs" / "nothing")
    done = tune(work)
    with pytest.raises(UsageError, match="has learned from labels") as caught:
        tune(work, pretrained=done)
    assert caught.value.next == "leave out --pretrained"
    narrow = ["steps=1", "backbone.base_width=2"]
    start = pretrain(work, method="pcl", preset="tiny", overrides=narrow, device="cpu")
    with pytest.raises(UsageError, match="nothing of"):
        tune(work, pretrained=start)


def test_labels_that_are_gone_from_the_store_are_missed(work: Path) -> None:
    for file in (work / "prepared").glob("heart_*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "labelled": False}))
    with pytest.raises(UsageError, match=r"none of the subjects heart_00\d has a label"):
        tune(work, labelled=1)


def test_a_run_says_what_its_field_of_view_would_be_by_fewer_labels(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_store(work / "prepared")
    found = load_model(tune(work, fold=1, name="before"))[1].field_of_view
    assert found is not None
    assert found.of_all_mm == opened.settings["field_of_view_mm"]
    sides = choose(opened.scans, fold=1)
    for i, facts in enumerate(opened.scans):
        if facts.subject in sides.train_subjects:  # as if only the test subject had structures so far out
            store_files.write_scan(
                opened.path, dataclasses.replace(facts, extent_mm=1.0), opened.image(i), opened.label(i)
            )
    capsys.readouterr()
    run = tune(work, fold=1, name="after")
    after = load_model(run)[1].field_of_view
    assert after is not None
    assert after.of_all_mm == found.of_all_mm
    assert after.of_training_mm == after.of_labelled_mm < found.of_all_mm
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["warnings"] == [after.leak]
    assert "prepare.field_of_view_mm=" in " ".join(capsys.readouterr().err.split())
