"""predict: label maps on the grid of each image, in its format, whatever that is."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image
from typer.testing import CliRunner

from lemis import phantom
from lemis.cli import app
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.plugins import Trust
from lemis.prediction import components
from lemis.preparation.store import open_store
from lemis.runs.run import Run, load_model
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.work_files.predictions import Kept, Pieces
from scans_on_disk import write_itk
from work_files_made import model_of

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


@pytest.mark.parametrize(("value", "words"), [(np.nan, "not finite"), (5.0, "is constant")])
def test_a_scan_that_cannot_be_prepared_is_named(value: float, words: str, runs: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    volume.write_volume(np.full((40, 40, 4), value, np.float32), np.diag([1.5, 1.5, 8.0, 1.0]), scans / "p7.nii.gz")
    with pytest.raises(DataFault, match=rf"scan p7 \(\S*scans/p7\.nii\.gz\): channel 0 (.*){words}"):
        predict(runs / "a", inputs=scans, output=tmp_path / "out", device="cpu")


def test_every_scan_that_was_not_trained_on_is_predicted(runs: Path) -> None:
    folder = predict(runs / "a", device="cpu")
    assert folder == runs.parent / "predictions"
    trained = set(load_model(runs / "a")[1].labelled_subjects)
    expected = {f"heart_00{n}" for n in range(1, 7)} - trained
    assert {file.name.removesuffix(".nii.gz") for file in folder.glob("*.nii.gz")} == expected
    assert len(expected) == 4
    entry = record(folder)["scans"]["heart_006"]
    assert (entry["file"], entry["runs"], set(entry["labelled_subjects"])) == ("heart_006.nii.gz", ["a"], trained)
    assert entry["pretraining_subjects"] == []


def test_chosen_scans_only(runs: Path) -> None:
    folder = predict(runs / "a", scans=["heart_005"], device="cpu")
    assert [file.name for file in folder.glob("*.nii.gz")] == ["heart_005.nii.gz"]


@pytest.mark.slow
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


# ----------------------------------------------------------------------------------------------------- volumes

POINTWISE = """
from dataclasses import dataclass
from torch import nn
from lemis import contracts

@dataclass(frozen=True, kw_only=True)
class Settings:
    pass

class Backbone(contracts.Backbone):
    dims, channels, strides, decoder_channels, decoder_strides = 3, (1,), (1,), (1,), (1,)

    def __init__(self, settings, in_channels, num_classes):
        super().__init__()
        self.head = nn.Conv3d(in_channels, num_classes, 1)

    def encode(self, x):
        return [x]

    def decode(self, maps, depth=None):
        return maps[-1]

    def forward(self, x):
        assert tuple(x.shape[2:]) == (4, 16, 16), "a tile"
        return self.head(x)

    def part_of(self, parameter_name):
        return "head"
"""
NETWORK_CLASSES = 4
THRESHOLDS = {"head.weight": [0.0, 2.0, 4.0, 6.0], "head.bias": [0.0, 1.0, 0.0, -3.0]}  # the brighter, the higher


OWN = Trust().also("own_networks.pointwise")


@pytest.fixture
def volumes(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a three-dimensional network beside the others, which sees (4, 16, 16) voxels at a time."""
    (tmp_path / "own_networks").mkdir()
    (tmp_path / "own_networks" / "__init__.py").write_text("")
    (tmp_path / "own_networks" / "pointwise.py").write_text(POINTWISE)
    monkeypatch.syspath_prepend(tmp_path)
    facts = {
        **load_model(runs / "a")[1].model_dump(mode="json"),
        "backbone": "own_networks.pointwise",
        "backbone_settings": {},
    }
    weights = {name: torch.tensor(values) for name, values in THRESHOLDS.items()}
    weights["head.weight"] = weights["head.weight"].reshape(NETWORK_CLASSES, 1, 1, 1, 1)
    Run(runs / "volumes", {}).finish(weights, model_of({**facts, "patch_px": [4, 16, 16]}))
    return runs / "volumes"


