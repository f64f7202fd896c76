"""predict: label maps on the grid of each image, in its format, whatever that is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from lemis.data import phantom, volume
from lemis.engine.run import load_model
from lemis.errors import UsageError
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict

FEW = ("steps=2", "precision=32")


@pytest.fixture(scope="module")
def tuned(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two fine-tuned runs, ``a`` (folds 0) and ``b`` (fold 1)."""
    work = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("tuned") / "work"))
    for name, fold in (("a", 0), ("b", 1)):
        finetune(work, name=name, fold=fold, preset="tiny", overrides=FEW, device="cpu")
    return work


@pytest.fixture
def runs(tuned: Path, tmp_path: Path) -> Path:
    """The runs of a copy of that work folder."""
    return Path(shutil.copytree(tuned, tmp_path / "work")) / "runs"


def retell(run: Path, **facts: Any) -> None:
    """Change what ``model.json`` says."""
    content = json.loads((run / "model.json").read_text(encoding="utf-8"))
    (run / "model.json").write_text(json.dumps({**content, **facts}))


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return content


# ------------------------------------------------------------------------------------------------- which scans


def test_every_scan_that_was_not_trained_on_is_predicted(runs: Path) -> None:
    folder = predict(runs / "a", device="cpu")
    assert folder == runs.parent / "predictions"
    trained = set(load_model(runs / "a")[1]["labelled_subjects"])
    expected = {f"heart_00{n}" for n in range(1, 7)} - trained
    assert {file.name.removesuffix(".nii.gz") for file in folder.glob("*.nii.gz")} == expected
    assert len(expected) == 4
    entry = record(folder)["scans"]["heart_006"]
    assert (entry["file"], entry["runs"], set(entry["labelled_subjects"])) == ("heart_006.nii.gz", ["a"], trained)
    assert record(folder)["pretraining_subjects"] == []


def test_chosen_scans_only(runs: Path) -> None:
    folder = predict(runs / "a", scans=["heart_005"], device="cpu")
    assert [file.name for file in folder.glob("*.nii.gz")] == ["heart_005.nii.gz"]


def test_what_is_made_is_not_made_again_until_something_changes(
    runs: Path, capsys: pytest.CaptureFixture[str], phantom_scans: Path, tmp_path: Path
) -> None:
    scans = Path(shutil.copytree(phantom_scans / "imagesTr", tmp_path / "scans"))

    def again(*names: str) -> Path:
        return predict([runs / name for name in names], inputs=scans, output=tmp_path / "out", device="cpu")

    folder = again("a")
    assert "predicted 6 scans with a" in capsys.readouterr().err
    again("a")
    assert "nothing to do" in capsys.readouterr().err
    (folder / "heart_002.nii.gz").unlink()
    again("a")
    assert "predicted 1 scan with a" in capsys.readouterr().err
    os.utime(scans / "heart_003_0000.nii.gz", (1, 1))  # another file under the same name
    again("a")
    assert "predicted 1 scan with a" in capsys.readouterr().err
    shutil.copy(runs / "b" / "model.safetensors", runs / "a" / "model.safetensors")  # a run made anew
    again("a")
    assert "predicted 6 scans with a" in capsys.readouterr().err
    again("a", "b")
    assert "predicted 6 scans with a + b" in capsys.readouterr().err


def test_an_ensemble_of_one_run_twice_is_that_run(runs: Path, tmp_path: Path) -> None:
    one = predict(runs / "a", scans=["heart_005"], output=tmp_path / "one", device="cpu")
    two = predict([runs / "a", runs / "a"], scans=["heart_005"], output=tmp_path / "two", device="cpu")
    arrays = [volume.read(folder / "heart_005.nii.gz").array for folder in (one, two)]
    np.testing.assert_array_equal(*arrays)
    assert record(two)["scans"]["heart_005"]["runs"] == ["a", "a"]


# ---------------------------------------------------------------------------------------------------- messages


def test_a_scan_that_is_not_there(runs: Path) -> None:
    with pytest.raises(UsageError, match="scan 'heart_009'") as caught:
        predict(runs / "a", scans=["heart_009"], device="cpu")
    assert "one of the 6 scans" in caught.value.allowed


def test_nothing_left_to_predict(runs: Path) -> None:
    retell(runs / "a", labelled_subjects=[f"heart_00{n}" for n in range(1, 7)])
    with pytest.raises(UsageError, match="every scan here was trained on") as caught:
        predict(runs / "a", device="cpu")
    assert "--inputs" in caught.value.next


def test_runs_that_do_not_belong_together(runs: Path) -> None:
    retell(runs / "b", label_values=[0, 1, 2, 4])
    with pytest.raises(UsageError, match=r"differ in label_values: \[0, 1, 2, 3\] and \[0, 1, 2, 4\]"):
        predict([runs / "a", runs / "b"], device="cpu")


