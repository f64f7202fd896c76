"""compare: cells run once, go on where they were stopped, and fail alone."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import yaml

from lemis import phantom
from lemis.datasets import index as index_file
from lemis.errors import DataFault, UsageError
from lemis.preparation.store import open_store
from lemis.runs.run import load_model
from lemis.verbs import compare as module
from lemis.verbs.compare import Outcome, compare
from lemis.verbs.fit import fit

PLAN: dict[str, Any] = {
    "title": "Is it worth it?", "preset": "tiny", "rows": ["scratch", "pcl"], "labelled": [1, 2], "folds": [0, 1],
    "settings": {
        "pretrain": {"steps": 2, "precision": "32"}, "finetune": {"steps": 2, "precision": "32"},
    },
}  # fmt: skip
COSTS = [f"{verb}_{what}" for verb in ("pretraining", "finetuning") for what in ("core_seconds", "seconds")]
COSTS += ["peak_memory_gb"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "few.yaml"
    path.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(phantom_scans: Path, prepared_work: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the plan run to its end."""
    work = tmp_path_factory.mktemp("compared") / "work"
    shutil.copytree(prepared_work, work)
    done = compare(phantom_scans, output=work, plan=plan, device="cpu")
    assert done == Outcome(work / "comparisons" / "few")
    return work


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many trainings were begun."""
    counted = Counter[str]()
    for verb in ("pretrain", "finetune"):
        original = getattr(module, verb)

        def count(*given: Any, _verb: str = verb, _original: Any = original, **named: Any) -> Path:
            counted[_verb] += 1
            run: Path = _original(*given, **named)
            return run

        monkeypatch.setattr(module, verb, count)
    return counted


def table(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def without_costs(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in COSTS} for row in table(folder)]


def missing(folder: Path) -> list[dict[str, Any]]:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    left: list[dict[str, Any]] = facts["missing"]
    return left


# --------------------------------------------------------------------------------------------- what is refused at once


def test_options_that_contradict_each_other_are_refused(tmp_path: Path, plan: Path) -> None:
    scans, work = tmp_path / "scans", tmp_path / "work"
    for given, said in (
        ({"overrides": ["upstream=chd"]}, "a plan that pre-trains on chd, without it"),
        ({"upstream": scans, "overrides": ["inductive=true"]}, "--upstream of an inductive plan"),
        ({"jobs": 2, "on": "ray"}, "--jobs 2 --on ray"),
        ({"emit": "pbs"}, "--emit pbs"),
        ({"cell": "abc"}, "--cell abc of"),
    ):
        with pytest.raises(UsageError, match=said):
            compare(scans, output=work, plan=plan, **given)  # type: ignore[arg-type]
    assert not work.exists()


def test_scans_with_errors_and_scans_of_another_layout_are_refused(
    phantom_scans: Path, plan: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(phantom_scans, tmp_path / "broken"))
    next(iter(sorted((broken / "imagesTr").iterdir()))).write_bytes(b"no image")
    with pytest.raises(DataFault, match="1 error in"):
        compare(broken, output=tmp_path / "work", plan=plan)
    with pytest.raises(UsageError, match="in the layout nnunet, where the plan is for acdc"):
        compare(phantom_scans, output=tmp_path / "work", plan=plan, overrides=["data=acdc"])


def test_a_scan_under_two_names_is_refused_before_anything_is_prepared(
    phantom_scans: Path, plan: Path, tmp_path: Path
) -> None:
    scans = Path(shutil.copytree(phantom_scans, tmp_path / "scans"))
    for file in (*scans.glob("imagesTr/heart_001*"), *scans.glob("labelsTr/heart_001*")):
        stored = nibabel.load(file)
        voxels = np.asarray(stored.dataobj) * (2 if file.parent.name == "imagesTr" else 1)
        copy = nibabel.Nifti1Image(voxels, stored.affine, stored.header)
        nibabel.save(copy, file.with_name(file.name.replace("heart_001", "heart_009")))
    facts = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    (scans / "dataset.json").write_text(json.dumps(facts | {"numTraining": facts["numTraining"] + 1}), encoding="utf-8")
    with pytest.raises(DataFault, match="1 error in"):
        compare(scans, output=tmp_path / "work", plan=plan, overrides=["folds=all", "labelled=[1]"])
    with pytest.raises(DataFault, match="1 error in"):
        fit(scans, output=tmp_path / "work")
    assert not (tmp_path / "work" / "prepared").exists()
    (fault,) = json.loads((tmp_path / "work" / "check.json").read_text(encoding="utf-8"))["faults"]
    assert (fault["scan"], fault["kind"]) == ("heart_009", "same voxels twice")
    assert "has the same voxels as heart_001 (imagesTr/heart_001_0000.nii.gz), values times 2, " in fault["seen"]


def channels(folder: Path, count: int) -> Path:
    """The same scans with so many channels."""
    for file in folder.glob("images*/*_0000.nii.gz"):
        for number in range(1, count):
            shutil.copyfile(file, file.with_name(file.name.replace("_0000", f"_{number:04d}")))
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    facts["channel_names"] = {str(number): f"T{number}" for number in range(count)}
    (folder / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_another_data_set_with_other_channels_is_refused(phantom_scans: Path, plan: Path, tmp_path: Path) -> None:
    scans = channels(Path(shutil.copytree(phantom_scans, tmp_path / "two")), 2)
    with pytest.raises(UsageError, match="--upstream with 1 channel, where the scans have 2"):
        compare(scans, output=tmp_path / "work", plan=plan, upstream=phantom_scans)


# ------------------------------------------------------------------------------------------------------- run to the end


@pytest.mark.slow
def test_every_row_has_every_place_and_its_own_subjects(compared: Path) -> None:
    folder = compared / "comparisons" / "few"
    rows = table(folder)
    places = {(row["row"], row["labelled"], row["fold"]) for row in rows}
    assert len(places) == 2 * 2 * 2
    assert {row["structure"] for row in rows} == {"RV", "MYO", "LV", "mean"}
    assert all(
        0 <= float(row["pooled_dice_last"]) <= float(row["pooled_dice_best"]) <= 1
        and 0 <= float(row["jaccard_best"]) <= float(row["pooled_dice_best"])
        and float(row["hd95_px_best"]) >= 0 <= float(row["asd_px_last"])
        for row in rows
        if row["structure"] == "mean"
    )
    assert {row["transductive"] for row in rows if row["row"] == "pcl"} == {"true"}
    assert {row["pretraining_seconds"] for row in rows if row["row"] == "scratch"} == {""}
    assert missing(folder) == []
    scored = {(case["fold"], case["subject"]) for case in table(folder, "cases.csv")}
    for row in rows:
        cell = json.loads((folder / "cells" / row["cell"] / "cell.json").read_text(encoding="utf-8"))
        _, facts = load_model(compared / "runs" / cell["run"])
        assert len(facts.labelled_subjects) == int(row["labelled"])
        assert {subject for fold, subject in scored if fold == row["fold"]} == set(facts.test_subjects)
    assert (folder / "index.html").is_file()
    assert (folder / "table.md").is_file()


@pytest.mark.slow
def test_a_pretraining_that_several_share_is_counted_once(compared: Path) -> None:
    folder = compared / "comparisons" / "few"
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    lines = {row["cell"]: row for row in table(folder)}.values()
    before = {float(row["pretraining_core_seconds"]) for row in lines if row["pretraining_core_seconds"]}
    assert len(before) == 1
    wanted = sum(before) + sum(float(row["finetuning_core_seconds"]) for row in lines)
    assert facts["core_seconds"] == pytest.approx(wanted)


@pytest.mark.slow
def test_the_mean_of_results_is_that_of_cases(compared: Path) -> None:
    folder = compared / "comparisons" / "few"
    for row in table(folder):
        if row["structure"] != "mean":
            own = [
                float(c["dice"])
                for c in table(folder, "cases.csv")
                if (c["cell"], c["structure"]) == (row["cell"], row["structure"])
            ]
            assert float(row["dice"]) == pytest.approx(sum(own) / len(own))
            assert int(row["scans"]) == len(own)


@pytest.mark.slow
def test_one_pretraining_serves_all_and_a_cell_keeps_no_predictions(compared: Path) -> None:
    runs = [path.name.split("-")[0] for path in (compared / "runs").iterdir()]
    assert len([path for path in (compared / "runs").iterdir() if "-m" not in path.name]) == 1
    assert Counter(runs) == {"scratch": 4, "pcl": 5}
    for cell in (compared / "comparisons" / "few" / "cells").iterdir():
        assert (cell / "result.json").is_file()
        assert json.loads((cell / "status.json").read_text(encoding="utf-8"))["state"] == "done"
        assert "-- " in (cell / "log.txt").read_text(encoding="utf-8")
        assert not (cell / "predictions").exists()


@pytest.mark.slow
def test_again_nothing_is_trained_and_nothing_changes(
    compared: Path, phantom_scans: Path, plan: Path, trainings: Counter[str]
) -> None:
    folder = compared / "comparisons" / "few"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    compare(phantom_scans, output=compared, plan=plan, device="cpu")
    assert not trainings
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert kept.keys() == before.keys()
    assert [path for path in kept if kept[path] != before[path] and path.suffix in (".csv", ".json", ".yaml")] == []


@pytest.mark.slow
def test_another_comparison_takes_over_what_is_done_and_runs_what_changed(
    compared: Path, phantom_scans: Path, plan: Path, trainings: Counter[str]
) -> None:
    done = compare(phantom_scans, output=compared, plan=plan, name="other", overrides=["labelled=[1]"], device="cpu")
    assert not trainings
    assert len(table(done.folder)) == 2 * 2 * 4
    changed = ["rows=[scratch]", "folds=[0]", "labelled=[1]", "settings.finetune.steps=3"]
    compare(
        phantom_scans, output=compared, plan=plan, name="longer", overrides=changed, device="cpu", keep_predictions=True
    )
    assert trainings == {"finetune": 1}
    assert len(list((compared / "comparisons" / "longer").glob("cells/*/predictions/*.nii.gz"))) == 1


@pytest.mark.slow
def test_rows_that_differ_in_prediction_alone_are_trained_once(
    phantom_scans: Path, prepared_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    rows = [
        {"title": str(kept), "method": "scratch", "settings": {"predict": {"largest_components": kept}}}
        for kept in ("auto", True, False)
    ]
    few = tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump({**PLAN, "rows": rows, "labelled": [1], "folds": [0]}), encoding="utf-8")
    done = compare(phantom_scans, output=work, plan=few, device="cpu", keep_predictions=True)
    assert done.failed == ()
    (run,) = (work / "runs").iterdir()
    lines = table(done.folder)
    assert {line["row"] for line in lines} == {"auto", "True", "False"}
    assert len({line["cell"] for line in lines}) == 3
    costs = {line["finetuning_core_seconds"] for line in lines}
    facts = json.loads((done.folder / "facts.json").read_text(encoding="utf-8"))
    assert [facts["core_seconds"]] == [float(cost) for cost in costs]
    kept = set()
    for file in done.folder.glob("cells/*/predictions/predictions.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        kept |= {
            None if made["kept"] is None else made["kept"].get("by", "labels") for made in record["scans"].values()
        }
        assert {made["runs"][0] for made in record["scans"].values()} == {run.name}
    assert kept == {None, "labels", "command"}
    capsys.readouterr()
    compare(phantom_scans, output=work, plan=few, device="cpu", keep_predictions=True)
    assert "3 cells, 3 done" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_started_again_it_comes_to_the_same(
    compared: Path, phantom_scans: Path, prepared_work: Path, plan: Path, tmp_path: Path, trainings: Counter[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    scored = module.predict

    def interrupted(*given: Any, **named: Any) -> Path:
        if trainings["finetune"] == 3:
            raise KeyboardInterrupt
        return scored(*given, **named)

    monkeypatch.setattr(module, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(phantom_scans, output=work, plan=plan, device="cpu")
    assert "the same command goes on" in capsys.readouterr().err
    assert trainings == {"finetune": 3}
    monkeypatch.setattr(module, "predict", scored)
    done = compare(phantom_scans, output=work, plan=plan, device="cpu")
    assert trainings == {"finetune": 3 + 6, "pretrain": 1}  # the third only looks at its finished run
    whole = compared / "comparisons" / "few"
    assert without_costs(done.folder) == without_costs(whole)
    assert (done.folder / "cases.csv").read_bytes() == (whole / "cases.csv").read_bytes()


@pytest.mark.slow
def test_a_failing_row_is_reported_and_the_others_go_on(
    compared: Path, phantom_scans: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    package = tmp_path / "broken_lab"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "idea.py").write_text(
        "from lemis.methods import pcl\nfrom lemis.methods.pcl import Settings\n"
        "class Method(pcl.Method):\n    def forward(self, batch, rng):\n        raise ValueError('no such idea')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = compare(
        phantom_scans,
        output=compared,
        plan=plan,
        name="broken",
        overrides=["rows=[scratch, broken_lab.idea]"],
        device="cpu",
    )
    assert len(done.failed) == 1 + 4
    assert len(missing(done.folder)) == 4
    assert {gap["row"] for gap in missing(done.folder)} == {"broken_lab.idea"}
    assert {row["row"] for row in table(done.folder)} == {"scratch"}
    said = capsys.readouterr().err
    assert "no such idea" in said
    failed = [
        path.parent for path in done.folder.glob("cells/*/status.json") if "no such idea" in path.read_text("utf-8")
    ]
    assert str(failed[0] / "log.txt") in said
    assert "Traceback" in (failed[0] / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes_and_leaves_only_its_probe(
    compared: Path, phantom_scans: Path, plan: Path, trainings: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"output": compared, "plan": plan, "name": "dry", "device": "cpu"}
    folder = compare(phantom_scans, dry_run=True, overrides=["seeds=[7]"], **given).folder
    assert [path.name for path in folder.iterdir()] == ["probe.json"]
    assert not trainings
    said = capsys.readouterr().out
    assert "9 cells, 9 missing" in said
    assert "GB of disk" in said
    probes = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    assert sorted(round(one["images"]) for one in probes.values()) == [4, 16]  # two views of 8 slices
    before = (folder / "probe.json").read_bytes()
    # A budget is turned into steps by that probe, so that another run makes the same cells.
    more = ["seeds=[7]", "rows=[pcl]", "baseline=pcl", "labelled=[1]", "folds=[0]", "budget.images=50"]
    compare(phantom_scans, overrides=more, **given)
    assert (folder / "probe.json").read_bytes() == before
    assert trainings == {"pretrain": 1, "finetune": 1}
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("cells/*/cell.json")]
    assert {cell["call"]["overrides"]["steps"] for cell in cells if cell["kind"] == "pretrain"} == {3}


@pytest.mark.slow
def test_an_array_job_runs_cell_by_cell(
    compared: Path, phantom_scans: Path, plan: Path, trainings: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"output": compared, "plan": plan, "name": "array", "device": "cpu"}
    folder = compare(phantom_scans, emit="slurm", overrides=["seeds=[9]", "labelled=[1]"], **given).folder
    assert (folder / "slurm" / "submit.sh").is_file()
    assert not trainings
    before, after = ((folder / "slurm" / f"level{level}_part0.keys").read_text().split() for level in (0, 1))
    with pytest.raises(UsageError, match="needs what is not done: pcl: pre-training, seed 9"):
        compare(phantom_scans, cell=after[0], **given)
    for key in (*before, *after):
        assert compare(phantom_scans, cell=key, **given).failed == ()
    assert trainings == {"pretrain": 1, "finetune": 4}
    compare(phantom_scans, cell=after[0], **given)
    assert "nothing to do" in capsys.readouterr().err
    compare(phantom_scans, overrides=["seeds=[9]", "labelled=[1]"], **given)
    assert trainings == {"pretrain": 1, "finetune": 4}
    assert missing(folder) == []


@pytest.mark.slow
def test_pretraining_on_another_data_set(
    compared: Path, phantom_scans: Path, plan: Path, tmp_path: Path, trainings: Counter[str]
) -> None:
    other = phantom.write_dataset(tmp_path / "other", subjects=2, labelled=1, shape=(40, 40, 5), seed=5)
    other = channels(other, 2)  # MACL pre-trains on four and fine-tunes on one
    few = ["labelled=[1]", "folds=[0]", "upstream=nnunet", "upstream_prepare.clip_percentiles=[1,99]"]
    done = compare(
        phantom_scans, output=compared, plan=plan, name="upstream", overrides=few, upstream=other, device="cpu"
    )
    assert trainings == {"pretrain": 1, "finetune": 1}
    assert {row["transductive"] for row in table(done.folder)} == {"false"}
    assert len(list((compared / "upstream" / "runs").iterdir())) == 1
    logs = [path.read_text(encoding="utf-8") for path in done.folder.glob("cells/*/log.txt")]
    assert any("2 input channels summed" in log for log in logs)
    assert index_file.load(compared / "upstream" / "index.json").layout == "nnunet"
    prepared = [open_store(work / "prepared").settings for work in (compared / "upstream", compared)]
    assert [settings["clip_percentiles"] for settings in prepared] == [[1, 99], None]


# ----------------------------------------------------------------------------------------------------- single images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of a bright disc with noise, and where it is."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:40, :40]
    for number in range(3):
        disc = (row - 20) ** 2 + (col - 15 - 2 * number) ** 2 < 80
        for name, image in (("images", 60 + 120 * disc + rng.normal(0, 8, disc.shape)), ("labels", 255 * disc)):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"disc{number}.png"), image.clip(0, 255).astype(np.uint8))
    return tmp_path


@pytest.mark.slow
def test_single_images_are_compared_without_labels_or_folds(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = ({"method": {"clusters": clusters, "starts": 1, "max_iterations": 20}} for clusters in (2, 6))
    rows = [{"method": "kmeans", "settings": few}, {"title": "many", "method": "kmeans", "settings": many}]
    plan = tmp_path / "discs.yaml"
    plan.write_text(yaml.safe_dump({"kind": "single", "rows": rows, "seeds": [0, 1]}), encoding="utf-8")
    given: dict[str, Any] = {"output": tmp_path / "work", "plan": plan, "device": "cpu"}
    compare(pictures, dry_run=True, **given)
    assert "4 cells of 3 images, 4 missing" in capsys.readouterr().err
    done = compare(pictures, **given)
    assert done.failed == ()
    results, cases = table(done.folder), table(done.folder, "cases.csv")
    assert len(cases) == 2 * 2 * 3
    assert [row["labelled"] for row in results] == ["0"] * len(results)
    mean = {row["row"]: float(row["dice"]) for row in results if row["structure"] == "mean"}
    assert mean["kmeans"] > 0.9 > mean["many"]
    assert all(0 <= float(case["hm"]) <= 1 for case in cases)
    before = (done.folder / "results.csv").read_bytes()
    monkeypatch.setattr(module, "segment_one", None)  # nothing is left to do
    compare(pictures, **given)
    assert (done.folder / "results.csv").read_bytes() == before
    monkeypatch.undo()
    half = compare(pictures, overrides=["size_px=24", "seeds=[0]"], name="half", **given)
    assert (half.folder / "results.csv").read_bytes() != before
    (pictures / "labels" / "disc2.png").unlink()
    with pytest.raises(UsageError, match="no reference for disc2"):
        compare(pictures, **given)


def test_an_image_that_cannot_be_segmented_fails_its_cells(pictures: Path, tmp_path: Path) -> None:
    (pictures / "images" / "disc1.png").write_bytes(b"no picture")
    plan = tmp_path / "discs.yaml"
    plan.write_text(yaml.safe_dump({"kind": "single", "rows": ["kmeans"]}), encoding="utf-8")
    done = compare(pictures, output=tmp_path / "work", plan=plan, device="cpu")
    assert done.failed == ("kmeans: 3 images, seed 0",)
    assert missing(done.folder)[0]["reason"].startswith("disc1")