def test_a_volume_is_predicted_by_tiles_on_its_own_grid(volumes: Path, phantom_scans: Path, tmp_path: Path) -> None:
    retell(volumes, prepared={**load_model(volumes)[1].prepared, "spacing_mm": "native", "field_of_view_mm": None})
    every = ["largest_components=false"]
    folder = predict(
        volumes, scans=["heart_005"], output=tmp_path / "out", overrides=every, device="cpu", trust=OWN
    )  # fmt: skip
    image = volume.read(phantom_scans / "imagesTr" / "heart_005_0000.nii.gz").array.astype(float)
    score = np.stack(
        [
            weight * (image - image.mean()) / image.std() + bias
            for weight, bias in zip(*THRESHOLDS.values(), strict=True)
        ]
    )
    found = volume.read(folder / "heart_005.nii.gz").array
    assert float(np.mean(found != score.argmax(0))) < 1e-3  # float16 images
    assert len(np.unique(found)) == NETWORK_CLASSES


def test_slices_are_prepared_for_volumes_and_come_back(volumes: Path, tmp_path: Path) -> None:
    thin = {**load_model(volumes)[1].prepared, "slice_spacing_mm": 3.0}
    retell(volumes, prepared=thin)
    folder = predict(volumes, scans=["heart_005"], output=tmp_path / "out", device="cpu", trust=OWN)
    assert volume.read(folder / "heart_005.nii.gz").array.shape == (40, 40, 5)


