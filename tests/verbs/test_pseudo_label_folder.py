"""Self-training: label maps of a teacher as labels of the pool, in files, and what every result says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lemis.datasets import index as index_file
from lemis.datasets.split import choose
from lemis.errors import DataFault, Interrupted, UsageError
from lemis.preparation.store import Store, open_store
from lemis.runs import material
from lemis.runs.run import load_model
from lemis.training import pool, pseudo_labels
from lemis.training.guards import Signals
from lemis.verbs.compare import compare
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict
from lemis.work_files import predictions
from lemis.work_files.run import read_finetuned, read_settings
from plans_made import compared

WHERE = {"preset": "tiny", "device": "cpu", "fold": 0, "labelled": 1}


def tune(work: Path, *overrides: str, **given: object) -> Path:
    arguments: dict[str, object] = {**WHERE, **given}
    return finetune(work, overrides=["steps=4", "precision=32", *overrides], **arguments)  # type: ignore[arg-type]


def scans_of_the_pool(work: Path, labelled: int = 1) -> list[str]:
    scans = open_store(work / "prepared").scans
    split = choose(scans, fold=0, labelled=labelled)
    return [scans[i].id for i in pool.chosen([(one.subject, one.labelled) for one in scans], split, pool.Settings())]


def maps_of(work: Path, teacher: Path, name: str = "maps", scans: list[str] | None = None) -> Path:
    return predict(teacher, scans=scans or scans_of_the_pool(work), output=work / name, device="cpu")


def student(work: Path, maps: Path, *overrides: str, **given: object) -> Path:
    return tune(work, *overrides, semi="self_training", pseudo_labels=maps, **given)


def same(first: Path, second: Path) -> bool:
    one, other = load_model(first)[0], load_model(second)[0]
    return all(torch.equal(one[key], other[key]) for key in one)


def correct(maps: Path, scan: str, change: Callable[[Any], Any]) -> None:
    """As a person does it with another program."""
    file = next(maps.glob(f"{scan}.*"))
    stored: Any = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(stored.dataobj)), stored.affine, stored.header), file)


@pytest.mark.slow
def test_a_student_learns_from_the_label_maps_and_says_whose_they_are(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tune(work)
    maps = maps_of(work, teacher)
    split = choose(open_store(work / "prepared").scans, fold=0, labelled=1)
    original = Store.label

    def opened(self: Store, scan: int) -> Any:
        assert self.scans[scan].subject in {*split.labelled_subjects, *split.test_subjects}, "a label of the pool"
        return original(self, scan)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "label", opened)
        run = student(work, maps)
    assert run.name == "scratch-self_training-m1-fold0"
    assert read_settings(run)["pseudo_labels"] == [teacher.name]
    facts, taught = read_finetuned(run), material.read(run)
    assert facts.teacher is not None
    assert facts.teacher.runs == (teacher.name,)
    assert facts.teacher.labelled_subjects == split.labelled_subjects
    assert taught is not None
    assert sorted(taught.pseudo_labels) == sorted(scans_of_the_pool(work))
    assert [one.label is None for one in taught.scans.values()].count(False) == 1
    assert not (run / pseudo_labels.FOLDER).exists(), "what was prepared for the training alone"
    assert not same(run, teacher)
    capsys.readouterr()
    assert student(work, maps) == run
    assert "nothing to do" in capsys.readouterr().err
    scan = scans_of_the_pool(work)[0]
    correct(maps, scan, lambda label: label[::-1])
    before = load_model(run)[0]
    assert student(work, maps) == run
    assert f"pseudo-label changed: {scan}" in " ".join(capsys.readouterr().err.split())
    assert any(not torch.equal(value, before[key]) for key, value in load_model(run)[0].items())


@pytest.mark.parametrize("setting", ["semi.weight=0", "semi.true_only=1"])
def test_without_pseudo_labels_it_is_the_teacher_bit_for_bit(setting: str, work: Path) -> None:
    teacher = tune(work)
    assert same(student(work, maps_of(work, teacher), setting), teacher)


def test_rows_of_the_pool_have_the_label_maps_as_prepare_would_prepare_them(work: Path) -> None:
    """Label maps that are the true labels, as they lie in the scans, are the prepared labels, bit for bit."""
    teacher = tune(work)
    store, listed = open_store(work / "prepared"), index_file.load(work / "index.json")
    scans = [scan for scan in listed.scans if scan.label is not None and scan.id in scans_of_the_pool(work)]
    assert scans
    maps = maps_of(work, teacher)
    for scan in scans:
        truth = nibabel.load(index_file.locate(listed, str(scan.label)))
        correct(maps, scan.id, lambda label, truth=truth: np.asarray(truth.dataobj).astype(label.dtype))
    split = choose(store.scans, fold=0, labelled=1)
    places = [store.index_of(scan.id) for scan in scans]
    labels = pseudo_labels.PseudoLabels(maps, store, listed, places, split)
    with labels.prepared(work, lambda: None) as taught:
        for place in places:
            expected = store.label(place)
            assert expected is not None
            assert np.array_equal(taught.label(place), expected)


@pytest.mark.slow
def test_resumed_equals_not_stopped(
    work: Path, fresh_work: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = maps_of(work, tune(work))
    whole, again = student(work, maps), fresh_work("again")
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "take", lambda self: (stop := next(steps) == 2, stop))
        with pytest.raises(Interrupted, match="after step 2"):
            student(again, maps)
    assert same(whole, student(again, maps))


@pytest.mark.slow
def test_volumes(work: Path) -> None:
    given: dict[str, Any] = {"backbone": "unet3d"}
    maps = maps_of(work, tune(work, "steps=1", "evaluations=0", **given))
    run = student(work, maps, "steps=2", "evaluations=0", "semi.largest_component=true", **given)
    assert read_finetuned(run).patch_px == (16, 32, 32)


def refused(work: Path, maps: Path | None, *overrides: str, **given: object) -> UsageError:
    with pytest.raises(UsageError) as error:
        tune(work, *overrides, pseudo_labels=maps, **{"semi": "self_training", **given})
    return error.value


def test_what_is_wrong_is_refused_in_words(work: Path) -> None:
    teacher = tune(work)
    maps = maps_of(work, teacher)
    without = refused(work, None)
    assert "without label maps of the unlabelled scans" in without.given
    assert f"lemis predict {work}/runs/NAME" in str(without.next)
    assert "--semi bcp, which reads none" in refused(work, maps, semi="bcp").given
    assert "without --semi" in refused(work, maps, semi=None).given
    assert "without predictions.json" in refused(work, work / "elsewhere").given
    one, *_ = scans_of_the_pool(work)
    lacking = maps_of(work, teacher, "lacking")
    next(lacking.glob(f"{one}.*")).unlink()
    assert f"of {one}" in refused(work, lacking).given
    record = predictions.read(maps)
    assert record is not None
    other = {**json.loads((maps / predictions.RECORD).read_text(encoding="utf-8")), "structures": {"RV": 3}}
    elsewhere = work / "others"
    elsewhere.mkdir()
    (elsewhere / predictions.RECORD).write_text(json.dumps(other), encoding="utf-8")
    assert "of RV 3" in refused(work, elsewhere).given
    correct(maps, one, lambda label: label + 100)
    with pytest.raises(DataFault, match="label values"):
        student(work, maps)


@pytest.mark.slow
def test_a_teacher_that_saw_labels_which_the_student_may_not_use_is_refused(work: Path) -> None:
    scans = open_store(work / "prepared").scans
    tested = choose(scans, fold=0, labelled=1).test_subjects
    leaky = tune(work, fold=1, labelled=None)
    said = refused(work, maps_of(work, leaky)).given
    assert f"had seen labels of the test subjects {', '.join(sorted(tested))}" in said
    richer = tune(work, labelled=2)
    (more,) = set(read_finetuned(richer).labelled_subjects) - set(choose(scans, fold=0, labelled=1).labelled_subjects)
    assert f"had seen labels of {more}" in refused(work, maps_of(work, richer, "richer")).given


def test_whoever_a_teacher_saw_is_said(work: Path) -> None:
    teacher = tune(work, "semi.transductive=true", semi="entropy")
    run = student(work, maps_of(work, teacher))
    tested = choose(open_store(work / "prepared").scans, fold=0, labelled=1).test_subjects
    assert set(tested) <= set(read_finetuned(run).unlabelled_subjects), "by the teacher"


@pytest.mark.slow
def test_fit_trains_teacher_and_student_and_does_only_what_is_missing(
    phantom_scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "work"

    def run() -> str:
        page = fit(
            phantom_scans, output=output, method="scratch", semi="self_training", labelled=1, fold=0, preset="tiny",
            device="cpu", overrides=["finetune.steps=4", "semi.true_only=0.5"],
        )  # fmt: skip
        return " ".join(page.read_text(encoding="utf-8").split())

    text = run()
    teacher, taught = output / "runs" / "scratch-m1-fold0", output / "runs" / "scratch-self_training-m1-fold0"
    assert read_finetuned(taught).teacher is not None
    assert (output / "pseudo_labels" / teacher.name / predictions.RECORD).is_file()
    assert "which a network trained on the labels alone had segmented" in text
    assert "Rethinking Pre-training and Self-training" in text, "cited"
    weights = (taught / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run()
    assert (taught / "model.safetensors").stat().st_mtime_ns == weights
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_trains_a_teacher_once(phantom_scans: Path, work: Path, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"method": "scratch", "semi": "self_training"}, "scratch",
        {"title": "other", "method": "scratch", "semi": "self_training", "settings": {"semi": {"weight": 0.5}}},
    ]  # fmt: skip
    plan = {"preset": "tiny", "labelled": [1], "folds": [0], "settings": {"finetune": {"steps": 2}}, "rows": rows}
    folder, lines = compared(plan, phantom_scans, work, file := tmp_path / "taught.yaml")
    assert len(list((folder / "cells").iterdir())) == 3, "the teacher of both is the row without"
    found = {line["row"]: line for line in lines if line["structure"] == "mean"}
    assert found.keys() == {"scratch + self_training", "scratch", "other"}
    students = [float(found[title]["finetuning_core_seconds"]) for title in ("scratch + self_training", "other")]
    assert min(students) > float(found["scratch"]["finetuning_core_seconds"]), "with its teacher's"
    assert len(list((work / "pseudo_labels").iterdir())) == 1
    again = compare(phantom_scans, output=work, plan=file, device="cpu")
    assert not again.failed
