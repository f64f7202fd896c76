"""Scans from elsewhere: predicted, scored and reported as inside a work folder, and known again by their content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from lemis import phantom
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.pretrain import pretrain
from lemis.verbs.report import report
from lemis.work_files import run as run_files
from pages import parsed
from work_files_made import evaluate

FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def tuned(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was pre-trained on all six scans, without the third, and fine-tuned on the labels of two."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("outside") / "work"))
    before = pretrain(work, method="pcl", preset="tiny", overrides=FEW, device="cpu")
    return finetune(work, pretrained=before, name="tuned", fold=0, preset="tiny", overrides=FEW, device="cpu")


def model(run: Path) -> run_files.FinetunedModel:
    found = run_files.read_model(run)
    assert isinstance(found, run_files.FinetunedModel)
    return found


def make_scans(folder: Path, names: dict[str, int], **changed: Any) -> tuple[Path, Path]:
    """Hearts that no run has seen, by file name and number of the made-up subject: (images, labels)."""
    images, labels = folder / "scans", folder / "labels"
    for name, subject in names.items():
        made = phantom.make("heart", subject=100 + subject, shape=(40, 40, 5))
        volume.write_volume(changed.get("image", lambda x: x)(made.image), made.affine, images / f"{name}.nii.gz")
        volume.write_volume(made.label, made.affine, labels / f"{name}.nii.gz")
    return images, labels


def scored(run: Path, folder: Path, images: Path, labels: Path | None, **more: Any) -> dict[str, Any]:
    masks = predict(run, inputs=images, output=folder / "masks", device="cpu")
    return evaluate(masks, labels, **more)


def stored_anew(source: Path, target: Path) -> Path:
    """The same voxels: renamed, in another format and type, without a header that says how they lie."""
    array = np.asanyarray(nibabel.load(source).dataobj).astype(np.float32)
    target.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(array.T)), str(target))
    return target


# ---------------------------------------------------------------- as inside a work folder


def test_names_subjects_and_intervals_are_those_of_a_work_folder(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_scans(tmp_path, {"new1_ED": 1, "new1_ES": 2, "new2_ED": 3})
    summary = scored(tuned, tmp_path, images, labels)
    default = summary["protocols"]["default"]
    assert list(default["structures"]) == ["RV", "MYO", "LV"]
    assert (summary["scans"], summary["subjects"]) == (3, 2)
    assert summary["subjects_tested"] == ["new1", "new2"]
    assert default["overall"]["dice"]["low"] is not None
    assert (summary["transductive"], summary["training_not_recorded"], summary["runs"]) == (False, [], ["tuned"])
    assert "not transductive" in capsys.readouterr().out


def test_scores_lie_beside_their_masks_and_replace_no_others(tuned: Path, tmp_path: Path) -> None:
    own = tuned.parent.parent / "evaluation"
    assert not own.exists()
    for name in ("one", "two"):
        images, labels = make_scans(tmp_path / name, {"new": 1 if name == "one" else 2})
        masks = predict(tuned, inputs=images, output=tmp_path / f"masks-{name}", device="cpu")
        evaluate(masks, labels)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("summary.json")}
    assert written == {"masks-one/evaluation/summary.json", "masks-two/evaluation/summary.json"}
    assert not own.exists()
    with pytest.raises(UsageError, match="holds the scores of") as caught:
        evaluate(masks, labels, output=tmp_path / "masks-one" / "evaluation")
    assert caught.value.next.startswith(f"-o {tmp_path / 'masks-one' / 'evaluation'}-2")
    with pytest.raises(UsageError) as caught:
        evaluate(masks, tmp_path / "one" / "labels")  # the same masks by other references
    assert caught.value.given == f"{masks / 'evaluation'} holds the scores of {masks} by {labels}"
    evaluate(masks, labels)  # the same again is no other set
    moved = Path(shutil.move(tmp_path / "two", tmp_path / "elsewhere" / "two"))
    moved_masks = Path(shutil.move(masks, tmp_path / "elsewhere" / "masks-two"))
    evaluate(moved_masks, moved / "labels")  # nor where both were moved


def test_masks_of_a_new_set_inside_the_work_folder_leave_its_scores_alone(tuned: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(tuned.parent.parent, tmp_path / "work"))
    (work / "evaluation").mkdir()
    (work / "evaluation" / "summary.json").write_text("{}")
    images, labels = make_scans(tmp_path, {"heart_001": 1})  # the name of a scan of the work folder
    masks = predict(work / "runs" / "tuned", inputs=images, output=work / "masks", device="cpu")
    evaluate(masks, labels)
    assert (masks / "evaluation" / "summary.json").is_file()
    assert (work / "evaluation" / "summary.json").read_text() == "{}"


def test_labels_beside_the_scans_are_the_references(tuned: Path, tmp_path: Path) -> None:
    images, labels = make_scans(tmp_path, {"new1": 1, "new2": 2})
    for file in labels.iterdir():
        shutil.copy(file, images / file.name.replace(".nii.gz", "_seg.nii.gz"))
    by_themselves = scored(tuned, tmp_path, images, None)
    given = evaluate(tmp_path / "masks", labels, output=tmp_path / "scores")
    assert by_themselves["protocols"] == given["protocols"]


@pytest.mark.parametrize("end", ["_seg", "-label", "_gt", "_0000"])
def test_references_may_be_called_what_they_are(tuned: Path, tmp_path: Path, end: str) -> None:
    images, labels = make_scans(tmp_path, {"new1": 1, "new2": 2})
    exact = scored(tuned, tmp_path, images, labels)
    named = tmp_path / "named"
    named.mkdir()
    for file in labels.iterdir():
        shutil.copy(file, named / file.name.replace(".nii.gz", f"{end}.nii.gz"))
    assert evaluate(tmp_path / "masks", named, output=tmp_path / "scores")["protocols"] == exact["protocols"]
    if end == "_seg":
        shutil.copy(named / "new1_seg.nii.gz", named / "new1_mask.nii.gz")
        with pytest.raises(UsageError, match=r"new1 has 2 references: new1_mask\.nii\.gz, new1_seg\.nii\.gz"):
            evaluate(tmp_path / "masks", named, output=tmp_path / "scores")


def test_a_subject_is_who_the_folder_says(tuned: Path, tmp_path: Path) -> None:
    images, labels = make_scans(tmp_path, {"x": 1, "y": 2})
    assert scored(tuned, tmp_path, images, labels)["subjects"] == 2
    (images / "subjects.csv").write_text("id,subject\nx,anna\ny,anna\n")
    before = (tmp_path / "masks" / "predictions.json").read_bytes()
    predict(tuned, inputs=images, output=tmp_path / "masks", dry_run=True, device="cpu")
    assert (tmp_path / "masks" / "predictions.json").read_bytes() == before
    summary = scored(tuned, tmp_path, images, labels)  # no label map is made again for that
    assert summary["subjects_tested"] == ["anna"]


# ---------------------------------------------------------------- what training had seen


@pytest.mark.parametrize("disguise", ["renamed", "stored anew", "mirrored"])
def test_a_scan_that_trained_the_run_is_refused_under_any_name(
    tuned: Path, tmp_path: Path, phantom_scans: Path, disguise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = model(tuned).labelled_subjects[0]
    images, labels = make_scans(tmp_path, {"new": 1})
    image, label = (
        phantom_scans / "imagesTr" / f"{subject}_0000.nii.gz",
        phantom_scans / "labelsTr" / f"{subject}.nii.gz",
    )
    if disguise == "renamed":
        shutil.copy(image, images / "a.nii.gz")
        shutil.copy(label, labels / "a.nii.gz")
    elif disguise == "stored anew":
        stored_anew(image, images / "a.mha")
        stored_anew(label, labels / "a.mha")
    else:
        for source, target in ((image, images), (label, labels)):
            array = np.asanyarray(nibabel.load(source).dataobj)[::-1]
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 8.0, 1.0])), target / "a.nii.gz")
    with pytest.raises(UsageError, match=rf"1 of 2 predictions are of subjects .* labels: a, which is {subject}"):
        scored(tuned, tmp_path, images, labels)
    assert not (tmp_path / "masks" / "evaluation").exists()
    said = capsys.readouterr().err
    assert f"warning: 1 scan of subjects whose labels were trained on, by their very voxels (a is {subject})" in said


def test_another_scan_of_a_subject_that_trained_the_run_is_refused(
    tuned: Path, tmp_path: Path, phantom_scans: Path
) -> None:
    """By its name, and where the name tells nothing by another scan of the same person that is known."""
    subject = model(tuned).labelled_subjects[0]
    images, labels = make_scans(tmp_path / "named", {f"{subject}_ES": 1, "new": 2})
    with pytest.raises(UsageError, match=rf"labels: {subject}\n"):
        scored(tuned, tmp_path / "named", images, labels)
    images, labels = make_scans(tmp_path / "hidden", {"x_ES": 3, "new": 2})
    shutil.copy(phantom_scans / "imagesTr" / f"{subject}_0000.nii.gz", images / "x_ED.nii.gz")  # has no reference
    with pytest.raises(UsageError, match=rf"labels: x, which is {subject}\n"):
        scored(tuned, tmp_path / "hidden", images, labels)


def test_a_reference_that_trained_the_run_is_known_where_the_image_was_changed(
    tuned: Path, tmp_path: Path, phantom_scans: Path
) -> None:
    subject = model(tuned).labelled_subjects[1]
    images, labels = make_scans(tmp_path, {"new": 1})
    source = nibabel.load(phantom_scans / "imagesTr" / f"{subject}_0000.nii.gz")
    rescaled = np.asanyarray(source.dataobj) * 0.5 + 3
    nibabel.save(nibabel.Nifti1Image(rescaled.astype(np.float32), source.affine), images / "b.nii.gz")
    shutil.copy(phantom_scans / "labelsTr" / f"{subject}.nii.gz", labels / "b.nii.gz")
    with pytest.raises(UsageError, match=rf"labels: b, which is {subject}\n"):
        scored(tuned, tmp_path, images, labels)
    assert not (tmp_path / "masks" / "evaluation").exists()


def test_a_scan_that_pretraining_saw_makes_the_result_transductive(
    tuned: Path, tmp_path: Path, phantom_scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_scans(tmp_path, {"new": 1})
    held_out = model(tuned).test_subjects[0]
    shutil.copy(phantom_scans / "imagesTr" / f"{held_out}_0000.nii.gz", images / "c.nii.gz")
    shutil.copy(phantom_scans / "labelsTr" / f"{held_out}.nii.gz", labels / "c.nii.gz")
    assert scored(tuned, tmp_path, images, labels)["transductive"] is True
    assert "transductive: pre-training saw the images" in capsys.readouterr().out


def test_a_scan_that_is_named_like_another_is_who_it_is_by_its_voxels(
    tuned: Path, tmp_path: Path, phantom_scans: Path
) -> None:
    labelled, held_out = model(tuned).labelled_subjects[0], model(tuned).test_subjects[0]
    images, labels = make_scans(tmp_path, {"new": 1})
    shutil.copy(phantom_scans / "imagesTr" / f"{held_out}_0000.nii.gz", images / f"{labelled}.nii.gz")
    shutil.copy(phantom_scans / "labelsTr" / f"{held_out}.nii.gz", labels / f"{labelled}.nii.gz")
    assert scored(tuned, tmp_path, images, labels)["scans"] == 2


def test_label_maps_from_another_tool_are_scored_and_nothing_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nnU-Net leaves them: a dataset.json among them, no predictions.json."""
    _, labels = make_scans(tmp_path, {"p1_ED": 1, "p1_ES": 2, "p2_ED": 3})
    masks = Path(shutil.copytree(labels, tmp_path / "masks"))
    named = {"labels": {"background": 0, "right": 1, "wall": 2, "left": 3}, "channel_names": {"0": "MRI"}}
    (masks / "dataset.json").write_text(json.dumps(named))
    summary = evaluate(masks, labels)
    assert list(summary["protocols"]["default"]["structures"]) == ["right", "wall", "left"]
    assert (summary["subjects"], summary["transductive"]) == (2, None)
    assert len(summary["training_not_recorded"]) == 3
    said = capsys.readouterr().out
    assert "what training saw is not known" in said
    assert "these scans may be among those that the network learned from" in said


