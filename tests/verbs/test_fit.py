"""fit: every step from a folder of scans to a report, and again with nothing to do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from lemis import asked, phantom
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.prediction import components
from lemis.preparation.settings import Settings
from lemis.preparation.store import open_store
from lemis.runs.run import load_model
from lemis.settings import load_preset, resolve
from lemis.verbs import fit as module
from lemis.verbs.evaluate import evaluate
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.prepare import prepare
from lemis.verbs.report import report
from lemis.work_files.predictions import Kept
from lemis.work_files.run import OnePiece

FEW = ("pretrain.steps=2", "pretrain.precision=32", "finetune.steps=2", "finetune.precision=32")


def run_fit(scans: Path, output: Path, *more: str, **given: Any) -> Path:
    arguments: dict[str, Any] = {"method": "pcl", "preset": "tiny", "device": "cpu", **given}
    return fit(scans, output=output, overrides=[*FEW, *more], **arguments)


def record(work: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((work / "predictions" / "predictions.json").read_text(encoding="utf-8"))
    return content


def shown(work: Path) -> set[str]:
    """The runs that the report names."""
    page = (work / "report" / "index.html").read_text(encoding="utf-8")
    return set(re.findall(r"(?:Pre-training|Fine-tuning) “([^”]+)”:", page))


@pytest.fixture(scope="module")
def fitted(phantom_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything done once, cross-validated."""
    work = tmp_path_factory.mktemp("fitted") / "work"
    page = run_fit(phantom_scans, work)
    assert page == work / "report" / "index.html"
    return work


def test_the_labelled_are_cross_validated_and_the_rest_predicted_by_all(fitted: Path) -> None:
    names = sorted(path.name for path in (fitted / "runs").iterdir())
    assert names == ["pcl", "pcl-m2-fold0", "pcl-m2-fold1", "pcl-m2-fold2"]
    scans = record(fitted)["scans"]
    assert len(scans) == 6
    for number in range(1, 7):
        entry = scans[f"heart_00{number}"]
        assert (fitted / "predictions" / entry["file"]).exists()
        if number <= 3:  # labelled: by the one network that never saw its label
            assert len(entry["runs"]) == 1
            assert f"heart_00{number}" not in entry["labelled_subjects"]
        else:
            assert entry["runs"] == names[1:]


