"""DICOM folders as scanners, archives and discs leave them: one scan for each study, or the question which."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dicoms
from dicoms import stored
from lemis.checking import check
from lemis.cli import commands
from lemis.datasets import index as indexing
from lemis.datasets.dicom_series import used
from lemis.datasets.recognition import Listing, recognise
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.verbs import check as verb

RANDOM = np.random.default_rng(0)


def study_of(patient: str) -> str:
    """A UID."""
    return f"1.2.9.{int.from_bytes(patient.encode())}"


def series(folder: Path, number: int, title: str, patient: str, **tags: Any) -> np.ndarray:
    """Write a series whose files are named by nothing that helps, as on a disc."""
    study = tags.pop("study", study_of(patient))
    facts = {
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{number}",
        "SeriesNumber": number,
        "SeriesDescription": title,
    }
    pixels = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)
    names = [f"IM{number:03}{z:03}" for z in range(5)]
    dicoms.write(folder, pixels, names=names, **(facts | tags))
    return pixels


def beside(folder: Path, patient: str) -> None:
    """What lies beside the scan: a scout, a report, contours, a dose, a screenshot."""
    series(folder, 1, "3-plane localizer", patient)
    for number, (modality, tags) in enumerate(
        {
            "SR": {"Rows": None, "Columns": None},
            "PR": {"Rows": None, "Columns": None},
            "RTSTRUCT": {"Rows": None, "Columns": None},
            "RTDOSE": {},
            "SEG": {},
            "OT": {"SOPClassUID": dicoms.CAPTURE, "ImagePositionPatient": None, "ImageOrientationPatient": None},
        }.items(),
        start=90,
    ):
        file = dicoms.slice_of(
            np.ones((3, 3), np.uint16), PatientID=patient, StudyInstanceUID=study_of(patient),
            SeriesInstanceUID=f"1.2.8.{number}", SeriesNumber=number, SeriesDescription=modality, **tags,
        )  # fmt: skip
        file.Modality = modality
        file.save_as(folder / f"OB{number}", enforce_file_format=True)


def drawn(frames: int) -> np.ndarray:
    """(frames, rows, columns)."""
    return RANDOM.integers(10, 2000, (frames, 4, 6)).astype(np.uint16)


def images(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {scan.id: scan.images for scan in listing.index.scans}


def picked(error: UsageError) -> Path:
    """The folder in the command that an error says to type."""
    match = re.search(r"lemis check ('[^']*'|\S+)", error.next)
    assert match
    return Path(shlex.split(match[1])[0])


def test_the_scan_is_found_among_all_that_a_scanner_writes(tmp_path: Path) -> None:
    pixels = {}
    for patient in ("p1", "p2"):
        pixels[patient] = series(tmp_path / patient, 4, "T1 vibe", patient)
        beside(tmp_path / patient, patient)
    listing = recognise(tmp_path)
    assert images(listing) == {"p1": ("p1",), "p2": ("p2",)}
    for patient in ("p1", "p2"):
        np.testing.assert_array_equal(stored(tmp_path / patient), pixels[patient])
        said = dicoms.notes(tmp_path / patient)["other DICOM objects in the folder"]
        for reason in ("localiser", "SR", "PR", "RTSTRUCT", "RTDOSE", "SEG", "secondary capture"):
            assert reason in said


def test_several_series_in_a_subjects_folder_are_listed_and_one_is_picked_for_all(tmp_path: Path) -> None:
    wanted = {}
    for patient in ("p1", "p2"):
        series(tmp_path / patient, 3, "T2 haste", patient)
        wanted[patient] = series(tmp_path / patient, 4, "T1 vibe", patient)
        beside(tmp_path / patient, patient)
    series(tmp_path / "p2", 5, "T1 vibe post", "p2")
    with pytest.raises(UsageError, match=r"T1 vibe \(CT, series 4, 5 images\) in 2 of 2 studies; T2 haste") as error:
        recognise(tmp_path)
    assert picked(error.value) == Path(f"{tmp_path}#series=T1 vibe")
    for name in ("T1 vibe", "t1 VIBE", "T1?vibe", "4"):
        listing = recognise(Path(f"{tmp_path}#series={name}"))
        assert images(listing) == {"p1": ("p1#series=4",), "p2": ("p2#series=4",)}
        assert not check.examine(listing.index, jobs=1).errors
    for patient, pixels in wanted.items():
        np.testing.assert_array_equal(stored(Path(f"{tmp_path / patient}#series=4")), pixels)
    left = {part.file: part.reason for part in listing.left_out}
    assert left["p2#series=5"] == "another series: T1 vibe post (CT, series 5, 5 images)"
    assert left["p1#series=1"] == "a localiser"


def test_a_name_that_means_several_series_or_none_is_refused(tmp_path: Path) -> None:
    for number, title in ((3, "T1 a"), (4, "T1 b")):
        series(tmp_path / "p1", number, title, "p1")
    with pytest.raises(UsageError, match=r"'T1\*' means 2 series of one study(.|\n)*T1 a(.|\n)*T1 b"):
        recognise(Path(f"{tmp_path}#series=T1*"))
    with pytest.raises(UsageError, match=r"no series 'T3' in 1 studies: T1 a(.|\n)*T1 b"):
        recognise(Path(f"{tmp_path}#series=T3"))
    with pytest.raises(UsageError, match=r"no series 't1 B\*c'") as caught:
        recognise(Path(f"{tmp_path}#series=t1 B*c"))
    assert caught.value.next.endswith("#series=T1 a'")
    with pytest.raises(UsageError, match=r"no series '1 B'") as caught:
        recognise(Path(f"{tmp_path}#series=1 B"))
    assert caught.value.next.endswith("#series=T1 b'")  # the one that the words are in


def test_series_named_after_commas_are_channels(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        # Folders count as the scanner did, which is not the same order in every patient.
        for place, (number, title) in enumerate([(3, "T2"), (4, "T1")][:: 1 if patient == "p1" else -1]):
            series(tmp_path / patient / f"SE{place}", number, title, patient)
        series(tmp_path / patient / "SE9", 9, f"odd {patient}", patient)
    with pytest.raises(UsageError, match="several series in a study, of 2 studies"):
        recognise(tmp_path)
    listing = recognise(Path(f"{tmp_path}#series=T2,T1"))
    assert listing.index.channels == ("T2", "T1")
    assert images(listing) == {
        "p1": ("p1/SE0#series=3", "p1/SE1#series=4"),
        "p2": ("p2/SE1#series=3", "p2/SE0#series=4"),
    }
    assert not check.examine(listing.index, jobs=1).errors


def test_folders_that_count_do_not_name_channels(tmp_path: Path) -> None:
    for patient, order in (("p1", ("T1", "T2")), ("p2", ("T2", "T1"))):
        for place, title in enumerate(order):
            series(tmp_path / patient / f"SE{place:06}", place, title, patient)
    listing = recognise(tmp_path)
    assert listing.index.channels == ("T1", "T2")
    assert images(listing)["p2"] == ("p2/SE000001", "p2/SE000000")


def test_a_disc_with_several_patients(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    for number, (patient, day) in enumerate(
        (("0815", "a"), ("0815", "b"), ("4711", "c"), ("ANON", "d"), ("ANON", "e"))
    ):
        folder = tmp_path / "DICOM" / f"PA{number:06}" / "ST000000" / "SE000000"
        series(folder, 2, "axial", patient, study=f"1.2.{ord(day)}")
        series(folder.with_name("SE000001"), 1, "Topogram", patient, study=f"1.2.{ord(day)}")
    listing = recognise(tmp_path)
    assert listing.index.layout == "dicom"
    subjects = {scan.id: scan.subject for scan in listing.index.scans}
    names = [f"PA{number:06}_ST000000_SE000000" for number in range(5)]
    assert set(subjects) == {name.removesuffix("_SE000000") for name in names}
    of = [subjects[name] for name in sorted(subjects)]
    assert of[0] == of[1]  # one patient
    assert len(set(of)) == 4
    assert "0815" not in "".join(of)
    assert {part.reason for part in listing.left_out} == {"a localiser"}


def test_a_folder_of_mixed_files_of_several_patients(tmp_path: Path) -> None:
    pixels = [series(tmp_path, 10 * place, "axial", patient) for place, patient in enumerate(("0815", "4711"), start=1)]
    listing = recognise(tmp_path)
    assert listing.index.layout == "dicom"
    assert len({scan.subject for scan in listing.index.scans}) == 2
    assert {scan.images for scan in listing.index.scans} == {(".#series=10",), (".#series=20",)}
    read = [stored(tmp_path / scan.images[0]) for scan in listing.index.scans]
    assert all(any(np.array_equal(one, some) for some in read) for one in pixels)
    ids = [scan.id for scan in listing.index.scans]
    (tmp_path / "labels").mkdir()
    header = volume.read_header(Path(f"{tmp_path}#series=10"))
    volume.write_labels(np.ones(header.canonical_shape, int), header, tmp_path / "labels" / f"{ids[0]}.nii.gz")
    assert sum(scan.label is not None for scan in recognise(tmp_path).index.scans) == 1


def test_patients_whose_uids_were_all_made_equal_are_not_mixed(tmp_path: Path) -> None:
    for place, patient in enumerate(("0815", "4711"), start=1):
        folder = tmp_path / "both"
        pixels = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)
        facts = {"PatientID": patient, "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SeriesNumber": None}
        above = [{"ImagePositionPatient": [-10, -20, 5 + 10 * place + 2 * z]} for z in range(5)]
        dicoms.write(folder, pixels, names=[f"{patient}{z}" for z in range(5)], each=above.__getitem__, **facts)
    with pytest.raises(DataFault, match=r"2 DICOM series(.|\n)*cannot be told apart"):
        volume.read_header(tmp_path / "both")


def test_enhanced_files_of_a_study_are_its_series(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for number, title in ((1, "survey"), (2, "T1"), (3, "T2")):
            facts = {
                "PatientID": patient, "SeriesInstanceUID": f"1.2.{number}", "SeriesNumber": number,
                "SeriesDescription": title,
            }  # fmt: skip
            dicoms.write_enhanced(tmp_path / patient / f"IM{number}", drawn(5), **facts)
    listing = recognise(tmp_path)
    assert listing.index.channels == ("T1", "T2")
    assert images(listing)["p1"] == ("p1/IM2", "p1/IM3")
    listing = recognise(Path(f"{tmp_path}#series=T2"))
    assert images(listing)["p1"] == ("p1#series=3",)
    assert not check.examine(listing.index, jobs=1).errors


def test_phases_are_picked_for_all_subjects(tmp_path: Path) -> None:
    frames = {patient: drawn(6) for patient in ("p1", "p2")}
    for patient in frames:
        dicoms.write_enhanced(
            tmp_path / patient / "IM1",
            frames[patient],
            each=lambda n: {"ImagePositionPatient": [0, 0, 3 * (n // 2)], "TemporalPositionIndex": 1 + n % 2},
            SeriesDescription="cine",
        )
    findings = check.examine(recognise(tmp_path).index, jobs=1)
    (seen,) = {fault.seen for fault in findings.faults if fault.is_error}
    assert seen.startswith("cine holds 2 stacks of slices: 1: TemporalPositionIdentifier=1 (3 slices); 2: ")
    for pick in ("cine:TemporalPositionIdentifier=2", "c*:2", "1:2"):
        listing = recognise(Path(f"{tmp_path}#series={pick}"))
        findings = check.examine(listing.index, jobs=1)
        assert not findings.errors
        for scan in listing.index.scans:
            read = stored(tmp_path / scan.images[0])
            np.testing.assert_array_equal(read, frames[scan.id][1::2].transpose(2, 1, 0))


def test_a_scout_that_lies_first_in_a_folder_does_not_hide_the_scan(tmp_path: Path) -> None:
    series(tmp_path / "p1" / "a", 1, "scout", "p1")
    series(tmp_path / "p1" / "a", 4, "T1", "p1")
    series(tmp_path / "p1" / "b", 5, "T2", "p1")
    listing = recognise(tmp_path)
    assert listing.index.channels == ("T1", "T2")
    assert images(listing) == {"p1": ("p1/a", "p1/b")}
    assert not check.examine(listing.index, jobs=1).errors


def test_a_subject_of_several_patients_is_doubted(tmp_path: Path) -> None:
    for number, patient in enumerate(("0815", "815", "4711")):
        series(tmp_path / "p1" / f"visit{number}" / "ct", 2, "CT", patient, study=f"1.2.{number}")
    series(tmp_path / "p2" / "visit1" / "ct", 2, "CT", "00815", study="1.2.7")
    doubts = {doubt.kind: doubt for doubt in recognise(tmp_path).doubts}
    assert doubts["subject of several patients"].file == "p1"
    assert "name 2 patients" in doubts["subject of several patients"].seen
    assert doubts["subjects that may be one person"].seen.startswith("p1, p2 have one Patient ID")


def test_one_file_and_its_stack_can_be_named(tmp_path: Path) -> None:
    frames = drawn(4)
    file = dicoms.write_enhanced(
        tmp_path / "IM1", frames, each=lambda n: {"ImagePositionPatient": [0, 0, n // 2], "EffectiveEchoTime": n % 2}
    )
    with pytest.raises(DataFault, match="2 stacks of slices") as error:
        volume.read(file)
    given = picked(error.value)
    assert given == Path(f"{file}#series=1:EchoTime=0")
    (scan,) = recognise(given).index.scans
    assert (scan.id, scan.images) == ("IM1", ("IM1#series=1:EchoTime=0",))
    np.testing.assert_array_equal(stored(given), frames[::2].transpose(2, 1, 0))


def test_a_series_named_where_there_is_none_is_refused(tmp_path: Path) -> None:
    volume.write_volume(np.zeros((3, 3, 3)), np.eye(4), tmp_path / "a.nii.gz")
    with pytest.raises(UsageError):
        recognise(Path(f"{tmp_path}#series=T1"))


def test_a_label_beside_the_series_that_is_named(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        series(tmp_path / patient / "study" / "A", 3, "T2", patient)
        series(tmp_path / patient / "study" / "B", 4, "T1", patient)
        series(tmp_path / patient / "study" / "C", 4 + int(patient[1]), f"odd {patient}", patient)
    header = volume.read_header(tmp_path / "p1" / "study" / "B")
    volume.write_labels(np.ones(header.canonical_shape, int), header, tmp_path / "p1" / "p1_seg.nii.gz")
    index = scan_folder(Path(f"{tmp_path}#series=T1"), jobs=1)
    assert [(scan.id, scan.label) for scan in index.scans] == [("p1", "p1/p1_seg.nii.gz"), ("p2", None)]
    assert index.scans[0].label_values == (1,)
    assert [(one.subject, one.series, one.modality, one.slices) for one in used(index)] == [
        ("p1", "T1", "CT", 5),
        ("p2", "T1", "CT", 5),
    ]


def test_a_series_that_lies_in_two_folders_is_no_pair_of_channels(tmp_path: Path) -> None:
    for place in ("old SE1", "new SE2"):  # which could be names of channels
        series(tmp_path / "p1" / place, 3, "T1", "p1")
    for given in (tmp_path, Path(f"{tmp_path}#series=T1")):
        with pytest.raises(
            UsageError, match=r"one series, T1 \(CT, series 3, 5 images\), lie in 2 folders: .*SE2, .*SE1"
        ):
            recognise(given)


def test_one_folder_for_each_slice(tmp_path: Path) -> None:
    files = dicoms.write(tmp_path / "p1", RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16))
    for number, file in enumerate(files):
        (tmp_path / "p1" / f"{number}").mkdir()
        file.rename(tmp_path / "p1" / f"{number}" / "IM1")
    with pytest.raises(UsageError, match=r"lie in 5 folders(.|\n)*put its files into one folder"):
        recognise(tmp_path)


def test_check_prints_the_series_and_how_to_pick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "p1", 4, "T1", "p1")
    beside(tmp_path / "p1", "p1")
    report = verb.check(Path(f"{tmp_path}#series=T1"), output=tmp_path.parent / "work", jobs=1)
    assert not report.errors
    assert re.search(r"p1 +T1 \(p1#series=4\) +CT +5 +0.5 x 0.75 x 2", capsys.readouterr().out)
    assert [scan.images for scan in indexing.load(tmp_path.parent / "work" / "index.json").scans] == [("p1#series=4",)]


def test_commands_take_a_part_of_a_folder_for_a_path_and_not_for_a_setting(tmp_path: Path) -> None:
    series(tmp_path / "p1", 4, "T1", "p1")
    mask = str(tmp_path / "mask.nii.gz")
    said = CliRunner().invoke(commands.app, ["segment-one", f"{tmp_path / 'p1'}#series=9", "-o", mask])
    assert "series 9, which none is, among 1 DICOM series" in " ".join(str(said.exception).split())
    said = CliRunner().invoke(commands.app, ["fit", f"{tmp_path}#series=T9", "-o", str(tmp_path.parent / "out")])
    assert "no series 'T9' in 1 studies: T1 (CT, series 4, 5 images)" in " ".join(str(said.exception).split())


def test_channels_that_do_not_fit_are_refused_with_the_way_to_one_series(tmp_path: Path) -> None:
    series(tmp_path / "p1" / "a", 3, "T1", "p1")
    series(tmp_path / "p1" / "b", 4, "T2", "p1", PixelSpacing=[1, 1])
    (fault,) = check.examine(recognise(tmp_path).index, jobs=1).faults
    assert (fault.severity, fault.kind) == ("error", "channel in a different place")
    assert "take one series as the scan: give the folder as 'FOLDER#series=DESCRIPTION'" in fault.repair
    assert not check.examine(recognise(Path(f"{tmp_path}#series=T2")).index, jobs=1).errors
