"""An index is filled in: grids, values and names of structures."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from folders_made import SHARED
from lemis.datasets.index import Scan
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder

RAS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def test_scan_folder_reads_grids_and_values(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 1.5, 8.0, 1.0])
    image = np.zeros((5, 6, 4), np.int16)
    label = np.zeros((5, 6, 4), np.uint8)
    label[0], label[1] = 3, 7
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / "a_seg.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image, affine[[0, 2, 1, 3]]), tmp_path / "b.nii.gz")
    index = scan_folder(tmp_path, jobs=2)
    assert index.scans == (
        Scan(
            id="a",
            subject="a",
            images=("a.nii.gz",),
            label="a_seg.nii.gz",
            shape=(5, 6, 4),
            spacing_mm=(1.5, 1.5, 8.0),
            slice_axis=2,
            label_values=(0, 3, 7),
            axes=RAS,
        ),
        Scan(
            id="b",
            subject="b",
            images=("b.nii.gz",),
            shape=(5, 4, 6),
            spacing_mm=(1.5, 8.0, 1.5),
            slice_axis=1,
            axes=RAS,
        ),
    )
    assert index.frame == RAS
    assert index.channels == ("image",)
    assert index.labels == {"background": 0, "label 3": 3, "label 7": 7}


def test_channels_inside_the_files_are_counted(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 4, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert scan_folder(tmp_path).channels == ("channel 0", "channel 1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here (../shared/data)")
@pytest.mark.parametrize("split", sorted(SHARED.glob("Dataset*/splits_final.json")), ids=lambda file: file.parent.name)
def test_ids_and_subjects_fit_the_splits_that_come_with_a_data_set(split: Path) -> None:
    subjects = {scan.id: scan.subject for scan in recognise(split.parent).index.scans}
    folds = json.loads(split.read_text(encoding="utf-8"))
    assert set(subjects) == {name for fold in folds for part in fold.values() for name in part}
    for fold in folds:
        assert not {subjects[name] for name in fold["train"]} & {subjects[name] for name in fold["val"]}