def test_the_evaluation_and_the_report_are_there(fitted: Path) -> None:
    summary = json.loads((fitted / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert sorted(summary["runs"]) == ["pcl-m2-fold0", "pcl-m2-fold1", "pcl-m2-fold2"]
    rows = (fitted / "evaluation" / "per_case.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 3
    page = (fitted / "report" / "index.html").read_text(encoding="utf-8")
    assert "pcl-m2-fold0" in page


@pytest.mark.slow
def test_again_there_is_nothing_to_do(fitted: Path, phantom_scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*fitted.glob("prepared/*"), *fitted.glob("runs/*/*"), *fitted.glob("predictions/*")]
    before = {path: path.stat().st_mtime_ns for path in files}
    run_fit(phantom_scans, fitted)
    said = capsys.readouterr().err
    said_in_a_line = " ".join(said.split())
    assert said_in_a_line.count("runs/pcl: nothing to do") == 1
    folds = "pcl-m2-fold0, pcl-m2-fold1, pcl-m2-fold2"
    assert said_in_a_line.count(f"runs: 3 runs are up to date, nothing to do: {folds}") == 1
    assert said_in_a_line.count("predictions: 4 sets of label maps are up to date, nothing to do") == 1
    assert said.count("nothing to do") == 4  # prepare's too
    assert "step" not in said
    assert {path: path.stat().st_mtime_ns for path in files} == before


@pytest.mark.slow
def test_a_pretraining_that_learned_nothing_is_said_at_the_end_and_in_the_report(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("pretrain.steps=60", "pretrain.learning_rate=1e-9", "finetune.steps=2")
    page = fit(phantom_scans, output=tmp_path / "work", method="rotation", preset="tiny", overrides=few, fold=0)
    said = capsys.readouterr().err
    assert "pretrain.learning_rate=3.3e-10" in said
    assert "warning: pre-training rotation learned nothing" in said.split(" report ")[1]
    assert "learned nothing: at its end" in page.read_text(encoding="utf-8").split('<h2 id="done">')[0]


@pytest.mark.slow
def test_other_settings_in_the_same_folder_have_runs_of_their_own(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    usual, other = ("pretrain.steps=1",), ("pretrain.steps=3",)
    run_fit(phantom_scans, work, *usual, fold=0)
    run_fit(phantom_scans, work, *other, fold=0)
    names = {path.name for path in (work / "runs").iterdir()}
    (changed,) = (name for name in names if re.fullmatch(r"pcl-[0-9a-f]{4}", name))
    assert names == {"pcl", "pcl-m2-fold0", changed, f"{changed}-m2-fold0"}
    assert shown(work) == {changed, f"{changed}-m2-fold0"}
    for again, runs in ((usual, {"pcl", "pcl-m2-fold0"}), (other, {changed, f"{changed}-m2-fold0"})):
        capsys.readouterr()
        run_fit(phantom_scans, work, *again, fold=0)
        assert "step" not in capsys.readouterr().err
        assert shown(work) == runs
    assert {path.name for path in (work / "runs").iterdir()} == names


@pytest.mark.slow
def test_what_one_command_scores_and_shows_is_of_its_own_runs(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, method="scratch")
    run_fit(phantom_scans, work, "finetune.steps=1", method="scratch", fold=0)
    (run,) = shown(work)
    assert re.fullmatch(r"scratch-m2-fold0-[0-9a-f]{4}", run)
    summary = json.loads((work / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["runs"] == [run]
    assert summary["scans"] == 1
    assert len(summary["not_scored"]["made by other runs"]) == 2


@pytest.mark.slow
def test_one_more_label_keeps_the_pretraining_and_names_the_networks_that_know_it(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``field_of_view_mm: auto``, as the presets have it."""
    scans, work = Path(shutil.copytree(phantom_scans, tmp_path / "scans")), tmp_path / "work"
    run_fit(scans, work)
    image = nibabel.load(scans / "imagesTr" / "heart_004_0000.nii.gz")
    label = np.zeros(image.shape, np.uint8)
    for value in (1, 2, 3):
        label[16:24, 14 + 2 * value : 16 + 2 * value, 1:4] = value
    nibabel.save(nibabel.Nifti1Image(label, image.affine), scans / "labelsTr" / "heart_004.nii.gz")
    capsys.readouterr()
    run_fit(scans, work)
    said = " ".join(capsys.readouterr().err.split())
    assert "prepared 1 of 6 scans, 4 labelled" in said
    assert "runs/pcl: nothing to do" in said
    named = [f"{work}/runs/pcl-m3-fold{fold}" for fold in range(4)]
    assert f"new scans: lemis predict {' '.join(named)} -i NEW -o MASKS" in said
    assert not (work / "stale").exists()


def correct_label(scans: Path, id: str) -> None:
    """Turn it upside down, with the same size in bytes or another."""
    file = scans / "labelsTr" / f"{id}.nii.gz"
    label = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj)[:, ::-1], label.affine), file)


@pytest.mark.slow
def test_after_a_label_was_corrected_the_same_command_renews_what_depends_on_it(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, work, fresh = Path(shutil.copytree(phantom_scans, tmp_path / "scans")), tmp_path / "work", tmp_path / "fresh"
    run_fit(scans, work, "prepare.field_of_view_mm=60")
    correct_label(scans, "heart_002")
    capsys.readouterr()
    run_fit(scans, work, "prepare.field_of_view_mm=60")
    said = capsys.readouterr().err
    assert said.count("label changed: heart_002") == 3  # two are trained anew, one is scored again
    assert "runs/pcl: nothing to do" in said
    run_fit(scans, fresh, "prepare.field_of_view_mm=60")
    files = [
        *fresh.glob("runs/*/model.safetensors"), *fresh.glob("predictions/*.nii.gz"),
        fresh / "evaluation" / "per_case.csv",
    ]  # fmt: skip
    assert len(files) == 4 + 6 + 1
    for file in files:
        assert (work / file.relative_to(fresh)).read_bytes() == file.read_bytes(), file
    summaries = [json.loads((where / "evaluation/summary.json").read_text(encoding="utf-8")) for where in (work, fresh)]
    last = [summary["protocols"]["paper"]["mean_of_last_steps"] for summary in summaries]
    assert last[0] == last[1]
    assert {path.name.split("-")[0] for path in (work / "stale").iterdir()} == {"pcl"}


@pytest.mark.slow
def test_scores_and_report_alone_say_what_is_out_of_date(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, work = Path(shutil.copytree(phantom_scans, tmp_path / "scans")), tmp_path / "work"
    run_fit(scans, work, "prepare.field_of_view_mm=60", fold=0)
    (held_out,) = load_model(work / "runs" / "pcl-m2-fold0")[1].test_subjects  # type: ignore[union-attr]
    trained = next(id for id in ("heart_001", "heart_002", "heart_003") if id != held_out)

    def said() -> str:
        capsys.readouterr()
        report(work)
        page = (work / "report" / "index.html").read_text(encoding="utf-8")
        told = capsys.readouterr().err
        assert ("Out of date" in page) == ("out of date" in told)
        return told

    evaluate(work)
    assert said() == ""
    correct_label(scans, held_out)
    evaluate(work)
    assert f"pcl-m2-fold0: files changed since they were prepared: {held_out}" in capsys.readouterr().err
    summary = json.loads((work / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert "paper" not in summary["protocols"]
    assert f"was scored on another state of the data: files changed since they were prepared: {held_out}" in said()
    correct_label(scans, trained)
    with pytest.raises(UsageError, match=f"another state of the data: .*{trained}"):
        evaluate(work)
    assert f"was trained on another state of the data: files changed since they were prepared: {trained}" in said()
    prepare(work, settings=resolve(Settings, load_preset("tiny")["prepare"] | {"field_of_view_mm": 60}))
    with pytest.raises(UsageError, match=f"another state of the data: label changed: {trained}"):
        evaluate(work)
    finetune(
        work, pretrained=work / "runs" / "pcl", fold=0, preset="tiny", device="cpu",
        overrides=["steps=2", "precision=32"],
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"was predicted before .*pcl-m2-fold0 was trained anew"):
        evaluate(work)
    run_fit(scans, work, "prepare.field_of_view_mm=60", fold=0)
    evaluate(work)
    assert said() == ""


@pytest.mark.slow
def test_a_label_more_or_less_and_another_image_train_anew(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, work = Path(shutil.copytree(phantom_scans, tmp_path / "scans")), tmp_path / "work"

    def again() -> str:
        capsys.readouterr()
        run_fit(scans, work, "prepare.field_of_view_mm=60", fold=0)
        return capsys.readouterr().err

    again()
    file = scans / "imagesTr" / "heart_001_0000.nii.gz"
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.sqrt(np.abs(image.get_fdata(dtype=np.float32))), image.affine), file)
    said = again()
    assert "image changed: heart_001" in said
    assert "the weights that it starts from changed" in said
    (scans / "labelsTr" / "heart_002.nii.gz").unlink()
    said = again()
    assert "runs/pcl: nothing to do" in said
    assert "pcl-m1-fold0" in said  # one labelled subject fewer
    assert shown(work) == {"pcl", "pcl-m1-fold0"}


@pytest.mark.slow
def test_steps_are_announced_and_nobody_else_speaks(
    phantom_scans: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_fit(phantom_scans, tmp_path / "work", "finetune.precision=bf16", fold=0)
    said = capfd.readouterr().err
    rules = re.findall(r"─+ (\w+) ─+", said)
    assert rules == ["check", "prepare", "pretrain", "finetune", "predict", "evaluate", "report"]
    assert "Using bfloat16" not in said


@pytest.mark.slow
def test_enough_held_out_scans_decide_what_is_one_piece(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for last in ("_evaluate", "_report"):
        monkeypatch.setattr(module, last, lambda *_: None)
    scans = phantom.write_dataset(tmp_path / "scans", subjects=7, labelled=6, shape=(32, 32, 3))
    work = tmp_path / "work"
    run_fit(scans, work, method="scratch")
    raw = json.loads((work / "held_out" / "predictions.json").read_text(encoding="utf-8"))["scans"]
    made = record(work)["scans"]
    assert len(raw) == 6
    assert {one["kept"] for one in raw.values()} == {None}
    assert set(made) == {*raw, "heart_007"}
    names = ("background", "RV", "MYO", "LV")

    def read(folder: Path, id: str) -> np.ndarray:
        return volume.read(folder / f"{id}.nii.gz").array.astype(np.uint8)

    effects = {id: components.effect(read(work / "held_out", id), read(scans / "labelsTr", id), names) for id in raw}
    for id, one in made.items():
        others = [found for other, found in effects.items() if other not in _tested_with(raw, id)]
        expected = read(work / "held_out", id) if id in raw else None
        if len(others) < components.LEAST_SUBJECTS:
            assert one["kept"] is None or one["kept"].get("by", "labels") == "labels"
            continue
        decided = components.decide(others, names)
        kept = None if one["kept"] is None else Kept.model_validate_json(json.dumps(one["kept"]))
        assert kept == (None if decided == OnePiece() else Kept(**dict(decided), by="held-out scans"))
        if expected is not None:
            components.keep_largest(expected, names, kept or Kept())
            np.testing.assert_array_equal(read(work / "predictions", id), expected)
    capsys.readouterr()
    run_fit(scans, work, method="scratch")
    assert "predicted" not in capsys.readouterr().err


def _tested_with(made: dict[str, Any], id: str) -> set[str]:
    return {other for other, one in made.items() if id in made and one["runs"] == made[id]["runs"]}


@pytest.mark.slow
def test_one_fold_holds_its_subjects_out(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, fold=2, labelled=1)
    assert sorted(path.name for path in (work / "runs").iterdir()) == ["pcl", "pcl-m1-fold2"]
    _, facts = load_model(work / "runs" / "pcl-m1-fold2")
    (held_out,) = facts.test_subjects
    assert set(record(work)["scans"]) == {held_out, "heart_004", "heart_005", "heart_006"}
    assert held_out in load_model(work / "runs" / "pcl")[1].subjects  # its image, never its label


@pytest.mark.slow
def test_inductive_pretraining_never_saw_the_held_out_scans(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, fold=2, inductive=True)
    _, facts = load_model(work / "runs" / "pcl-without-fold2-m2-fold2")
    (held_out,) = facts.test_subjects
    assert held_out not in facts.pretraining_subjects
    assert len(facts.pretraining_subjects) == 5
    assert held_out not in record(work)["scans"][held_out]["pretraining_subjects"]


@pytest.mark.parametrize("said", ["40 labelled subjects", "3 labelled subjects"])
def test_more_labels_than_a_fold_has_are_refused_before_anything_is_written(
    phantom_scans: Path, tmp_path: Path, said: str
) -> None:
    """Of three labelled subjects each fold holds one out."""
    more = {"labelled": int(said.split()[0]), "preset": "tiny"}
    with pytest.raises(UsageError, match=said) as caught:
        asked.fit(phantom_scans, output=tmp_path / "work", **more)
    assert caught.value.next == "--labelled 2"


def test_inductive_needs_a_fold(phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--inductive without a fold"):
        run_fit(phantom_scans, tmp_path, inductive=True)


@pytest.mark.slow
def test_scratch_and_a_seed(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, method="scratch", fold=0, seed=3)
    assert [path.name for path in (work / "runs").iterdir()] == ["scratch-seed3-m2-fold0"]
    assert yaml.safe_load((work / "runs/scratch-seed3-m2-fold0/settings.yaml").read_text(encoding="utf-8"))["seed"] == 3


@pytest.mark.slow
def test_one_labelled_subject_trains_one_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = phantom.write_dataset(tmp_path / "scans", subjects=3, labelled=1, shape=(40, 40, 5))
    work = tmp_path / "work"
    assert run_fit(scans, work).exists()
    assert "one labelled subject: nothing is left to evaluate on" in capsys.readouterr().err
    assert sorted(path.name for path in (work / "runs").iterdir()) == ["pcl", "pcl-m1-all"]
    assert set(record(work)["scans"]) == {"heart_002", "heart_003"}
    assert not (work / "evaluation").exists()


def test_no_label_at_all_is_refused_before_any_work(tmp_path: Path) -> None:
    scans = phantom.write_dataset(tmp_path / "scans", subjects=2, labelled=0, shape=(32, 32, 4))
    with pytest.raises(UsageError, match="no scan has a label") as caught:
        run_fit(scans, tmp_path / "work")
    assert "label a few scans" in caught.value.next
    assert not (tmp_path / "work" / "prepared").exists()


def test_labels_that_mark_nothing_are_refused_before_any_work(phantom_scans: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(phantom_scans, scans)
    _, *others = sorted((scans / "labelsTr").iterdir())
    for file in others:
        stored = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.zeros(stored.shape, np.uint8), stored.affine, stored.header), file)
    with pytest.raises(UsageError, match=r"labels of heart_\S+, heart_\S+ mark nothing"):
        run_fit(scans, tmp_path / "work")  # where the one that marks something is held out
    assert not (tmp_path / "work" / "prepared").exists()


def test_a_fold_that_is_not_there_is_refused_before_any_work(phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fold 7"):
        run_fit(phantom_scans, tmp_path / "work", fold=7)
    assert not (tmp_path / "work" / "prepared").exists()


def test_faults_of_the_data_stop_it_with_their_own_exit_code(phantom_scans: Path, tmp_path: Path) -> None:
    scans = Path(shutil.copytree(phantom_scans, tmp_path / "scans"))
    file = scans / "labelsTr" / "heart_002.nii.gz"
    label = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), file)
    with pytest.raises(DataFault, match="1 error in") as caught:
        run_fit(scans, tmp_path / "work")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "work" / "prepared").exists()


@pytest.mark.slow
def test_overrides_reach_their_section(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    more = (
        "prepare.spacing_mm=3",
        "method.temperature=0.2",
        "backbone.base_width=2",
        "finetune.objective.batch_size=3",
        "predict.largest_components=true",
    )
    run_fit(phantom_scans, work, *more, fold=0)
    pretraining, finetuning = (
        yaml.safe_load((work / "runs" / name / "settings.yaml").read_text(encoding="utf-8"))
        for name in ("pcl", "pcl-m2-fold0")
    )
    assert pretraining["prepared"]["spacing_mm"] == 3.0
    assert pretraining["method"]["temperature"] == 0.2
    assert (pretraining["steps"], finetuning["steps"]) == (2, 2)
    assert pretraining["backbone"]["base_width"] == finetuning["backbone"]["base_width"] == 2
    assert finetuning["objective"]["batch_size"] == 3
    assert {made["kept"]["by"] for made in record(work)["scans"].values()} == {"command"}


@pytest.mark.parametrize(
    ("override", "given", "next"),
    [
        ("epochs=3", "setting epochs", "pretrain.epochs=... or finetune.epochs=..."),
        ("method=pcl", "setting method", "--method pcl"),
        ("prepare=2", "setting prepare", "prepare.SETTING=..."),
        ("pretrain.epoch=3", "unknown setting pretrain.epoch", "pretrain.epochs=..."),
        ("method.windw=3", "unknown setting method.windw", "method.window=..."),
        ("finetune.objective.batch=3", "unknown setting finetune.objective.batch", "finetune.objective.batch_size=..."),
        ("predict.largest=true", "unknown setting predict.largest", "predict.largest_components=..."),
        ("finetune.step=3", "unknown setting finetune.step", "finetune.steps=..."),
        ("prepare.keypoints.mots=3", "unknown setting prepare.keypoints.mots", "prepare.keypoints.most=..."),
        ("prepare.spacing=3", "unknown setting prepare.spacing", "prepare.spacing_mm=..."),
    ],
)
def test_a_mistyped_setting_is_refused_with_the_nearest_before_any_work(
    override: str, given: str, next: str, phantom_scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        run_fit(phantom_scans, tmp_path / "work", override, method="sal")
    assert (caught.value.given, caught.value.next) == (given, next)
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_the_method_is_the_presets(phantom_scans: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("method: scratch\nbackbones: {unet2d: {base_width: 2}}\nfinetune: {objective: {size_px: 32}}\n")
    run_fit(phantom_scans, tmp_path / "work", method=None, preset=str(preset), fold=0)
    assert [path.name for path in (tmp_path / "work" / "runs").iterdir()] == ["scratch-m2-fold0"]


@pytest.mark.slow
def test_a_network_that_looks_at_keypoints_finds_them_itself(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, method="scratch", fold=0)
    images = {path: path.stat().st_mtime_ns for path in (work / "prepared").glob("*.npy")}
    assert images
    assert open_store(work / "prepared").keypoint_settings is None
    run_fit(phantom_scans, work, method="scratch", backbone="kaf_unet", fold=0)
    assert open_store(work / "prepared").keypoint_settings == {"detector": "sift", "most": 16}
    assert {path: path.stat().st_mtime_ns for path in (work / "prepared").glob("*.npy")} == images
    assert {path.name for path in (work / "runs").iterdir()} == {"scratch-m2-fold0", "scratch-kaf_unet-m2-fold0"}
    assert "scratch-kaf_unet-m2-fold0" in (work / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_method_of_another_network(phantom_scans: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_fit(phantom_scans, work, method="kaf", fold=0)
    assert {path.name for path in (work / "runs").iterdir()} == {"kaf", "kaf-m2-fold0"}
    assert load_model(work / "runs" / "kaf-m2-fold0")[1].backbone == "kaf_unet"


def test_a_wrong_pair_and_too_few_keypoints_are_refused_before_any_work(phantom_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="method kaf on the network unet2d"):
        run_fit(phantom_scans, tmp_path / "work", method="kaf", backbone="unet2d")
    with pytest.raises(UsageError, match=r"prepare\.keypoints: sift, 3 of a slice") as caught:
        run_fit(phantom_scans, tmp_path / "work", "prepare.keypoints.most=3", method="kaf")
    assert caught.value.next == "prepare.keypoints.detector=sift prepare.keypoints.most=16"
    assert not (tmp_path / "work").exists()


def test_several_processes_are_refused(phantom_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="fit in 2 processes") as caught:
        run_fit(phantom_scans, tmp_path)
    assert "torchrun --no-python lemis pretrain" in caught.value.next
