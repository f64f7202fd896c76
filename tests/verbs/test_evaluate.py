"""``evaluate`` on small made-up work folders: numbers, refusals, and what the summary says of leakage."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from typer.testing import CliRunner

from lemis.cli import app
from lemis.datasets import index as indexing
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.measure import scores, slices
from lemis.scoring.summing_up import Settings
from lemis.work_files import audit
from lemis.work_files.audit import Drawn
from lemis.work_files.evaluation import METRICS
from work_files_made import evaluate, model

SHAPE = (16, 14, 5)
AFFINE = np.diag([-1.5, -1.5, 8.0, 1.0])  # stored LPS: canonical reading has to flip


def label_map(shift: int = 0, *, without: int | None = None) -> NDArray[np.uint8]:
    """Two structures, values 1 and 3."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3 + shift : 9 + shift, 3:9, 1:4] = 1
    labels[9 + shift : 12 + shift, 3:9, 1:4] = 3
    if without is not None:
        labels[labels == without] = 0
    return labels


def make_work(folder: Path, predicted: dict[str, NDArray[np.uint8]], *, facts: dict[str, Any] | None = None) -> Path:
    """A work folder with one reference and one prediction per scan; subjects are the ids up to ``_``."""
    data, work = folder / "data", folder / "work"
    scans = []
    for scan, labels in predicted.items():
        volume.write_volume(label_map(), AFFINE, data / f"{scan}.nii.gz")
        volume.write_volume(labels, AFFINE, work / "predictions" / f"{scan}.nii.gz")
        row = {
            "id": scan,
            "subject": scan.split("_")[0],
            "images": (f"{scan}.nii.gz",),
            "label": f"{scan}.nii.gz",
        }
        scans.append(indexing.Scan(**row, shape=SHAPE, spacing_mm=(1.5, 1.5, 8.0)))  # type: ignore[arg-type]
    labels = {"background": 0, "pool": 1, "wall": 3}
    index = indexing.Index(root=str(data), layout="made up", channels=("MR",), labels=labels, scans=tuple(scans))
    indexing.save(index, work / "index.json")
    if facts is not None:
        (work / "predictions" / "predictions.json").write_text(json.dumps({"version": 1, **facts}))
    return work


