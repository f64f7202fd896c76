"""Which DICOM files of a folder are scans, and of whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dicoms
from dicoms import notes, stored
from lemis.checking import check
from lemis.datasets.listing import LeftOut
from lemis.datasets.recognition import recognise
from lemis.errors import DataFault
from lemis.formats import paths, volume
from lemis.formats.dicom import folders as dicom

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)


@pytest.mark.parametrize("name", ["i{}.MR", "{}.IMA", "IM{}", "{}", "1.2.840.{}", "image.{:03}", "{}.DCM", "{}.ct"])
def test_slices_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    dicoms.write(tmp_path / "p1" / "s", PIXELS, names=[name.format(z) for z in range(5)])
    dicoms.write(tmp_path / "p2" / "s", PIXELS + 1, names=[name.format(z) for z in range(5)])
    (tmp_path / "p1" / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "p1" / "s" / "notes.log").write_text("08 of the 12 slices are fine" * 9)
    index = recognise(tmp_path).index
    assert {scan.id: scan.images for scan in index.scans} == {"p1": ("p1/s",), "p2": ("p2/s",)}
    np.testing.assert_array_equal(stored(tmp_path / "p1" / "s"), PIXELS)


def test_series_below_study_and_patient(tmp_path: Path) -> None:
    for number, patient in enumerate(("p1", "p2")):
        dicoms.write(tmp_path / patient / "1.2.3" / f"9.8.{number}", PIXELS + number)
        dicoms.write(tmp_path / patient / "1.2.3" / "scout", PIXELS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    listing = recognise(tmp_path)
    assert {scan.id: scan.images for scan in listing.index.scans} == {
        "p1": ("p1/1.2.3/9.8.0",),
        "p2": ("p2/1.2.3/9.8.1",),
    }
    assert listing.left_out == tuple(LeftOut(f"{p}/1.2.3/scout", "a localiser") for p in ("p1", "p2"))


def test_contours_and_segmentations_in_folders_of_their_own_are_left_aside(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        dicoms.write(tmp_path / patient / "study" / "CT", PIXELS)
        contours = dicoms.slice_of(np.ones((2, 2), np.uint16), Rows=None, Columns=None)
        contours.Modality = "RTSTRUCT"
        (tmp_path / patient / "study" / "RT").mkdir()
        contours.save_as(tmp_path / patient / "study" / "RT" / "1.dcm", enforce_file_format=True)
    segments = dicoms.slice_of(np.ones((2, 2), np.uint16))
    segments.Modality = "SEG"
    segments.SOPClassUID = segments.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    (tmp_path / "p2" / "study" / "SEG").mkdir()
    segments.save_as(tmp_path / "p2" / "study" / "SEG" / "1.dcm", enforce_file_format=True)
    listing = recognise(tmp_path)
    assert [scan.images for scan in listing.index.scans] == [("p1/study/CT",), ("p2/study/CT",)]
    assert [(left.file, left.reason[:21]) for left in listing.left_out] == [
        ("p1/study/RT", "DICOM without an imag"),
        ("p2/study/RT", "DICOM without an imag"),
        ("p2/study/SEG/1.dcm", "a DICOM SEG object th"),
    ]


def test_links_that_lead_back_up_and_series_beside_loose_files(tmp_path: Path) -> None:
    dicoms.write(tmp_path / "p1" / "study", PIXELS, names=list("sabcd"), ImageType=["A", "B", "LOCALIZER"])
    dicoms.write(tmp_path / "p1" / "study" / "ct", PIXELS)
    (tmp_path / "p1" / "study" / "up").symlink_to(tmp_path / "p1")
    listing = recognise(tmp_path)
    assert [scan.images for scan in listing.index.scans] == [("p1/study/ct",)]
    assert [left.file for left in listing.left_out] == ["p1/study"]


def test_several_studies_are_scans_of_one_subject(tmp_path: Path) -> None:
    for study in ("2001", "2002"):
        dicoms.write(tmp_path / "p1" / study / "ct", PIXELS, StudyInstanceUID=f"1.2.{study}")
    dicoms.write(tmp_path / "p2" / "2001" / "ct", PIXELS)
    scans = recognise(tmp_path).index.scans
    assert [(scan.id, scan.subject) for scan in scans] == [("p1_2001", "p1"), ("p1_2002", "p1"), ("p2", "p2")]


def test_series_of_a_study_are_channels_by_what_they_call_themselves(tmp_path: Path) -> None:
    for number, patient in enumerate(("p1", "p2")):
        for kind in ("T1", "T2"):
            dicoms.write(tmp_path / patient / f"9.{number}.{kind[1]}", PIXELS, SeriesDescription=kind)
    index = recognise(tmp_path).index
    assert index.channels == ("T1", "T2")
    assert index.scans[1].images == ("p2/9.1.1", "p2/9.1.2")


def test_several_series_in_a_folder_are_named_and_one_can_be_picked(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for number, kind in ((3, "lung"), (4, "soft")):
        names = [f"{kind}{z}" for z in range(5)]
        tags = {"SeriesNumber": number, "SeriesDescription": kind, "SeriesInstanceUID": f"1.2.{number}"}
        dicoms.write(folder, PIXELS + number, names=names, **tags)
    with pytest.raises(DataFault, match=r"2 DICOM series: 5 of lung \(lung0, ...\), CT, series 3; 5 of soft") as error:
        volume.read(folder)
    assert "both#series=3" in error.value.next
    for pick, number in (("4", 4), ("1.2.3", 3)):
        np.testing.assert_array_equal(stored(Path(f"{folder}#series={pick}")), PIXELS + number)
    with pytest.raises(DataFault, match="series 7, which none is, among 2 DICOM series"):
        volume.read(Path(f"{folder}#series=7"))
    (tmp_path / "list.csv").write_text("id,image\na,both#series=4\n")
    index = recognise(tmp_path / "list.csv").index
    assert not check.examine(index, jobs=1).faults
    stamp = paths.stamp(Path(f"{folder}#series=4"))
    (folder / "soft0").write_bytes((folder / "soft0").read_bytes() + b"\0\0")
    assert paths.stamp(Path(f"{folder}#series=4")) != stamp


def test_reports_contours_and_scouts_beside_a_series(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS)
    scout = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "SeriesInstanceUID": "1.5",
        "SeriesDescription": "Topogram",
    }
    dicoms.write(tmp_path, PIXELS[:2, :, :1], names=["scout.dcm"], **scout)
    report = dicoms.slice_of(np.ones((2, 2), np.uint16), SeriesInstanceUID="1.6", Rows=None, Columns=None)
    report.Modality = "RTSTRUCT"
    report.save_as(tmp_path / "contours.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(stored(tmp_path), PIXELS)
    said = notes(tmp_path)["other DICOM objects in the folder"]
    assert "1 of Topogram [a localiser]" in said
    assert "[DICOM without an image (RTSTRUCT)]" in said


def test_x_rays_of_a_flat_folder_are_scans(tmp_path: Path) -> None:
    tags = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    for number in range(3):
        names = [f"x{number}.dcm"]
        dicoms.write(tmp_path, PIXELS[:, :, number : number + 1], names=names, SOPClassUID=dicoms.X_RAY, **tags)
    volume.write_volume(np.zeros((6, 4, 1), np.uint8), np.diag([-1.0, -1, 1, 1]), tmp_path / "x1_seg.nii.gz")
    index = recognise(tmp_path).index
    assert [(scan.id, scan.label) for scan in index.scans] == [("x0", None), ("x1", "x1_seg.nii.gz"), ("x2", None)]
    findings = check.examine(index, jobs=1)
    assert {(fault.severity, fault.kind) for fault in findings.faults if fault.kind != "empty label"} == {
        ("warning", "pixel size unknown")
    }
    assert findings.index.scans[0].shape == (6, 4, 1)
    written = volume.write_labels(
        np.ones((6, 4, 1), int), volume.read_header(tmp_path / "x0.dcm"), tmp_path / "out" / "x0.nii.gz"
    )
    assert volume.read(written).array.shape == (6, 4, 1)


def test_one_damaged_x_ray_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    tags = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    dicoms.write(tmp_path, PIXELS, SOPClassUID=dicoms.X_RAY, names=[f"x{number}.dcm" for number in range(5)], **tags)
    (tmp_path / "x0.dcm").write_bytes(b"no image")
    findings = check.examine(recognise(tmp_path).index, jobs=1)
    assert [(fault.scan, fault.severity) for fault in findings.faults] == [("x0", "error")]
    assert sum(bool(seen.channels) for seen in findings.seen) == 4


def test_a_series_without_positions_is_refused_and_not_torn_into_images(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, ImagePositionPatient=None)
    assert [scan.id for scan in recognise(tmp_path).index.scans] == [tmp_path.name]
    with pytest.raises(DataFault, match="do not state their position"):
        volume.read(tmp_path)
    for file in sorted(tmp_path.iterdir())[1:]:
        file.unlink()
    assert "where it lies" in notes(tmp_path)["place unknown"]


def test_one_file_of_a_series_is_not_taken_for_the_scan(tmp_path: Path) -> None:
    files = dicoms.write(tmp_path, PIXELS)
    with pytest.raises(DataFault, match="is one file of a DICOM series"):
        volume.read(files[1])
    assert dicom.single_images(tmp_path) == []


@pytest.mark.parametrize(
    ("ids", "doubted"),
    [
        (["4711", "4711", "0815"], [("p0", "p1")]),
        (["4711", "0815", "4712"], []),
        (["4711", "4711", "4711"], []),  # put there in place of three
        (["ANON", "ANON", "0815"], []),
        (["", "", "0815"], []),
    ],
)
def test_subjects_whose_files_name_one_patient(ids: list[str], doubted: list[tuple[str, ...]], tmp_path: Path) -> None:
    for number, name in enumerate(ids):
        dicoms.write(tmp_path / f"p{number}", PIXELS, PatientID=name, SeriesInstanceUID=f"1.2.{number}")
    seen = [doubt.seen for doubt in recognise(tmp_path).doubts]
    assert len(seen) == len(doubted)
    for words, group in zip(seen, doubted, strict=True):
        assert words.startswith(f"{', '.join(group)} have one Patient ID")
        assert "4711" not in words
    (tmp_path / "subjects.csv").write_text("id,subject\n" + "".join(f"p{n},s{n}\n" for n in range(3)))
    assert recognise(tmp_path).doubts == ()
