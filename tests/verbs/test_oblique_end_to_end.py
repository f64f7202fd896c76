"""Double-oblique stacks that headers call PSR and LSP through every verb: they are stored, and read anew, alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lemis import phantom
from lemis.datasets import frame
from lemis.datasets import index as indexing
from lemis.errors import UsageError
from lemis.formats import directions, volume
from lemis.formats.volume import write_volume
from lemis.prediction import ensemble
from lemis.preparation import store
from lemis.reporting import examples
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.fit import fit
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from work_files_made import evaluate

SUBJECTS, SHAPE = 6, (36, 40, 6)
FEW = ("steps=2", "precision=32")


def prepared(scans: Path, work: Path) -> store.Store:
    check(scans, output=work, jobs=1)
    return prepare(work, jobs=1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short-axis hearts, PSR and LSP in turn, all labelled. Read only."""
    folder = tmp_path_factory.mktemp("oblique") / "scans"
    return phantom.write_dataset(folder, subjects=SUBJECTS, shape=SHAPE, stored=("PSR", "LSP"))


@pytest.fixture(scope="module")
def work(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """They, checked and prepared, and the run ``tuned``. Read only."""
    folder = tmp_path_factory.mktemp("oblique") / "work"
    prepared(scans, folder)
    finetune(folder, name="tuned", fold=0, preset="tiny", overrides=FEW, device="cpu")
    return folder


@pytest.fixture(scope="module")
def plain_work(scans: Path, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same voxels under one header for all, checked and prepared. Read only."""
    folder = tmp_path_factory.mktemp("plain")
    axes = indexing.load(work / "index.json").frame
    assert axes is not None
    stored = nibabel.load(scans / "imagesTr" / "heart_001_0000.nii.gz").affine
    turn = directions.turn_to(directions.as_matrix(axes), directions.of_affine(stored))
    alike = directions.as_matrix(axes) @ turn  # the frame, in the order of the files' own axes
    for file in sorted(scans.rglob("*.nii.gz")):
        image = nibabel.load(file)
        affine = np.eye(4)
        affine[:3, :3] = alike * image.header.get_zooms()
        write_volume(np.asarray(image.dataobj), affine, folder / "scans" / file.relative_to(scans))
    (folder / "scans" / "dataset.json").write_text((scans / "dataset.json").read_text())
    prepared(folder / "scans", folder / "work")
    return folder / "work"


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_check_says_how_they_lie_and_warns_of_nothing(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {"".join(nibabel.aff2axcodes(nibabel.load(file).affine)) for file in scans.glob("imagesTr/*")}
    assert codes == {"PSR", "LSP"}
    found = check(scans, output=tmp_path / "work", jobs=1)
    said = " ".join(capsys.readouterr().out.split())
    assert (found.errors, found.warnings) == (0, 0)
    assert "slices within 1" in said  # about fifteen degrees
    assert " degrees of each other in 6 scans; stored in one common orientation, 4" in said
    assert f"{SUBJECTS * SHAPE[2]}, oblique (across axis " in said
    assert "nothing is wrong" in said
    written = json.loads((tmp_path / "work" / "check.json").read_text())["frame"]
    (stack,) = written["stacks"]
    assert stack["scans"] == SUBJECTS
    assert 10 < stack["within_degrees"] < 25
    assert len({scan.slice_axis for scan in found.index.scans}) == 1


def test_all_positions_agree(scans: Path, work: Path) -> None:
    """The files' own first slice is the apex in all of them: it is the first of all, or the last of all."""
    opened = store.open_store(work / "prepared")
    first = []
    for i, facts in enumerate(opened.scans):
        label = opened.label(i)
        assert label is not None
        own = np.asarray(nibabel.load(scans / "labelsTr" / f"{facts.id}.nii.gz").dataobj)
        sizes = [int((own[:, :, place] > 0).sum()) for place in range(own.shape[2])]
        found = [int((plane > 0).sum()) for plane in label]
        assert sizes != sizes[::-1]
        ratios = [np.corrcoef(sizes, order)[0, 1] for order in (found, found[::-1])]
        assert max(ratios) > 0.99
        first.append(int(np.argmax(ratios)))
    assert len(set(first)) == 1


def test_they_are_prepared_as_under_plain_headers_so_the_contrast_loss_falls_alike(
    work: Path, plain_work: Path
) -> None:
    oblique, plain = (store.open_store(one / "prepared") for one in (work, plain_work))
    np.testing.assert_array_equal(oblique.slices.position, plain.slices.position)
    for i, facts in enumerate(oblique.scans):
        assert facts.id == plain.scans[i].id
        np.testing.assert_array_equal(oblique.image(i), plain.image(i))
        np.testing.assert_array_equal(oblique.label(i), plain.label(i))
    first, other = (
        pretrain(one, method="pcl", name="short", preset="tiny", overrides=("steps=6", "precision=32"), device="cpu")
        for one in (work, plain_work)
    )
    assert losses(first) == losses(other)
    assert len(losses(first)) > 0


@pytest.mark.slow
def test_fit_goes_the_same_way_on_them_as_under_plain_headers(
    scans: Path, plain_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default method compares slices by their position: with stacks that run both ways its loss cannot fall."""
    steps = (
        "pretrain.steps=150",
        "pretrain.precision=32",
        "method.batch_size=16",
        "finetune.steps=2",
        "finetune.precision=32",
    )
    runs = []
    for folder, work in ((scans, tmp_path / "oblique"), (plain_work.parent / "scans", tmp_path / "plain")):
        fit(folder, output=work, method="pcl", preset="tiny", fold=0, overrides=steps, device="cpu")
        runs.append(work)
    assert capsys.readouterr().out.count("nothing is wrong") == len(runs)
    oblique, plain = (store.open_store(work / "prepared") for work in runs)
    np.testing.assert_array_equal(oblique.slices.position, plain.slices.position)
    falls = [losses(work / "runs" / "pcl") for work in runs]
    assert falls[0] == falls[1]
    assert np.mean(falls[0][-5:]) < np.mean(falls[0][:5]) - 0.1
    first, other = (
        list(csv.DictReader((work / "evaluation" / "per_case.csv").read_text().splitlines())) for work in runs
    )
    assert len(first) == len(other) > 0
    for one, two in zip(first, other, strict=True):
        assert float(one["dice"]) == float(two["dice"])
        assert float(one["hd95_mm"]) == pytest.approx(float(two["hd95_mm"]), rel=1e-5)  # headers are rounded


def test_scans_under_plain_headers_stay_in_the_order_of_the_body_axes(plain_work: Path) -> None:
    index = indexing.load(plain_work / "index.json")
    for scan in index.scans:
        alone = volume.read(indexing.locate(index, scan.images[0]))
        assert scan.axes == alone.source.axes
        assert scan.shape == alone.array.shape


def seen_by(run: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> list[np.ndarray]:
    """The slices that a network is given in ``predict``."""
    given: list[np.ndarray] = []
    through = ensemble.predict_scan

    def keep(networks: Any, slices: np.ndarray, *rest: Any) -> Any:
        given.append(np.asarray(slices))
        return through(networks, slices, *rest)

    monkeypatch.setattr(ensemble, "predict_scan", keep)
    predict(run, device="cpu", **arguments)
    return given


@pytest.mark.parametrize("id", ["heart_001", "heart_002"])
def test_a_scan_on_its_own_is_predicted_in_the_frame_of_the_run(
    work: Path,
    scans: Path,
    id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = scans / "imagesTr" / f"{id}_0000.nii.gz"
    opened = store.open_store(work / "prepared")
    (given,) = seen_by(work / "runs" / "tuned", monkeypatch, inputs=file, output=tmp_path / "out")
    np.testing.assert_array_equal(given, opened.image(opened.index_of(id)))
    assert "degrees from those of training" not in " ".join(capsys.readouterr().err.split())
    (made,) = (tmp_path / "out").glob("*.nii.gz")
    image, label = nibabel.load(file), nibabel.load(made)
    assert label.shape == image.shape
    np.testing.assert_array_equal(label.affine, image.affine)
    (there,) = seen_by(work / "runs" / "tuned", monkeypatch, scans=[id], output=tmp_path / "there")
    np.testing.assert_array_equal(there, given)
    again = nibabel.load(next((tmp_path / "there").glob("*.nii.gz")))
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(label.dataobj))


def test_a_run_of_before_there_were_frames_reads_scans_by_the_body_axes(
    work: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "work" / "runs" / "old"
    old.parent.mkdir(parents=True)
    old.mkdir()
    for part in (work / "runs" / "tuned").iterdir():
        if part.is_file():
            (old / part.name).write_bytes(part.read_bytes())
    facts = json.loads((old / "model.json").read_text())
    (old / "model.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "frame"}))
    opened = store.open_store(work / "prepared")
    orders = []
    for id in ("heart_001", "heart_002"):
        file = scans / "imagesTr" / f"{id}_0000.nii.gz"
        (given,) = seen_by(old, monkeypatch, inputs=file, output=tmp_path / id)
        stored = opened.image(opened.index_of(id))
        orders.append(bool(np.array_equal(given, stored)))
        np.testing.assert_array_equal(np.sort(given.ravel()), np.sort(np.asarray(stored).ravel()))
    assert sorted(orders) == [False, True]
    with pytest.raises(UsageError, match="trained on scans in different frames"):
        predict([work / "runs" / "tuned", old], inputs=file, output=tmp_path / "both", device="cpu")


def test_another_slice_direction_is_said_with_the_angle(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = phantom.make("heart", subject=9, shape=SHAPE)
    write_volume(scan.image, scan.affine, tmp_path / "scans" / "axial.nii.gz")
    predict(work / "runs" / "tuned", inputs=tmp_path / "scans", output=tmp_path / "out", device="cpu")
    said = " ".join(capsys.readouterr().err.split())
    (trained,) = frame.stacks(indexing.load(work / "index.json").scans)
    normal = scan.affine[:3, 2] / np.linalg.norm(scan.affine[:3, 2])
    angle = np.degrees(np.arccos(abs(normal @ trained.direction)))
    assert angle > 40
    assert f"axial: its slices lie {angle:.0f} degrees from those of training, which lie within" in said
    assert f"{trained.within_degrees:.0f} degrees of each other" in said


def test_a_second_preparation_and_one_of_before_are_not_made_anew(
    work: Path, plain_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (work, plain_work):
        prepare(folder, jobs=1)
        assert "nothing to do" in capsys.readouterr().err
    index = indexing.load(plain_work / "index.json")
    before = indexing.Index(
        **{**vars(index), "version": 1, "frame": None,
           "scans": tuple(indexing.Scan(**{**vars(scan), "axes": ()}) for scan in index.scans)}
    )  # fmt: skip
    prepare(plain_work, jobs=1, index=before)
    assert f"prepared 0 of {SUBJECTS} scans" in " ".join(capsys.readouterr().err.split())
    assert store.open_store(plain_work / "prepared").frame is None
    prepare(plain_work, jobs=1)
    assert f"prepared 0 of {SUBJECTS} scans" in " ".join(capsys.readouterr().err.split())


def test_pictures_of_a_report_do_not_depend_on_what_headers_call_the_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = phantom.make("heart", subject=3, shape=SHAPE, stored="LSP")
    other = phantom.make("heart", subject=4, shape=SHAPE, stored="PSR")
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    turned = np.eye(4)
    turned[:3, :3] = directions.of_affine(other.affine) * spacing
    for name, affine in (("lsp", scan.affine), ("psr", turned)):
        write_volume(scan.image, affine, tmp_path / "scans" / f"{name}.nii.gz")
        write_volume(scan.label, affine, tmp_path / "scans" / f"{name}_seg.nii.gz")
    index = check(tmp_path / "scans", jobs=1).index
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    through = examples.outlines.overlay

    def keep(image: np.ndarray, reference: np.ndarray, *rest: Any) -> Any:
        drawn.append((image, reference))
        return through(image, reference, *rest)

    monkeypatch.setattr(examples.outlines, "overlay", keep)
    lsp, psr = (
        examples._pictures(index, one, tmp_path / "scans" / f"{one.id}_seg.nii.gz", False) for one in index.scans
    )
    assert [one.caption for one in lsp] == [one.caption for one in psr]
    assert len(drawn) == 2 * len(lsp) > 0
    for one, other in zip(drawn[: len(lsp)], drawn[len(lsp) :], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def rotated(degrees: float, spacing_mm: Sequence[float]) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) * spacing_mm
    return affine


@pytest.mark.parametrize("degrees", [45, 135, 225])
def test_a_rounded_header_does_not_turn_a_label_away_from_its_image(degrees: float, tmp_path: Path) -> None:
    """Halfway between two body axes, image and label, or prediction and reference, may fall to different ones."""
    rng = np.random.default_rng(0)
    off, spacing = 1e-4, (1.0, 1.0, 8.0)
    label = rng.integers(0, 3, (7, 9, 4)).astype(np.uint8)
    folder = tmp_path / "scans"
    for number in range(2):
        image = rng.integers(0, 99, (7, 9, 4)).astype(np.int16)
        write_volume(image, rotated(degrees - off, spacing), folder / f"p{number}.nii.gz")
        write_volume(label, rotated(degrees + off, spacing), folder / f"p{number}_seg.nii.gz")
    found = check(folder, output=tmp_path / "work", jobs=1)
    assert found.faults == ()
    opened = prepare(tmp_path / "work", jobs=1)
    assert opened.label(0) is not None
    write_volume(label, rotated(degrees + off, spacing), tmp_path / "references" / "p0.nii.gz")
    write_volume(label, rotated(degrees - off, spacing), tmp_path / "masks" / "p0.nii.gz")
    summary = evaluate(tmp_path / "masks", references=tmp_path / "references", output=tmp_path / "scores")
    assert summary is not None
    rows = (tmp_path / "scores" / "per_case.csv").read_text().splitlines()
    dice = rows[0].split(",").index("dice")
    assert [float(row.split(",")[dice]) for row in rows[1:]] == [1.0, 1.0]