def rows_of(work: Path) -> list[dict[str, str]]:
    with (work / "evaluation" / "per_case.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_subjects_that_were_drawn_at_random_have_a_score_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = {f"{name}_{phase}": label_map(n) for n, name in enumerate("abcdef") for phase in ("ED", "ES")}
    work = make_work(tmp_path, people)
    assert "audited" not in evaluate(work)

    def told(*drawn: str) -> tuple[Any, str]:
        audit.remember(work, [Drawn(subject=name, scan=f"{name}_ED", of=9) for name in drawn])
        capsys.readouterr()
        found = evaluate(work).get("audited")
        return found, " ".join(capsys.readouterr().out.split())

    assert told("gone")[0] is None  # from the data set, and will never have a label
    index = indexing.load(work / "index.json")
    bare = dataclasses.replace(index.scans[0], id="z_ED", subject="z", label=None)
    indexing.save(dataclasses.replace(index, scans=(*index.scans, bare)), work / "index.json")
    found, said = told("z")
    assert (found["drawn"], found["labelled"], found["subjects"], found["overall"]) == (1, 0, [], None)
    assert "Audit: no subject that was drawn at random is tested yet. Of 1 subject drawn, 1 has no label yet" in said
    found, said = told("b", "e")
    assert (found["drawn"], found["labelled"], found["subjects"]) == (3, 2, ["b", "e"])
    rows = [float(row["dice"]) for row in rows_of(work) if row["subject"] in "be"]
    assert found["overall"]["dice"]["mean"] == pytest.approx(np.mean(rows))
    assert "4 scans of 2 subjects drawn at random before they were labelled" in said
    assert "2 are too few to go by: label at least 5" in said
    assert "Of 3 subjects drawn, 1 has no label yet" in said
    found, said = told("a", "c", "d")
    assert "10 scans of 5 subjects drawn at random" in said
    assert "too few" not in said
    (work / "predictions").rename(work / "elsewhere")
    assert "audited" not in evaluate(work / "elsewhere", work=work)


def test_numbers_are_those_of_scores(tmp_path: Path):
    work = make_work(tmp_path, {"a_ED": label_map(), "a_ES": label_map(1), "b_ED": label_map(2)})
    summary = evaluate(work)
    rows = rows_of(work)
    assert [(row["scan"], row["subject"], row["structure"]) for row in rows[:3]] == [
        ("a_ED", "a", "pool"),
        ("a_ED", "a", "wall"),
        ("a_ES", "a", "pool"),
    ]
    wanted = scores.score(label_map(1) == 1, label_map() == 1, (1.5, 1.5, 8.0))
    assert [float(rows[2][name]) for name in METRICS] == pytest.approx([getattr(wanted, name) for name in METRICS])
    assert float(rows[2]["reference_ml"]) == pytest.approx(6 * 6 * 3 * 1.5 * 1.5 * 8 / 1000)
    pool = summary["protocols"]["default"]["structures"]["pool"]
    assert pool["dice"]["mean"] == pytest.approx(
        np.mean([float(row["dice"]) for row in rows if row["structure"] == "pool"])
    )
    assert pool["dice"]["low"] <= pool["dice"]["mean"] <= pool["dice"]["high"]
    assert (pool["dice"]["scans"], pool["dice"]["subjects"]) == (3, 2)
    assert summary == json.loads((work / "evaluation" / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("metric", METRICS)
def test_every_mean_has_an_interval_over_subjects(tmp_path: Path, metric: str):
    """Of each structure, and of all of them: the mean over scans of a scan's mean over its structures."""
    work = make_work(tmp_path, {f"{subject}_ED": label_map(shift) for shift, subject in enumerate("abc")})
    default = evaluate(work)["protocols"]["default"]
    values = [[float(row[metric]) for row in rows_of(work) if row["subject"] == subject] for subject in "abc"]
    assert default["overall"][metric]["mean"] == pytest.approx(np.mean(values))
    for found in (default["structures"]["wall"], default["overall"]):
        assert found[metric]["low"] < found[metric]["mean"] < found[metric]["high"]
        assert found[metric]["subjects"] == 3


def test_no_interval_is_wider_than_what_can_be(tmp_path: Path):
    """Dice, NSD and distances have ends: of two subjects, one missed, t reaches far beyond them."""
    missed = label_map(without=1)
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(), "c": missed})
    default = evaluate(work)["protocols"]["default"]
    farthest = scores.diagonal_mm(SHAPE, (1.5, 1.5, 8.0))
    for found in (default["structures"]["pool"], default["overall"]):
        for metric in METRICS:
            end = 1 if metric in ("dice", "nsd") else farthest
            assert 0 <= found[metric]["low"] <= found[metric]["mean"] <= found[metric]["high"] <= end
    assert default["structures"]["pool"]["hd95_mm"]["high"] == farthest


def test_definitions_and_tolerance_are_in_the_output(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(1)})
    settings = Settings(scores=scores.Settings(tolerance_mm=1.0))
    default = evaluate(work, settings=settings)["protocols"]["default"]
    assert default["definitions"].items() >= scores.DEFINITIONS.items()
    assert default["tolerance_mm"] == 1.0
    # Moved by one voxel of 1.5 mm: neither the side faces nor the tolerance of 1 mm let it all pass.
    assert (
        default["structures"]["pool"]["nsd"]["mean"]
        < evaluate(work)["protocols"]["default"]["structures"]["pool"]["nsd"]["mean"]
    )


def test_a_missed_structure_is_in_the_mean_and_counted(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(without=3)})
    wall = evaluate(work)["protocols"]["default"]["structures"]["wall"]
    assert (wall["scored"], wall["missed"], wall["invented"], wall["absent"]) == (1, 1, 0, 0)
    assert wall["dice"]["mean"] == 0.5
    assert wall["hd95_mm"]["mean"] == pytest.approx(scores.diagonal_mm(SHAPE, (1.5, 1.5, 8.0)) / 2)


