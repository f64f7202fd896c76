"""DICOM SEG objects that lie anywhere in a folder of series become the labels of these."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import segs
from lemis.checking import check
from lemis.datasets.recognition import recognise
from lemis.datasets.scans import read_image, read_label
from lemis.errors import UsageError
from lemis.verbs.check import check as check_verb

pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")


def masks(*places: int) -> np.ndarray:
    """(slices, rows, columns, segments): each segment a column of pixels of its own, through all but the last slice."""
    found = np.zeros((6, 5, 8, len(places)), np.uint8)
    for number, place in enumerate(places):
        found[:-1, 1:3, place, number] = 1
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two patients: a SEG in a folder of its own, and one among the slices; segments in another order."""
    root = tmp_path / "study"
    one = segs.write_series(root / "p1" / "CT", uid="1.2.31", seed=1)
    (root / "p1" / "SEG").mkdir()
    segs.by_others(root / "p1" / "SEG" / "1-1.dcm", one, masks(1, 3), ["Liver", "Tumour"])
    two = segs.write_series(root / "p2" / "CT", uid="1.2.32", seed=2, turn=segs.rotation(5, 10, 15))
    segs.by_others(two / "a-first.dcm", two, masks(2, 5), ["tumour", "liver"])
    return root


def test_each_is_the_label_of_the_series_that_it_names(study: Path) -> None:
    listing = recognise(study)
    assert [(scan.id, scan.images, scan.label) for scan in listing.index.scans] == [
        ("p1", ("p1/CT",), "p1/SEG/1-1.dcm"),
        ("p2", ("p2/CT",), "p2/CT/a-first.dcm"),
    ]
    assert listing.left_out == ()


def test_check_gives_structures_one_value_in_all_scans_by_their_names(study: Path, tmp_path: Path) -> None:
    report = check_verb(study, output=tmp_path / "work", jobs=1)
    assert [fault.kind for fault in report.faults if "segment" in fault.kind or "number" in fault.kind] == []
    assert report.errors == 0
    assert report.index.labels == {"background": 0, "Liver": 1, "Tumour": 2}
    for scan, (liver, tumour) in zip(report.index.scans, ((1, 3), (5, 2)), strict=True):
        image = read_image(report.index, scan)
        label = read_label(report.index, scan, image)
        expected = segs.marked_voxels(
            (masks(liver, tumour) @ [1, 2]).T,
            segs.affine_of(study / scan.images[0]),
            grid := segs.seen_by_simpleitk(study / scan.images[0]),
        )
        assert segs.marked_voxels(label, np.diag([-1.0, -1, 1, 1]) @ image.affine, grid) == expected


def test_a_series_folder_with_its_label_inside(study: Path, tmp_path: Path) -> None:
    index = check.examine(recognise(study / "p2" / "CT").index).index
    assert [(scan.id, scan.label) for scan in index.scans] == [("CT", "a-first.dcm")]


def test_one_without_a_series_belongs_to_the_only_scan_in_its_frame_of_reference(study: Path) -> None:
    file = study / "p1" / "SEG" / "1-1.dcm"
    dataset = pydicom.dcmread(file)
    del dataset.ReferencedSeriesSequence
    dataset.save_as(file)
    assert recognise(study).index.scans[0].label == "p1/SEG/1-1.dcm"
    segs.write_series(study / "p3" / "CT", uid="1.2.33", FrameOfReferenceUID="1.2.31.0")
    listing = recognise(study)
    assert listing.index.scans[0].label is None
    assert [(left.file, left.reason) for left in listing.left_out] == [
        (
            "p1/SEG/1-1.dcm",
            "a DICOM SEG object that names no series, and whose Frame of Reference is not that of one scan alone",
        )
    ]


def test_those_of_no_scan_and_of_scans_with_a_label_are_left_out(study: Path, tmp_path: Path) -> None:
    shutil.move(study / "p1" / "SEG" / "1-1.dcm", study / "p2" / "1-1.dcm")
    shutil.rmtree(study / "p1")
    listing = recognise(study)
    assert [(left.file, left.reason) for left in listing.left_out] == [
        ("p2/1-1.dcm", "a DICOM SEG object of a series that is not here (1.2.31)")
    ]
    (study / "p2" / "label.nii.gz").touch()
    assert [(left.file, left.reason) for left in recognise(study).left_out] == [
        ("p2/1-1.dcm", "a DICOM SEG object of a series that is not here (1.2.31)"),
        ("p2/CT/a-first.dcm", "a DICOM SEG object of a scan that has a label: p2/label.nii.gz"),
    ]


def test_two_of_one_scan_are_refused(study: Path) -> None:
    shutil.copy(study / "p1" / "SEG" / "1-1.dcm", study / "p1" / "SEG" / "rater2.dcm")
    with pytest.raises(
        UsageError, match=r"p1 has 2 DICOM SEG objects: p1/SEG/1-1\.dcm, p1/SEG/rater2\.dcm(.|\n)*a CSV"
    ):
        recognise(study)
    (study / "list.csv").write_text("image,label,subject\np1/CT,p1/SEG/rater2.dcm,p1\n")
    (scan,) = check.examine(recognise(study).index).index.scans
    assert (scan.label, scan.label_values) == ("p1/SEG/rater2.dcm", (0, 1, 2))


def test_overlapping_segments_are_a_fault_of_the_label(study: Path) -> None:
    segs.by_others(study / "p1" / "SEG" / "1-1.dcm", study / "p1" / "CT", masks(2, 2), ["Liver", "Tumour"])
    faults = check.examine(recognise(study).index).faults
    assert [(fault.scan, fault.is_error) for fault in faults if "overlap: Liver and Tumour" in fault.seen] == [
        ("p1", True)
    ]
