"""How far label maps can be trusted, from the command line: what is measured, kept in runs, and said."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import NDArray

from lemis.errors import UsageError
from lemis.formats import volume
from lemis.measure.distance import Seen
from lemis.prediction import views
from lemis.preparation import preprocess
from lemis.preparation.settings import Settings as Preparation
from lemis.quality.measuring import Predicted, _look_at
from lemis.runs.material import digest_of_file
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.report import report
from lemis.work_files import embedded, quality
from lemis.work_files.quality import OfRun
from lemis.work_files.run import WEIGHTS

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
    for one in record.scans.values():
        assert set(one.ensemble) <= {name for told in one.agreement.values() for name in told}
        if len(one.agreement) == 1:  # one network is its own ensemble
            (told,) = one.agreement.values()
            assert one.ensemble == {name: told[name] for name in one.ensemble}


def test_labelled_scans_are_kept_as_each_network_sees_them_and_how_far_they_are_from_each_other(
    predicted: Path,
) -> None:
    index = json.loads((predicted / "index.json").read_text(encoding="utf-8"))
    labelled = {scan["id"]: scan["subject"] for scan in index["scans"] if scan["label"]}
    for name in ("f0", "f1", "f2"):
        run = predicted / "runs" / name
        told, seen = quality.find_of_run(run), embedded.find(run, digest_of_file(run / WEIGHTS))
        assert seen is not None
        assert dict(zip(seen.scans, seen.subjects, strict=True)) == labelled
        assert told.apart.keys() == labelled.keys()
        assert np.median([one.distance for one in told.apart.values()]) == pytest.approx(1)
    record = quality.read(predicted / "predictions")
    assert record is not None
    for id, one in record.scans.items():
        assert one.distance.keys() == one.agreement.keys()  # the networks that never saw its label
        for name in one.distance if id in labelled else ():  # measured anew, of another file, without its own subject
            assert one.distance[name] == pytest.approx(
                quality.find_of_run(predicted / "runs" / name).apart[id].distance
            )
    rows = quality.read_rows(predicted / "predictions")
    assert all(row.distance == pytest.approx(np.mean([*record.scans[row.scan].distance.values()])) for row in rows)


def test_a_run_without_embeddings_learns_them_where_its_scans_are_and_else_says_no_distance(
    predicted: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(predicted, tmp_path / "work"))
    run = work / "runs" / "f0"
    (run / embedded.FILE).unlink()
    held = json.loads((run / quality.OF_RUN).read_text(encoding="utf-8"))
    del held["apart"]
    (run / quality.OF_RUN).write_text(json.dumps(held), encoding="utf-8")
    index = json.loads((work / "index.json").read_text(encoding="utf-8"))
    unlabelled = next(scan for scan in index["scans"] if not scan["label"])
    (tmp_path / "new").mkdir()
    shutil.copy(Path(index["root"]) / unlabelled["images"][0], tmp_path / "new" / "one.nii.gz")
    (work / "index.json").rename(work / "gone.json")
    told = {"inputs": tmp_path / "new", "device": "cpu"}
    without = quality.read_rows(predict(run, output=tmp_path / "without", **told))  # type: ignore[arg-type]
    assert all(np.isnan(row.distance) for row in without)
    (work / "gone.json").rename(work / "index.json")
    again = quality.read_rows(predict(run, output=tmp_path / "with", **told))  # type: ignore[arg-type]
    assert all(row.distance > 0 for row in again)
    assert quality.find_of_run(run).apart.keys() == {scan["id"] for scan in index["scans"] if scan["label"]}
    assert quality.find_of_run(run).held_out.keys() == held["held_out"].keys()


@pytest.fixture
def older(predicted: Path, tmp_path: Path) -> Path:
    """A run without embeddings, in a work folder of its own; beside that lies a new scan."""
    work = Path(shutil.copytree(predicted, tmp_path / "work"))
    (work / "runs" / "f0" / embedded.FILE).unlink()
    index = json.loads((work / "index.json").read_text(encoding="utf-8"))
    (tmp_path / "new").mkdir()
    unlabelled = next(scan for scan in index["scans"] if not scan["label"])
    shutil.copy(Path(index["root"]) / unlabelled["images"][0], tmp_path / "new" / "one.nii.gz")
    return work / "runs" / "f0"


def rows_of_new(run: Path, output: str = "out") -> list[quality.Row]:
    """Of the new scan, whose label maps go into another folder each time."""
    base = run.parent.parent.parent
    return quality.read_rows(predict(run, inputs=base / "new", output=base / output, device="cpu"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_distances_among_labelled_scans_that_were_not_written_down_are_found_again(older: Path) -> None:
    """As after a prediction that was interrupted between the two files, or a ``held_out.json`` that was deleted."""
    rows_of_new(older)
    whole = json.loads((older / quality.OF_RUN).read_text(encoding="utf-8"))
    assert whole["apart"]
    (older / quality.OF_RUN).write_text(json.dumps(whole | {"apart": {}}), encoding="utf-8")
    (older.parent.parent / "index.json").unlink()
    rows_of_new(older, "again")
    assert json.loads((older / quality.OF_RUN).read_text(encoding="utf-8")) == whole


def test_a_run_that_must_not_be_written_to_predicts_and_learns_nothing(
    older: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(older)
    asked = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != older and asked(path, mode))
    rows = rows_of_new(older)
    assert contents(older) == before
    assert all(np.isnan(row.distance) for row in rows)
    assert f"{older} must not be written to" in " ".join(capsys.readouterr().err.split())
    held_out = [*quality.find_of_run(older).held_out]
    predict(older, scans=held_out, output=older.parent.parent / "elsewhere", device="cpu")
    assert contents(older) == before


@pytest.mark.parametrize("damaged", ["meta.json", "*.npy", "none of them"])
def test_labelled_scans_are_seen_alike_whether_they_lie_prepared_or_not(
    older: Path, predicted: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (older.parent.parent / "prepared").glob(damaged):
        file.write_bytes(b"{")
    if damaged == "none of them":
        monkeypatch.setattr("lemis.quality.distances.prepared", None)  # they are not read again
    rows_of_new(older)
    weights = digest_of_file(older / WEIGHTS)
    first, again = embedded.find(predicted / "runs" / "f0", weights), embedded.find(older, weights)
    assert first is not None
    assert again is not None
    np.testing.assert_allclose(again.vectors, first.vectors, rtol=1e-3, atol=1e-4)


def test_a_work_folder_of_other_channels_by_now_teaches_a_run_nothing(older: Path) -> None:
    file = older.parent.parent / "index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    index["channels"] += ["second"]
    for scan in index["scans"]:
        scan["images"] *= 2
    file.write_text(json.dumps(index), encoding="utf-8")
    assert all(np.isnan(row.distance) for row in rows_of_new(older))


def test_embeddings_of_other_weights_are_forgotten_and_damaged_ones_refused(tmp_path: Path) -> None:
    assert embedded.find(tmp_path, "now") is None
    embedded.save(tmp_path, "now", Seen(["a", "b"], ["s", "t"], np.eye(2)))
    found = embedded.find(tmp_path, "now")
    assert found is not None
    assert (found.scans, found.subjects, found.vectors.tolist()) == (["a", "b"], ["s", "t"], [[1, 0], [0, 1]])
    assert embedded.find(tmp_path, "before") is None
    whole = (tmp_path / embedded.FILE).read_bytes()
    np.savez(tmp_path / embedded.FILE, version=[1, 1], weights="now", scans=[], subjects=[], vectors=np.eye(2))
    for content in (whole[:200], (tmp_path / embedded.FILE).read_bytes()):
        (tmp_path / embedded.FILE).write_bytes(content)
        with pytest.raises(UsageError, match=r"embedded.npz is damaged(.|\n)*and predict again"):
            embedded.find(tmp_path, "now")


@pytest.mark.parametrize("place", ["3,0", "-1,0", "0,-1", "one,0"])
def test_a_table_with_a_slice_that_no_scan_has_is_refused(predicted: Path, tmp_path: Path, place: str) -> None:
    head, row, *_ = (predicted / "predictions" / quality.TABLE).read_text(encoding="utf-8").splitlines()
    assert head.endswith("flags,look_at_axis,look_at_slice,distance")
    (tmp_path / quality.TABLE).write_text(f"{head}\n{row.rsplit(',', 3)[0]},{place},\n", encoding="utf-8")
    with pytest.raises(UsageError, match="look_at"):
        quality.read_rows(tmp_path)


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


@pytest.mark.parametrize("stored_as", ["RAS", "SPR", "IAL", "ASL", "PIR", "LPI"])
def test_the_slice_to_look_at_is_that_of_the_file_however_it_is_stored(
    predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored_as: str
) -> None:
    def in_the_brightest_slice(networks: Any, image: NDArray[np.float16], *more: Any) -> views.Agreement:
        apart = np.zeros((3, len(image)), np.int64)
        apart[1:, image[:, 0].mean(axis=(1, 2)).argmax()] = 7
        found = views.Agreed(np.array([1.0, 0.9, 0.9]), np.ones(3, np.bool_), apart)
        return views.Agreement([found] * len(networks), found)

    monkeypatch.setattr(views, "agreement", in_the_brightest_slice)
    index = json.loads((predicted / "index.json").read_text(encoding="utf-8"))
    scan = next(scan for scan in index["scans"] if not scan["label"])
    seen = volume.read(Path(index["root"]) / scan["images"][0])
    bright = seen.array.astype(np.float32)
    bright[:, :, 3] += 10 * bright.max()
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(stored_as))
    stored = nib.Nifti1Image(bright, seen.affine).as_reoriented(turn)
    (tmp_path / "new").mkdir()
    nib.save(stored, tmp_path / "new" / "turned.nii.gz")
    output = predict(predicted / "runs" / "f0", inputs=tmp_path / "new", output=tmp_path / "maps", device="cpu")
    rows = {row.structure: row for row in quality.read_rows(output)}
    told = [row.look_at for row in rows.values()]
    assert told.count(None) == 1  # of the structure about which no view differs
    (place,) = {(one.axis, one.slice) for one in told if one is not None}
    assert nib.aff2axcodes(nib.load(output / "turned.nii.gz").affine) == tuple(stored_as)
    means = np.moveaxis(np.asarray(stored.dataobj), place[0], 0).mean(axis=(1, 2))
    assert int(means.argmax()) == place[1]
    assert means.max() > 2 * np.median(means)


def test_slices_that_were_resampled_are_counted_as_the_scan_has_them(tmp_path: Path) -> None:
    volume.write_volume(np.zeros((4, 5, 6), np.float32), np.diag([1.0, 1.0, -5.0, 1.0]), tmp_path / "a.nii.gz")
    source = volume.read_header(tmp_path / "a.nii.gz")
    facts = preprocess.describe(
        id="a", subject="a", images=("a",), label=None, shape=(4, 5, 6), spacing_mm=(1.0, 1.0, 5.0), slice_axis=2,
        settings=Preparation(spacing_mm=1.0),
    )  # fmt: skip
    for prepared, chosen, own in ((12, 11, 5), (6, 2, 2), (3, 1, 3)):
        apart = np.zeros((1, prepared), np.int64)
        apart[0, chosen] = 1
        made = Predicted(
            scan=None, image=None, facts=dataclasses.replace(facts, slices=prepared), source=source, classes=None,
            known_as=frozenset(),
        )  # type: ignore[arg-type]  # fmt: skip
        found = _look_at([views.Agreed(np.ones(1), np.ones(1, np.bool_), apart)] * 2, made, ["wall"])
        assert (found["wall"].axis, found["wall"].slice) == (2, 5 - own)  # stored from head to foot


def test_a_table_without_slices_is_read(predicted: Path, tmp_path: Path) -> None:
    lines = (predicted / "predictions" / quality.TABLE).read_text(encoding="utf-8").splitlines()
    older = [line.rsplit(",", 3)[0] for line in lines]
    assert older[0].endswith("flags")
    (tmp_path / quality.TABLE).write_text("\n".join(older) + "\n", encoding="utf-8")
    assert [row.look_at for row in quality.read_rows(tmp_path)] == [None] * len(older[1:])


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