def test_an_absent_structure_is_counted_and_not_scored(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(without=3)})
    volume.write_volume(label_map(without=3), AFFINE, tmp_path / "data" / "b.nii.gz")
    default = evaluate(work)["protocols"]["default"]
    assert default["structures"]["wall"]["absent"] == 1
    assert default["structures"]["wall"]["dice"]["mean"] == 1.0
    assert default["overall"]["dice"]["mean"] == 1.0
    assert rows_of(work)[3]["dice"] == ""


def test_another_orientation_of_the_same_grid_is_the_same_scan(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    turned = AFFINE @ np.diag([-1, 1, 1, 1.0])
    turned[0, 3] = AFFINE[0, 0] * (SHAPE[0] - 1)
    volume.write_volume(label_map()[::-1], turned, work / "predictions" / "a.nii.gz")
    assert evaluate(work)["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0


def test_two_folders_without_a_work_folder(tmp_path: Path):
    make_work(tmp_path, {"a": label_map(), "b": label_map(1)})
    summary = evaluate(tmp_path / "work" / "predictions", tmp_path / "data", output=tmp_path / "out")
    assert summary["transductive"] is None
    (tmp_path / "work" / "index.json").unlink()
    bare = evaluate(tmp_path / "work" / "predictions", tmp_path / "data", output=tmp_path / "out")
    assert list(bare["protocols"]["default"]["structures"]) == ["label 1", "label 3"]
    assert bare["protocols"]["default"]["overall"] == summary["protocols"]["default"]["overall"]
    assert (tmp_path / "out" / "per_case.csv").is_file()


def segmentation(path: Path, labels: NDArray[np.uint8], names: dict[str, int], first: int = 0) -> None:
    """As 3D Slicer writes it, on the grid of ``label_map`` from slice ``first`` of its first axis on."""
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.T))
    image.SetSpacing((1.5, 1.5, 8.0))  # LPS, as AFFINE says
    image.SetOrigin((1.5 * first, 0.0, 0.0))
    for number, (name, value) in enumerate(names.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(path))


