"""KAF from scans to label maps, on scans whose slices have no keypoint, one, or more than are used."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lemis.preparation import keypoints
from lemis.preparation.settings import Settings
from lemis.preparation.store import open_store
from lemis.verbs.check import check
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain

SHAPE = (48, 44)
MOST = 16  # of the tiny preset


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.indices(SHAPE)
    return ((rows - row) ** 2 + (cols - col) ** 2 < radius**2).astype(np.float32)


def slice_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    """``blank``: constant; ``one``: so smooth that a detector finds next to nothing; ``many``: more than are used."""
    if kind == "blank":
        return np.zeros(SHAPE, np.float32)
    if kind == "one":
        rows, cols = np.indices(SHAPE)
        return np.exp(-((rows - 24) ** 2 + (cols - 22) ** 2) / 60).astype(np.float32)
    image = sum(disc(*rng.uniform(6, 38, 2), rng.uniform(2, 4)) * rng.uniform(0.3, 1) for _ in range(25))
    return np.asarray(image, np.float32)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "scans"
    rng = np.random.default_rng(0)
    kinds = {
        "a": ["many", "blank", "one"], "b": ["many"], "c": ["blank", "many", "blank", "one"], "d": ["one"],
        "e": ["many", "many"],
    }  # fmt: skip
    for subject, slices in kinds.items():
        image = np.stack([slice_of(kind, rng) for kind in slices], axis=2)
        label = np.stack([disc(24, 22, 9)] * len(slices), axis=2).astype(np.uint8)
        for name, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            end = "_0000.nii.gz" if name == "imagesTr" else ".nii.gz"
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 8.0, 1.0])), folder / name / f"{subject}{end}")
    facts = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "disc": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["kaf_unet", "fcn"])
def test_slices_with_no_one_and_many_keypoints_train_and_predict(
    backbone: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(scans, output=tmp_path)
    prepare(tmp_path, settings=Settings(), keypoints=keypoints.Settings(most=MOST), jobs=1)
    store = open_store(tmp_path / "prepared")
    counts = np.concatenate([store.keypoints(i).count for i in range(len(store.scans))])
    assert counts.min() == 0
    assert 1 in counts
    assert counts.max() == MOST
    capsys.readouterr()

    layers = ["backbone.levels=[1,2,3,4]"]
    common = {"preset": "tiny", "device": "cpu", "backbone": backbone}
    run = pretrain(tmp_path, method="kaf", overrides=["steps=6", *layers], **common)  # type: ignore[arg-type]
    tuned = finetune(tmp_path, pretrained=run, fold=0, overrides=["steps=4", *layers], **common)  # type: ignore[arg-type]
    predictions = predict(tuned, scans=["a", "b", "c", "d", "e"], output=tmp_path / "all")
    said = capsys.readouterr().err
    assert "warning" not in said
    assert "keypoint" not in said.replace("the keypoint loss starts above", ""), "none is missed"
    for scan in "abcde":
        image = nib.load(scans / "imagesTr" / f"{scan}_0000.nii.gz")
        label = nib.load(predictions / f"{scan}.nii.gz")
        assert label.shape == image.shape
        assert np.isin(np.asarray(label.dataobj), (0, 1)).all()
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(np.isfinite(list(json.loads(line).values())).all() for line in lines)