def test_the_record_names_the_tiles_and_other_tiles_predict_anew(
    volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(*overrides: str) -> str:
        predict(volumes, scans=["heart_005"], overrides=overrides, device="cpu", trust=OWN)
        return capsys.readouterr().err

    assert "predicted 1 scan" in again()
    named = record(volumes.parent.parent / "predictions")["scans"]["heart_005"]["tiles"]
    assert named == {"patch_px": [4, 16, 16], "overlap": 0.5, "blend": "gaussian"}
    assert "nothing to do" in again("at_once=2")
    for override in ("overlap=0.25", "blend=constant", "mirror=true"):
        assert "predicted 1 scan" in again(override)
        assert "nothing to do" in again(override)


def test_a_record_of_before_there_were_tiles_holds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = predict(runs / "a", scans=["heart_005"], device="cpu")
    assert "tiles" not in record(folder)["scans"]["heart_005"]
    predict(runs / "a", scans=["heart_005"], device="cpu")
    assert "nothing to do" in capsys.readouterr().err


def test_tiles_of_another_size_are_no_ensemble(volumes: Path) -> None:
    with pytest.raises(UsageError, match=r"differ in patch_px: None and \(4, 16, 16\)"):
        predict([volumes.parent / "a", volumes], device="cpu", trust=OWN)


# ------------------------------------------------------------------------------------------------------- mirror images


def test_mirror_images_of_slices_along_the_axes_that_training_mirrored(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_model(runs / "a")[1].mirrored_axes == (0, 1)

    def again(*given: str, names: tuple[str, ...] = ("a",)) -> tuple[list[int], str]:
        paths = [runs / name for name in names]
        folder = predict(paths, scans=["heart_005"], output=tmp_path / "out", overrides=given, device="cpu")
        return record(folder)["scans"]["heart_005"]["mirrored"], capsys.readouterr().err

    assert again("mirror=false")[0] == []
    axes, said = again()
    assert (axes, "predicted 1 scan" in said) == ([0, 1], True)
    assert "nothing to do" in again("mirror=true")[1]
    retell(runs / "b", mirrored_axes=[1])
    assert again("mirror=auto", names=("a", "b"))[0] == [1], "of both"
    retell(runs / "b", mirrored_axes=None)
    assert again("mirror=auto", names=("a", "b"))[0] == [], "an older run does not say"
    assert again("mirror=true", names=("a", "b"))[0] == [0, 1]


# ------------------------------------------------------------------------------------------------------------ pieces


def test_a_run_knows_what_is_one_piece_in_its_labels(runs: Path) -> None:
    model, store = load_model(runs / "a")[1], open_store(runs.parent / "prepared")
    labels = [store.label(i) for i, facts in enumerate(store.scans) if facts.subject in model.labelled_subjects]
    assert model.one_piece == components.learned([one for one in labels if one is not None], store.label_names)
    assert model.one_piece.foreground


def test_islands_of_what_is_one_piece_become_background(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retell(runs / "a", one_piece={"foreground": True, "structures": ["RV", "LV"]})

    def again(*overrides: str) -> tuple[np.ndarray, dict[str, Any], str]:
        folder = predict(runs / "a", scans=["heart_005"], overrides=overrides, device="cpu")
        made = record(folder)["scans"]["heart_005"]
        return volume.read(folder / "heart_005.nii.gz").array.astype(np.uint8), made, capsys.readouterr().err

    every, made, _ = again("largest_components=false")
    assert (made["kept"], made["pieces"]) == (None, None)
    names = load_model(runs / "a")[1].label_names
    for override, kept in {
        "auto": Kept(foreground=True, structures=("RV", "LV"), least_share=components.LEAST_SHARE),
        "true": Kept(structures=names[1:], by="command"),
    }.items():
        expected = every.copy()
        told = components.keep_largest(expected, names, kept)
        found, made, said = again(f"largest_components={override}")
        np.testing.assert_array_equal(found, expected)
        read = (
            Kept.model_validate_json(json.dumps(made["kept"])),
            Pieces.model_validate_json(json.dumps(made["pieces"])),
        )
        assert read == (kept, told)
        assert ("note: Only the largest piece is kept of RV" in said) == bool(told.removed or told.in_pieces)
        assert "nothing to do" in again(f"largest_components={override}")[2]


def test_an_older_run_and_what_is_in_pieces_keep_all(runs: Path) -> None:
    for number, known in enumerate((None, {"foreground": False, "structures": []})):
        retell(runs / "a", one_piece=known)
        folder = predict(runs / "a", scans=["heart_005"], output=runs / str(number), device="cpu")
        made = record(folder)["scans"]["heart_005"]
        assert (made["kept"], made["pieces"]) == (None, None)


def test_slices_take_no_settings_of_tiles_and_nothing_takes_a_word(runs: Path) -> None:
    with pytest.raises(UsageError, match=r"at_once=2 for a network that sees whole slices"):
        predict(runs / "a", overrides=["largest_components=true", "at_once=2"], device="cpu")
    with pytest.raises(UsageError, match="largest_components='some'"):
        predict(runs / "a", overrides=["largest_components=some"], device="cpu")


# ----------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_says_what_it_will_take_and_writes_nothing(
    volumes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    retell(volumes, prepared={**load_model(volumes)[1].prepared, "spacing_mm": "native", "field_of_view_mm": None})
    folder = predict(volumes, output=tmp_path / "out", overrides=["at_once=3"], dry_run=True, device="cpu", trust=OWN)
    assert folder == tmp_path / "out"
    assert not folder.exists()
    seen = capsys.readouterr().out
    assert re.search(r"^4 scans, 128 tiles of 4 x 16 x 16: about [\d.e-]+ s on cpu, [\d.e-]+ s a tile", seen)
    assert re.search(r"longest and largest: heart_00\d \(40 x 40 x 5\): 32 tiles, ", seen)  # 2 x 4 x 4
    assert re.search(r" s, peak memory of the process about [\d.]+ GB\n$", seen)


def test_on_the_command_line_settings_follow_the_runs(volumes: Path) -> None:
    words = ["predict", str(volumes), str(volumes), "overlap=0", "--dry-run", "--trust", "--device", "cpu"]
    seen = CliRunner().invoke(app, words)
    assert "4 scans, 72 tiles of 4 x 16 x 16" in seen.output
    assert seen.exit_code == 0


def test_a_dry_run_of_slices(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = predict(runs / "a", dry_run=True, device="cpu")
    assert not folder.exists()
    assert capsys.readouterr().out.startswith("4 scans, 20 slices: about ")
    predict(runs / "a", scans=["heart_005"], device="cpu")
    predict(runs / "a", scans=["heart_005"], dry_run=True, device="cpu")
    assert "nothing to do" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- messages


def test_no_run_at_all() -> None:
    with pytest.raises(UsageError, match="no run"):
        predict([])


def test_settings_that_are_none(runs: Path, volumes: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting overlp") as caught:
        predict(volumes, overrides=["overlp=0.5"], device="cpu", trust=OWN)
    assert caught.value.next == "overlap=..."
    with pytest.raises(UsageError, match=r"overlap=0\.5 for a network that sees whole slices"):
        predict(runs / "a", overrides=["overlap=0.5"], device="cpu")


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
    with pytest.raises(UsageError, match=r"differ in label_values: \(0, 1, 2, 3\) and \(0, 1, 2, 4\)"):
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
    (written,) = (file for file in folder.iterdir() if file.suffix not in (".json", ".lock", ".csv"))
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
    retell(runs / "a", prepared={**load_model(runs / "a")[1].prepared, "spacing_mm": "native"})
    folder = predict(runs / "a", inputs=tmp_path / "slice.png", output=tmp_path / "pictures", device="cpu")
    with Image.open(folder / "slice.png") as written:
        assert written.size == (40, 36)
        assert set(np.unique(np.asarray(written))) <= {0, 1, 2, 3}