def test_references_that_number_their_structures_otherwise(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    swapped = np.where(label_map() == 1, 2, label_map() == 3).astype(np.uint8)
    segmentation(tmp_path / "slicer" / "a.seg.nrrd", label_map(), {"pool": 1, "wall": 3})
    segmentation(tmp_path / "slicer" / "b.seg.nrrd", swapped, {"wall": 1, "pool": 2})
    summary = evaluate(work / "predictions", tmp_path / "slicer", output=tmp_path / "out")
    assert summary["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0
    (work / "index.json").unlink()
    bare = evaluate(work / "predictions", tmp_path / "slicer", output=tmp_path / "out")
    assert list(bare["protocols"]["default"]["structures"]) == ["pool", "wall"]
    assert bare["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0


def test_values_that_are_named_otherwise_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    segmentation(tmp_path / "one" / "a.seg.nrrd", label_map(), {"liver": 1, "wall": 3})
    segmentation(tmp_path / "other" / "a.seg.nrrd", label_map(), {"spleen": 1, "wall": 3})
    evaluate(tmp_path / "one", tmp_path / "other")
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: structures named differently; the values count, not the names:" in said
    assert "a.seg.nrrd: 1 is liver in the file and spleen in the data set" in said
    evaluate(tmp_path / "other", tmp_path / "other", output=tmp_path / "out")
    assert "warning" not in capsys.readouterr().err


def test_segmentations_that_cover_parts_of_a_scan_are_scored_as_the_whole_ones(tmp_path: Path):
    names = {"pool": 1, "wall": 3}
    corner = np.flatnonzero(label_map().any(axis=(1, 2)))[0]
    segmentation(tmp_path / "one" / "a.seg.nrrd", label_map(), names)
    segmentation(tmp_path / "cut" / "a.seg.nrrd", label_map()[corner:], names, first=corner)
    segmentation(tmp_path / "more" / "a.seg.nrrd", label_map(1), names)
    assert evaluate(tmp_path / "cut", tmp_path / "one")["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0
    scores = [
        evaluate(tmp_path / made, tmp_path / reference, output=tmp_path / "out" / made)["protocols"]["default"]
        for made, reference in (("one", "more"), ("cut", "more"))
    ]
    assert scores[0]["overall"] == scores[1]["overall"]


def test_two_label_maps_of_one_scan_are_refused(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    volume.write_volume(label_map(1), AFFINE, work / "predictions" / "a.nii")
    with pytest.raises(UsageError, match=r"a has 2 label maps in \S+predictions: a\.nii, a\.nii\.gz"):
        evaluate(work)


def test_references_that_lie_beside_their_scans(tmp_path: Path):
    """A folder of scans and labels, as the layout ``flat`` reads it: the scan itself is no label map."""
    for name, shift in (("a", 0), ("b", 1)):
        volume.write_volume(label_map(), AFFINE, tmp_path / "made" / f"{name}.nii.gz")
        volume.write_volume(label_map(shift), AFFINE, tmp_path / "scans" / f"{name}_seg.nii.gz")
        volume.write_volume(label_map() * 9, AFFINE, tmp_path / "scans" / f"{name}.nii.gz")
    summary = evaluate(tmp_path / "made", tmp_path / "scans")
    assert list(summary["protocols"]["default"]["structures"]) == ["label 1", "label 3"]
    with (tmp_path / "made" / "evaluation" / "per_case.csv").open(encoding="utf-8") as stream:
        assert [float(row["dice"]) == 1 for row in csv.DictReader(stream)] == [True, True, False, False]


@pytest.mark.parametrize(("seen", "says"), [(["c", "b"], True), (["c"], False), ([], False)])
def test_transductive_is_said(tmp_path: Path, seen: list[str], says: bool, capsys: pytest.CaptureFixture[str]):
    facts = {
        "run": "finetune",
        "labelled_subjects": ["c"],
        "pretraining_subjects": seen,
        "test_subjects": ["a", "b"],
    }
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(1)}, facts=facts)
    summary = evaluate(work)
    assert summary["transductive"] is says
    assert summary["subjects_labelled_in_training"] == ["c"]
    assert ("not transductive" not in capsys.readouterr().out) is says


@pytest.mark.parametrize(("made_by", "says"), [("transductive", True), ("inductive", False)])
def test_transductive_is_of_the_runs_that_are_scored(tmp_path: Path, made_by: str, says: bool):
    """Label maps of a pre-training that saw the images, and of one that did not, lie in one folder."""
    seen: dict[str, list[str]] = {"transductive": ["a", "b", "c"], "inductive": ["c"]}
    scans = {
        scan: {"file": f"{scan}.nii.gz", "runs": [run], "labelled_subjects": ["c"], "pretraining_subjects": seen[run]}
        for scan, run in {"a": "transductive", "b": "inductive"}.items()
    }
    facts = {"scans": scans, "pretraining_subjects": ["a", "b", "c"]}  # of the folder, as older records have it
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(1)}, facts=facts)
    summary = evaluate(work, runs=[made_by])
    assert summary["transductive"] is says
    assert summary["subjects_in_pretraining"] == seen[made_by]


def test_scans_that_are_not_scored_are_named(tmp_path: Path):
    facts = {"labelled_subjects": ["c"], "pretraining_subjects": [], "test_subjects": ["a"]}
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(1)}, facts=facts)
    volume.write_volume(label_map(), AFFINE, work / "predictions" / "new.nii.gz")
    summary = evaluate(work)
    assert summary["not_scored"] == {"no reference": ["new"], "subject outside the test fold": ["b"]}
    assert summary["scans"] == 1
    assert summary["protocols"]["default"]["overall"]["dice"]["low"] is None  # one subject has no interval


