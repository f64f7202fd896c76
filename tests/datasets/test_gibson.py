"""The folders of the multi-organ reference of Gibson et al., as they unpack."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from folders_made import found, touch
from lemis.datasets.listing import LeftOut
from lemis.datasets.recognition import recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import UsageError


@pytest.fixture
def abdomen(tmp_path: Path, write_series) -> Path:
    """Two scans of each cohort, one of them labelled, as they lie after unpacking."""
    touch(
        tmp_path / "cropping.csv",
        tmp_path / "label_btcv_multiorgan" / "label0001.nii.gz",
        tmp_path / "label_tciapancreasct_multiorgan" / "label_tcia_multiorgan" / "label0002.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Training" / "img" / "img0001.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Training" / "label" / "label0001.nii.gz",
        tmp_path / "Abdomen" / "RawData" / "Testing" / "img" / "img0061.nii.gz",
        tmp_path / "Abdomen" / "RegData" / "img" / "img0001-0061.nii.gz",
        tmp_path / "nii" / "Pancreas_0001.nii.gz",
    )
    write_series(tmp_path / "Pancreas-CT" / "PANCREAS_0002" / "11-24-2015" / "1.2.3", np.zeros((3, 4, 2), np.int16))
    return tmp_path


def test_gibson(abdomen: Path) -> None:
    listing, seen = found(abdomen, "gibson")
    assert seen == {
        "btcv_0001": ("btcv_0001", True),
        "btcv_0061": ("btcv_0061", False),
        "pancreas_0001": ("pancreas_0001", False),
        "pancreas_0002": ("pancreas_0002", True),
    }
    assert [scan.images for scan in listing.index.scans] == [
        ("Abdomen/RawData/Training/img/img0001.nii.gz",),
        ("Abdomen/RawData/Testing/img/img0061.nii.gz",),
        ("nii/Pancreas_0001.nii.gz",),
        ("Pancreas-CT/PANCREAS_0002/11-24-2015/1.2.3",),
    ]
    index = listing.index
    assert index.scans[3].label == "label_tciapancreasct_multiorgan/label_tcia_multiorgan/label0002.nii.gz"
    assert index.channels == ("CT",)
    assert list(index.labels.values()) == [0, 1, 3, 4, 5, 6, 7, 11, 14]
    assert sorted({*index.labels.values(), *index.ignored}) == list(range(15))
    assert listing.left_out == (
        LeftOut("Abdomen/RawData/Training/label/label0001.nii.gz", "a label of the cohort's own"),
    )


def test_gibson_with_scans_that_are_missing(abdomen: Path) -> None:
    touch(*[abdomen / "label_tciapancreasct_multiorgan" / f"label{n:04d}.nii.gz" for n in (3, 25)])
    touch(abdomen / "label_btcv_multiorgan" / "label0007.nii.gz")
    listing = recognise(abdomen)
    files = {scan.id: (abdomen / scan.images[0]).exists() for scan in listing.index.scans}
    assert [name for name, there in files.items() if not there] == ["btcv_0007", "pancreas_0003"]
    assert "pancreas_0025" not in files
    assert "withdrawn from Pancreas-CT" in listing.left_out[-1].reason
    touch(abdomen / "PANCREAS_0025.nii.gz")
    assert found(abdomen / "nii", "flat")
    assert "pancreas_0025" in {scan.id for scan in recognise(abdomen).index.scans if scan.label}


def test_gibson_with_one_scan_twice(abdomen: Path) -> None:
    touch(abdomen / "nii" / "PANCREAS_0002.nii.gz")
    with pytest.raises(UsageError, match=r"pancreas_0002 has 2 images: Pancreas-CT/PANCREAS_0002/\S+, nii/PANCREAS"):
        recognise(abdomen)


def test_gibson_has_axial_slices_however_thin(tmp_path: Path) -> None:
    thin, zeros = np.diag([0.8, 0.8, 0.5, 1.0]), np.zeros((5, 6, 4), np.int16)
    for file in ("img0001.nii.gz", "label_btcv_multiorgan/label0001.nii.gz", "flat/a.nii.gz"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(zeros, thin), tmp_path / file)
    assert scan_folder(tmp_path).scans[0].slice_axis == 2
    assert scan_folder(tmp_path / "flat").scans[0].slice_axis == 1