def test_one_label_map_that_nobody_recorded_takes_the_claim_from_all(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_scans(tmp_path, {"new1": 1, "new2": 2})
    predict(tuned, inputs=images, output=tmp_path / "masks", device="cpu")
    record = json.loads((tmp_path / "masks" / "predictions.json").read_text(encoding="utf-8"))
    del record["scans"]["new2"]
    (tmp_path / "masks" / "predictions.json").write_text(json.dumps(record))
    summary = evaluate(tmp_path / "masks", labels)
    assert (summary["transductive"], summary["training_not_recorded"]) == (None, ["new2"])
    said = capsys.readouterr().out
    assert "1 of the predictions are not in predictions.json" in said
    assert "not transductive" not in said


# ---------------------------------------------------------------- what the run was not made for


@pytest.mark.slow
def test_scans_unlike_those_of_training_are_named_with_the_numbers(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = make_scans(tmp_path, {"far": 1}, image=lambda image: image.astype(np.float32) * 100 + 50_000)
    near, _ = make_scans(tmp_path / "near", {"near": 2})
    shutil.copy(near / "near.nii.gz", images)
    shutil.copy(tmp_path / "near" / "labels" / "near.nii.gz", labels)
    summary = scored(tuned, tmp_path, images, labels)
    said = capsys.readouterr()
    assert "warning: intensities: 1 scan unlike what was trained on" in said.err
    assert "1 scan unlike what the network was trained on (intensities)" in said.out
    ((kind, seen),) = summary["strange"].pop("far")
    assert (kind, summary["strange"]) == ("intensities", {})
    assert f"  far: {seen}" in said.err
    page = report(tmp_path / "masks").read_text(encoding="utf-8").partition('<h2 id="done">')[0]
    assert f"1 of 2 scans is unlike what the network was trained on (intensities): far: {seen}." in page


def test_channels_of_another_name_are_named_and_of_another_number_refused(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = phantom.make("heart", subject=100, shape=(40, 40, 5))
    for channels in (["CT"], ["CT", "PET"]):
        folder = tmp_path / str(len(channels))
        for number in range(len(channels)):
            volume.write_volume(made.image, made.affine, folder / "imagesTr" / f"n_{number:04d}.nii.gz")
        named = {"channel_names": dict(enumerate(channels)), "labels": {}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(named))
    predict(tuned, inputs=tmp_path / "1", output=tmp_path / "masks", device="cpu")
    assert "n: channel 0 is CT; trained on MR" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"2 channels \(CT, PET\)"):
        predict(tuned, inputs=tmp_path / "2", output=tmp_path / "more", device="cpu")
    assert not (tmp_path / "more").exists()


def test_the_scans_that_a_run_was_made_from_are_not_strange(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(tuned, output=tuned.parent.parent / "own", device="cpu")
    assert "unlike" not in capsys.readouterr().err


# ---------------------------------------------------------------- the report


@pytest.mark.slow
def test_the_report_of_scans_from_elsewhere(tuned: Path, tmp_path: Path) -> None:
    images, labels = make_scans(tmp_path, {"new1_ED": 1, "new1_ES": 2, "new2_ED": 3})
    scored(tuned, tmp_path, images, labels)
    file = report(tmp_path / "masks")
    assert file == tmp_path / "masks" / "report" / "index.html"
    page = parsed(file.read_text(encoding="utf-8")).said
    for words in (
        "The data: 3 scans of 2 subjects",
        "3 scans have a reference label, with the structures RV, MYO and LV",
        "Fine-tuning “tuned”",
        "Pre-training “pcl”",
        "Evaluation: 3 scans of 2 subjects",
        "No scan was segmented by a network that had seen a label of its subject.",
        "pre-trained without labels by pcl",
        "Worst: new",
    ):
        assert words in page, words
    assert "Not done yet" not in page


def test_a_report_outlives_scans_and_runs(tuned: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "work" / "runs" / "tuned"))
    images, labels = make_scans(tmp_path, {"new1": 1, "new2": 2})
    scored(run, tmp_path, images, labels)
    for folder in (images, tmp_path / "work"):
        shutil.rmtree(folder)
    page = parsed(report(tmp_path / "masks").read_text(encoding="utf-8")).said
    assert "Evaluation: 2 scans of 2 subjects" in page
    assert "Worst:" not in page


def test_before_there_are_scores_the_report_says_what_makes_them(tuned: Path, tmp_path: Path) -> None:
    images, _ = make_scans(tmp_path, {"new": 1})
    predict(tuned, inputs=images, output=tmp_path / "masks", device="cpu")
    page = parsed(report(tmp_path / "masks").read_text(encoding="utf-8")).said
    assert "lemis evaluate MASKS --references LABELS" in page
    assert "lemis prepare" not in page