def test_the_papers_number_is_carried_under_its_protocol(tmp_path: Path):
    facts = {"pooled": {"dice": {"pool": 0.7, "wall": 0.5}, "mean": 0.6}}
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()}, facts=facts)
    paper = evaluate(work)["protocols"]["paper"]
    assert paper["mean"] == 0.6
    assert paper["dice"] == {"pool": 0.7, "wall": 0.5}
    assert paper["what"] == scores.PAPER_DEFINITION


def test_the_papers_number_comes_from_the_runs_otherwise(tmp_path: Path):
    facts = {"scans": {"a": {"file": "a.nii.gz", "runs": ["one"]}, "b": {"file": "b.nii.gz", "runs": ["two"]}}}
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()}, facts=facts)
    assert "paper" not in evaluate(work)["protocols"]
    for run, figures in {"one": [0.5, 0.9, 0.8], "two": [0.3, 0.4, 0.5]}.items():
        (work / "runs" / run).mkdir(parents=True)
        lines = [
            {"step": 10 * k, "held_out/pooled_dice": v, "held_out/pooled_dice/pool": v} for k, v in enumerate(figures)
        ]
        lines.insert(1, {"step": 5, "loss": 1.0})
        (work / "runs" / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paper = evaluate(work)["protocols"]["paper"]
    assert paper["mean"] == pytest.approx(0.7)
    assert paper["std"] == pytest.approx(0.2)
    assert paper["mean_of_last_steps"] == pytest.approx(0.65)
    assert paper["dice"] == {"pool": pytest.approx(0.7)}
    assert paper["runs"]["one"] == {"step": 10, "mean": 0.9}
    assert "beside" not in paper or not paper["beside"], "trained before these were taken"


def test_the_papers_other_scores_are_those_of_the_same_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work = make_work(tmp_path, {"a": label_map()}, facts={"scans": {"a": {"file": "a.nii.gz", "runs": ["one"]}}})
    (work / "runs" / "one").mkdir(parents=True)
    lines = [
        {"step": step, "held_out/pooled_dice": dice, "held_out/pooled_dice/pool": dice,
         **{f"held_out/{name}{of}": value for name, value in others.items() for of in ("", "/pool")}}
        for step, dice, others in (
            (1, 0.8, {"jaccard": 0.7, "hd95_px": 5.0, "asd_px": 2.0}),
            (2, 0.6, {"jaccard": 0.5, "hd95_px": 1.0, "asd_px": 0.5}),
        )
    ]  # fmt: skip
    (work / "runs" / "one" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paper = evaluate(work)["protocols"]["paper"]
    assert paper["beside"] == {
        "jaccard": {"mean": 0.7, "structures": {"pool": 0.7}},
        "hd95_px": {"mean": 5.0, "structures": {"pool": 5.0}},
        "asd_px": {"mean": 2.0, "structures": {"pool": 2.0}},
    }
    assert paper["beside_definition"] == slices.DEFINITION
    assert "Jaccard 0.700; of slices HD95 5.00 px and ASD 2.00 px, where a missed structure" in capsys.readouterr().out


def test_each_scan_is_held_against_the_networks_that_made_it(tmp_path: Path):
    """Cross-validation: every subject was labelled for some network, none for its own."""
    scans = {
        "a_ED": {"file": "a_ED.nii.gz", "runs": ["fold0"], "labelled_subjects": ["b"]},
        "b_ED": {"file": "b_ED.nii.gz", "runs": ["fold1"], "labelled_subjects": ["a"]},
    }
    facts = {"version": 1, "scans": scans, "pretraining_subjects": ["a", "b"]}
    work = make_work(tmp_path, {"a_ED": label_map(), "b_ED": label_map(1)}, facts=facts)
    summary = evaluate(work)
    assert summary["runs"] == ["fold0", "fold1"]
    assert summary["subjects_labelled_in_training"] == ["a", "b"]
    assert summary["transductive"] is True
    assert summary["training_not_recorded"] == []
    scans["b_ED"]["labelled_subjects"] = ["a", "b"]
    (work / "predictions" / "predictions.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="1 of 2 predictions are of subjects that training saw with labels: b"):
        evaluate(work)


def test_a_prediction_that_nobody_recorded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scans = {"a": {"file": "a.nii.gz", "runs": ["fold0"], "labelled_subjects": ["c"]}}
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()}, facts={"scans": scans, "pretraining_subjects": []})
    assert evaluate(work)["training_not_recorded"] == ["b"]
    assert "1 of the predictions are not in predictions.json" in capsys.readouterr().out


def test_a_prediction_without_record_of_a_subject_that_every_run_saw_is_refused(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    for run, labelled in {"fold0": ["a", "b"], "fold1": ["a", "c"]}.items():
        (work / "runs" / run).mkdir(parents=True)
        (work / "runs" / run / "model.json").write_text(json.dumps(model("finetune", labelled_subjects=labelled)))
    with pytest.raises(UsageError, match="1 of 2 predictions are of subjects that training saw with labels: a"):
        evaluate(work)
    (work / "predictions" / "a.nii.gz").unlink()
    assert evaluate(work)["training_not_recorded"] == ["b"]  # one run held it out, and may have made it


def test_nominal_spacing_gives_no_millimetres(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work = make_work(tmp_path, {"a": label_map(1), "b": label_map()}, facts={"nominal_spacing": True})
    default = evaluate(work)["protocols"]["default"]
    assert default["without_millimetres"].startswith("the spacing of these scans is nominal")
    assert default["structures"]["pool"]["hd95_mm"]["mean"] is None
    assert default["structures"]["pool"]["dice"]["mean"] < 1
    assert (rows_of(work)[0]["hd95_mm"], rows_of(work)[0]["reference_ml"]) == ("", "")
    assert "HD95" not in capsys.readouterr().out


def test_pictures_give_no_millimetres(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    for folder in ("predicted", "wanted"):
        (tmp_path / folder).mkdir()
        Image.fromarray(label_map()[:, :, 2]).save(tmp_path / folder / "a.png")
    default = evaluate(tmp_path / "predicted", tmp_path / "wanted")["protocols"]["default"]
    assert default["without_millimetres"].startswith("pictures have no spacing")
    assert default["overall"]["dice"]["mean"] == 1.0
    Image.fromarray(label_map(without=3)[:, :, 2]).save(tmp_path / "predicted" / "a.png")
    evaluate(tmp_path / "predicted", tmp_path / "wanted")
    assert "missed and invented structures count as Dice 0\n" in capsys.readouterr().out  # and no diagonal


def test_one_structure_has_no_mean_of_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for folder in ("predicted", "wanted"):
        for scan in "ab":
            volume.write_volume(label_map(without=3), AFFINE, tmp_path / folder / f"{scan}.nii.gz")
    evaluate(tmp_path / "predicted", tmp_path / "wanted")
    said = capsys.readouterr().out
    assert "label 1" in said
    assert "mean of" not in said


def test_json_is_the_only_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(1)})
    summary = evaluate(work, json=True)
    assert json.loads(capsys.readouterr().out) == summary


def test_the_table_shows_interval_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map(without=3)})
    evaluate(work)
    text = capsys.readouterr().out
    assert "HD95 mm" in text
    wall = next(line for line in text.splitlines() if line.strip().startswith("wall"))
    assert wall.split()[1] == "0.500"
    assert wall.split()[-3:] == ["1", "0", "0"]
    assert "0.000-1.000" in text
    assert max(len(line) for line in text.splitlines() if "written" not in line) <= 80
    assert "missed and invented structures count as Dice 0" in text


