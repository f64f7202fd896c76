"""How far label maps can be trusted, from the command line: what is measured, kept in runs, and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lemis.formats import volume
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.report import report
from lemis.work_files import quality
from lemis.work_files.quality import OfRun

FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def predicted(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with three runs, their held-out scans, and the scans without labels by all of them. Read only."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("quality") / "work"))
    runs = [finetune(work, name=f"f{fold}", fold=fold, preset="tiny", overrides=FEW, device="cpu") for fold in range(3)]
    index = json.loads((work / "index.json").read_text(encoding="utf-8"))
    for run in runs:
        test = json.loads((run / "model.json").read_text(encoding="utf-8"))["test_subjects"]
        held_out = [scan["id"] for scan in index["scans"] if scan["subject"] in test]
        predict(run, scans=held_out, beside=runs, device="cpu")
    predict(runs, scans=[scan["id"] for scan in index["scans"] if not scan["label"]], device="cpu")
    return work


def test_a_held_out_scan_is_measured_by_networks_that_never_saw_it_and_kept_in_their_run(predicted: Path) -> None:
    record = quality.read(predicted / "predictions")
    assert record is not None
    people: set[str] = set()
    for name in ("f0", "f1", "f2"):
        told = quality.find_of_run(predicted / "runs" / name)
        model = json.loads((predicted / "runs" / name / "model.json").read_text(encoding="utf-8"))
        own = {one.subject for one in told.held_out.values()}
        assert own == set(model["test_subjects"])
        assert {one.subject for one in told.labelled.values()} == set(model["labelled_subjects"])
        assert all(record.scans[scan].agreement.keys() == {name} for scan in told.held_out)
        people |= own
    assert len(people) == 3
    assert any(one.agreement.keys() == {"f0", "f1", "f2"} for one in record.scans.values())


def test_the_dice_of_a_held_out_scan_is_that_of_its_files(predicted: Path) -> None:
    told = quality.find_of_run(predicted / "runs" / "f0").held_out
    index = json.loads((predicted / "index.json").read_text(encoding="utf-8"))
    for id, held in told.items():
        (scan,) = (scan for scan in index["scans"] if scan["id"] == id)
        one = volume.read(predicted / "predictions" / f"{id}.nii.gz").array
        other = volume.read(Path(index["root"]) / scan["label"]).array
        wanted = {
            name: 2 * ((one == value) & (other == value)).sum() / ((one == value).sum() + (other == value).sum())
            for name, value in index["labels"].items()
            if value and (one == value).any()
        }
        assert held.dice == pytest.approx(wanted)


def test_three_subjects_give_no_number_and_the_table_holds_every_structure(predicted: Path) -> None:
    record, rows = quality.read(predicted / "predictions"), quality.read_rows(predicted / "predictions")
    assert record is not None
    assert record.basis is not None
    assert (record.basis.subjects, record.basis.labelled) == (3, 3)
    assert not any(row.has_number for row in rows)
    assert {row.scan for row in rows} == set(record.scans)
    assert len(rows) == 3 * len(record.scans)
    assert all(0 <= row.agreement <= 1 for row in rows)


def test_a_new_scan_of_another_kind_is_said_with_its_reason_and_path(
    predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).normal(size=(40, 40, 5)).astype(np.float32)
    volume.write_volume(image, np.diag([9.0, 9.0, 9.0, 1.0]), tmp_path / "new" / "strange.nii.gz")
    output = predict(predicted / "runs" / "f0", inputs=tmp_path / "new", output=tmp_path / "maps", device="cpu")
    (first, *_) = quality.read_rows(output)
    assert (first.scan, first.verdict) == ("strange", "look")
    assert "pixel size: 9 x 9 mm; trained on" in first.flags
    said = capsys.readouterr()
    assert "strange.nii.gz: pixel size: 9 x 9 mm" in "".join((said.out + said.err).splitlines()).replace("  ", " ")


def test_without_quality_nothing_is_measured_and_asking_later_does(predicted: Path, tmp_path: Path) -> None:
    run = predicted / "runs" / "f0"
    output = predict(run, output=tmp_path / "maps", overrides=("quality=false",), device="cpu")
    assert not (output / quality.TABLE).exists()
    predict(run, output=output, device="cpu")
    assert quality.read_rows(output)


def test_what_other_weights_held_out_is_forgotten(tmp_path: Path) -> None:
    quality.add_to_run(tmp_path, "before", held_out={})
    assert quality.of_run(tmp_path, "now") == OfRun(version=1, weights="now")


def test_the_report_shows_the_queue(predicted: Path, tmp_path: Path) -> None:
    page = report(predicted, output=tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Look at these first" in page
    assert "3 labelled subjects held out, and 5 are needed for a number" in page