def test_scans_with_other_channels(runs: Path) -> None:
    content = json.loads((runs.parent / "index.json").read_text(encoding="utf-8"))
    (runs.parent / "index.json").write_text(json.dumps({**content, "channels": ["T1", "T2"]}))
    with pytest.raises(UsageError, match=r"scans with 2 channels \(T1, T2\)") as caught:
        predict(runs / "a", device="cpu")
    assert caught.value.allowed == "the 1 the run was trained on: MR"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no model\.json"):
        predict(tmp_path, device="cpu")


def test_cuda_without_a_device_is_refused_and_never_replaced(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda"):
        predict(runs / "a", device="cuda")


# -------------------------------------------------------------------------------------------- values and grids


def test_label_values_come_back_with_their_gaps(runs: Path) -> None:
    index = runs.parent / "index.json"
    values = [0, 7, 500, 501]
    retell(runs / "a", label_values=values)
    plain = predict(runs / "b", scans=["heart_005"], output=runs / "plain", device="cpu")
    shutil.copy(runs / "b" / "model.safetensors", runs / "a" / "model.safetensors")
    gaps = predict(runs / "a", scans=["heart_005"], output=runs / "gaps", device="cpu")
    classes, labels = (volume.read(folder / "heart_005.nii.gz").array for folder in (plain, gaps))
    assert index.exists()
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(labels, np.array(values)[classes.astype(int)])
    assert nibabel.load(gaps / "heart_005.nii.gz").get_data_dtype() == np.uint16


def oriented(array: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its voxels stored in another order."""
    image = nibabel.Nifti1Image(array, affine)
    start = nibabel.orientations.io_orientation(affine)
    turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(tuple(codes)))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), turned.affine


def write_itk(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """As NRRD or MetaImage: ITK's own axes and LPS."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


Writer = Callable[[np.ndarray, np.ndarray, Path], object]


def as_nifti(codes: str) -> Writer:
    return lambda array, affine, path: volume.write_volume(*oriented(array, affine, codes), path)


def as_itk(codes: str) -> Writer:
    return lambda array, affine, path: write_itk(*oriented(array, affine, codes), path)


GRIDS: dict[str, Writer] = {
    "oblique.nii.gz": lambda array, affine, path: volume.write_volume(array, affine, path),
    "lps.nii.gz": as_nifti("LPS"),
    "ras.nii": as_nifti("RAS"),
    "sagittal.nii.gz": as_nifti("PIR"),
    "scan.nrrd": as_itk("LPS"),
    "turned.nrrd": as_itk("SAR"),
    "scan.mha": as_itk("RAI"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_prediction_lies_on_the_grid_of_its_scan(name: str, tuned: Path, tmp_path: Path) -> None:
    scan = phantom.make("heart", subject=7, shape=(36, 40, 5))
    scans = tmp_path / "scans"
    scans.mkdir()
    GRIDS[name](scan.image, scan.affine, scans / name)
    folder = predict(tuned / "runs" / "a", inputs=scans, output=tmp_path / "out", device="cpu")
    (written,) = (file for file in folder.iterdir() if file.name != "predictions.json")
    assert written.name == name
    before, after = sitk.ReadImage(str(scans / name)), sitk.ReadImage(str(written))
    assert after.GetSize() == before.GetSize()
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(after, what)(), getattr(before, what)(), atol=1e-4)
    assert set(np.unique(sitk.GetArrayViewFromImage(after))) <= {0, 1, 2, 3}
    if ".nii" in name:
        one, other = nibabel.load(scans / name), nibabel.load(written)
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.affine, other.affine)


def test_the_same_anatomy_gets_the_same_labels_however_it_is_stored(tuned: Path, tmp_path: Path) -> None:
    scan = phantom.make("heart", subject=7, shape=(36, 40, 5))
    found = []
    for number, name in enumerate(GRIDS):
        scans = tmp_path / str(number)
        scans.mkdir()
        GRIDS[name](scan.image, scan.affine, scans / name)
        folder = predict(tuned / "runs" / "a", inputs=scans, output=scans / "out", device="cpu")
        found.append(volume.read(folder / name).array)
    assert len(np.unique(found[0])) > 1
    for other in found[1:]:
        assert float(np.mean(other != found[0])) < 1e-3  # a voxel where two classes are equally probable may flip


def test_one_file_and_a_picture(tuned: Path, runs: Path, tmp_path: Path) -> None:
    scan = phantom.make("heart", subject=7, shape=(36, 40, 5))
    volume.write_volume(scan.image, scan.affine, tmp_path / "one.nii.gz")
    folder = predict(runs / "a", inputs=tmp_path / "one.nii.gz", output=tmp_path / "out", device="cpu")
    assert (folder / "one.nii.gz").exists()

    scaled = (255 * scan.image[..., 2].clip(0, 1000) / 1000).astype(np.uint8)
    Image.fromarray(scaled).save(tmp_path / "slice.png")
    retell(runs / "a", prepared={**load_model(runs / "a")[1]["prepared"], "spacing_mm": "native"})
    folder = predict(runs / "a", inputs=tmp_path / "slice.png", output=tmp_path / "pictures", device="cpu")
    with Image.open(folder / "slice.png") as written:
        assert written.size == (40, 36)
        assert set(np.unique(np.asarray(written))) <= {0, 1, 2, 3}