def test_threads_change_nothing(tmp_path: Path):
    work = make_work(tmp_path, {f"s{k}": label_map(k % 3) for k in range(6)})
    assert evaluate(work, jobs=1) == evaluate(work, jobs=4)


# ---------------------------------------------------------------- refusals


def test_refuses_a_subject_that_was_labelled_in_training(tmp_path: Path):
    facts = {"labelled_subjects": ["a"], "pretraining_subjects": [], "test_subjects": ["b"]}
    work = make_work(tmp_path, {"a_ED": label_map(), "b_ED": label_map()}, facts=facts)
    with pytest.raises(UsageError, match="1 of 2 predictions are of subjects that training saw with labels: a"):
        evaluate(work)
    assert not (work / "evaluation").exists()


def test_refuses_another_shape(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    volume.write_volume(label_map()[:, :, :-1], AFFINE, work / "predictions" / "a.nii.gz")
    with pytest.raises(DataFault, match=r"a.nii.gz has shape \(16, 14, 4\), .* \(16, 14, 5\)"):
        evaluate(work)


def test_refuses_another_place(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map(), "b": label_map()})
    moved = AFFINE.copy()
    moved[2, 3] = 8.0
    volume.write_volume(label_map(), moved, work / "predictions" / "a.nii.gz")
    with pytest.raises(DataFault, match="lie 8 mm apart"):
        evaluate(work)


def test_refuses_values_that_no_structure_has(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map() * 2})
    with pytest.raises(DataFault, match="holds the values 2, 6"):
        evaluate(work)


def test_values_that_count_as_background_do(tmp_path: Path):
    """Of the index: values in the files that are no structure of this study."""
    work = make_work(tmp_path, {"a": label_map()})
    with_other = label_map()
    with_other[:2] = 7
    volume.write_volume(with_other, AFFINE, tmp_path / "data" / "a.nii.gz")
    with pytest.raises(DataFault, match="holds the value 7"):
        evaluate(work)
    index = indexing.load(work / "index.json")
    indexing.save(dataclasses.replace(index, ignored=(7,)), work / "index.json")
    assert evaluate(work)["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0


def test_refuses_fractions_and_channels(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map()})
    prediction = work / "predictions" / "a.nii.gz"
    volume.write_volume(label_map().astype(np.float32) / 2, AFFINE, prediction)
    with pytest.raises(DataFault, match="from an integer"):
        evaluate(work)
    volume.write_volume(np.stack([label_map()] * 2, axis=-1), AFFINE, prediction)
    with pytest.raises(DataFault, match="holds 2 values per voxel"):
        evaluate(work)
    volume.write_volume(label_map().astype(np.float32), AFFINE, prediction)
    assert evaluate(work)["protocols"]["default"]["overall"]["dice"]["mean"] == 1.0


def test_refuses_when_there_is_nothing_to_score(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map()})
    (work / "predictions" / "a.nii.gz").rename(work / "predictions" / "other.nii.gz")
    with pytest.raises(UsageError, match="none of the 1 predictions") as caught:
        evaluate(work)
    assert "(such as other) has a reference (such as a)" in caught.value.given


def test_refuses_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        evaluate(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        evaluate(tmp_path / "nowhere")
    work = make_work(tmp_path, {"a": label_map()})
    with pytest.raises(UsageError, match="is not a folder") as caught:
        evaluate(work / "predictions", tmp_path / "data" / "a.nii.gz", output=tmp_path / "out")
    assert caught.value.next == f"--references {tmp_path / 'data'}"


def test_refuses_predictions_without_any_reference(tmp_path: Path):
    work = make_work(tmp_path, {"a": label_map()})
    (work / "index.json").unlink()
    with pytest.raises(UsageError, match=r"has no index.json beside it"):
        evaluate(work / "predictions")


def test_the_command_line_scores_two_plain_folders(tmp_path: Path):
    work = make_work(tmp_path, {"a_ED": label_map(1)})
    (work / "index.json").unlink()
    arguments = [
        "evaluate",
        str(work / "predictions"),
        "--references",
        str(tmp_path / "data"),
        "-o",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["scans"] == 1


def test_a_work_folder_without_predictions_says_what_comes_first(tmp_path: Path):
    work = make_work(tmp_path, {"a_ED": label_map()})
    shutil.rmtree(work / "predictions")
    with pytest.raises(UsageError, match="predictions is not a folder") as caught:
        evaluate(work)
    assert "lemis predict" in caught.value.next
