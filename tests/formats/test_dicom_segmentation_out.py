"""DICOM SEG objects that Lemis writes: where they lie by other readers, what they say, and what DICOM makes hard."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import segs
from folders_made import SHARED
from lemis.errors import DataFault, UsageError
from lemis.formats import labels, volume
from lemis.formats.dicom import codes, segmentation_out
from lemis.formats.grids import LPS_TO_RAS

hd = pytest.importorskip("highdicom", reason="pip install -e '.[dicom]' -c constraints.txt")
HEADERS = SHARED / "headers"
NAMES = ("liver", "left kidney", "Geröll")
OBLIQUE = segs.rotation(20, -35, 15)
DOWNWARDS = np.diag([1.0, -1.0, -1.0])  # the normal of its slices runs to the feet


def expect_as_others_read_it(file: Path, array: np.ndarray, series: Path, kind: str) -> None:
    """Where highdicom finds values is where a label map in canonical order has them, on the grid of SimpleITK."""
    image = segs.seen_by_simpleitk(series)
    affine = np.linalg.inv(LPS_TO_RAS) @ volume.read_header(series).canonical_affine
    expected = segs.marked_voxels(array, affine, image)
    values = {number: one.value for number, one in enumerate(_there(array), start=1)}
    if len({tuple(_position(own)) for own in _frames(file)}) > 1:  # highdicom makes no volume of a single slice
        found = hd.seg.segread(file).get_volume(combine_segments=True)
        there = segs.marked_voxels(found.array, found.affine, image)
        assert {voxel: values[number] for voxel, number in there.items()} == expected
    frame = pydicom.dcmread(file)
    if kind == "BINARY" and frame.Rows * frame.Columns % 8 == 0:  # else GDCM cuts frames off inside a byte
        # SimpleITK reads a stack of frames; where these lie, it does not know.
        stack = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        frames = {}
        for plane, own in zip(stack, _frames(file), strict=True):
            _, _, place = image.TransformPhysicalPointToIndex(_position(own))
            value = values[_segment_of(file, own)]
            frames |= {(x, y, place): value for y, x in np.argwhere(plane).tolist()}
        assert frames == expected


def _there(array: np.ndarray) -> list[segmentation_out.Segment]:
    found = segs.segments(*(f"s{n}" for n in range(1, int(array.max()) + 1)))
    return [one for one in found if one.value in array]


def _frames(file: Path) -> list[Any]:
    return list(pydicom.dcmread(file).PerFrameFunctionalGroupsSequence)


def _position(own: Any) -> list[float]:
    return [float(x) for x in own.PlanePositionSequence[0].ImagePositionPatient]


def _segment_of(file: Path, own: Any) -> int:
    shared = pydicom.dcmread(file).SharedFunctionalGroupsSequence[0]
    said = own if "SegmentIdentificationSequence" in own else shared
    return int(said.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def expect_back(file: Path, array: np.ndarray, series: Path, structures: Any) -> None:
    """Our own reader gives the label map back, on the grid of the scan and with its values."""
    header = volume.read_header(series)
    known = {one.name: one.value for one in structures}
    read = labels.read(file, header.axes, header, known)
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_allclose(read.affine, header.canonical_affine, atol=1e-3)


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("turn", [segs.AXIAL, OBLIQUE, DOWNWARDS], ids=["axial", "oblique", "downwards"])
def test_it_lies_where_others_see_the_scan(tmp_path: Path, turn: np.ndarray, reverse: bool, kind: str) -> None:
    series = segs.write_series(tmp_path / "ct", turn=turn, reverse=reverse)
    array = segs.label_map(volume.read_header(series).canonical_shape, 3)
    structures = segs.segments(*NAMES)
    file = segs.write(array, series, structures, tmp_path / "seg.dcm", kind)
    expect_as_others_read_it(file, array, series, kind)
    expect_back(file, array, series, structures)


@pytest.mark.slow
@given(
    degrees=st.tuples(*(st.floats(-180, 180) for _ in range(3))),
    shape=st.tuples(st.integers(3, 8), st.integers(3, 6), st.integers(2, 5)),
    seed=st.integers(0, 1000),
    reverse=st.booleans(),
    kind=st.sampled_from(segmentation_out.KINDS),
)
@settings(max_examples=12, phases=(Phase.generate,))  # to shrink an example takes minutes
def test_it_lies_where_others_see_the_scan_however_that_is_turned(
    degrees: tuple[float, ...], shape: tuple[int, int, int], seed: int, reverse: bool, kind: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        series = segs.write_series(Path(folder) / "mr", shape, segs.rotation(*degrees), reverse=reverse)
        array = segs.label_map(volume.read_header(series).canonical_shape, 3, seed)
        array[0, 0, 0] = 2
        structures = segs.segments(*NAMES)
        file = segs.write(array, series, structures, Path(folder) / "seg.dcm", kind)
        expect_back(file, array, series, structures)
        expect_as_others_read_it(file, array, series, kind)


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
def test_a_tilted_gantry_stays_a_shear(tmp_path: Path, kind: str) -> None:
    series = segs.write_series(tmp_path / "ct", shift_mm=(0, 0.8, 0))
    array = segs.label_map(volume.read_header(series).canonical_shape, 3)
    file = segs.write(array, series, segs.segments(*NAMES), tmp_path / "seg.dcm", kind)
    expect_back(file, array, series, segs.segments(*NAMES))


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
@pytest.mark.parametrize("name", ["ct_dicom", "dcm_23x38x3"])
def test_real_series(tmp_path: Path, name: str, kind: str) -> None:
    if not (HEADERS / name).is_dir():
        pytest.skip("real scans are not here")
    series = tmp_path / "series"
    series.mkdir()
    for file in sorted((HEADERS / name).iterdir()):
        one = pydicom.dcmread(file)
        if not one.StudyInstanceUID:  # who removed names from it removed these as well
            one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID
            one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.9", "1.2.3"
        one.save_as(series / f"{file.stem}.dcm")
    array = np.zeros(volume.read_header(series).canonical_shape, np.uint8)
    x, y, z = array.shape
    array[x // 4 : x // 4 + 9, y // 3 : y // 2, : z // 2 + 1] = 1
    array[x // 2 : x // 2 + 7, 2:9, z // 2 :] = 3
    file = segs.write(array, series, segs.segments(*NAMES), tmp_path / "seg.dcm", kind)
    expect_as_others_read_it(file, array, series, kind)
    expect_back(file, array, series, segs.segments(*NAMES))


def test_a_real_series_without_its_uids_is_refused(tmp_path: Path) -> None:
    if not (HEADERS / "ct_dicom").is_dir():
        pytest.skip("real scans are not here")
    header = volume.read_header(HEADERS / "ct_dicom")
    with pytest.raises(DataFault, match=r"does not state SOPClassUID(.|\n)*export the series again"):
        segs.write(
            np.ones(header.canonical_shape, np.uint8), HEADERS / "ct_dicom", segs.segments("liver"), tmp_path / "s"
        )
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- what it says


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return segs.write_series(tmp_path / "ct")


@pytest.fixture
def array(series: Path) -> np.ndarray:
    return segs.label_map(volume.read_header(series).canonical_shape, 3)


def written(array: np.ndarray, series: Path, *names: str, kind: str = "BINARY") -> Any:
    return pydicom.dcmread(segs.write(array, series, segs.segments(*names), series.parent / "seg.dcm", kind))


def test_it_is_of_the_patient_study_and_files_of_its_source(series: Path, array: np.ndarray) -> None:
    made, source = written(array, series, *NAMES), pydicom.dcmread(series / "0000.dcm")
    of_patient = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
    for name in (*of_patient, "StudyInstanceUID", "StudyDate", "StudyID", "AccessionNumber", "FrameOfReferenceUID"):
        assert made[name].value == source[name].value, name
    (referenced,) = made.ReferencedSeriesSequence
    files = {str(one.ReferencedSOPInstanceUID) for one in referenced.ReferencedInstanceSequence}
    assert referenced.SeriesInstanceUID == "1.2.3"
    assert files == {f"1.2.3.{number}" for number in range(1, 7)}
    for own in made.PerFrameFunctionalGroupsSequence:
        (derived,) = own.DerivationImageSequence[0].SourceImageSequence
        number = int(derived.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1
        assert own.PlanePositionSequence[0].ImagePositionPatient[2] == pytest.approx(40 + 3 * number)
    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 3
    assert (made.Modality, made.SeriesNumber, made.SegmentsOverlap) == ("SEG", 401, "NO")


def test_it_says_what_made_it_and_that_it_is_no_diagnosis(series: Path, array: np.ndarray) -> None:
    made = written(array, series, *NAMES)
    assert (made.SeriesDescription, made.ContentLabel) == ("Lemis pcl-m4-all: liver, left kidney, Geröll", "LEMIS")
    assert made.ContentDescription == "Not for diagnosis. By pcl-m4-all"
    assert (made.ContentDate, made.ContentTime) == ("20260304", "050607")
    for one in made.SegmentSequence:
        (algorithm,) = one.SegmentationAlgorithmIdentificationSequence
        assert (one.SegmentAlgorithmType, algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
            "AUTOMATIC", "Lemis", "0.1.0",
        )  # fmt: skip
        assert algorithm.AlgorithmParameters == f"runs=pcl-m4-all,weights={segs.MAKER.digest}"


def test_structures_are_coded_and_coloured(series: Path, array: np.ndarray) -> None:
    liver, kidney, other = written(array, series, *NAMES).SegmentSequence
    kinds = [one.SegmentedPropertyTypeCodeSequence[0] for one in (liver, kidney, other)]
    assert [(one.CodingSchemeDesignator, one.CodeValue) for one in kinds] == [
        ("SCT", "10200004"), ("SCT", "64033007"), ("SCT", "85756007"),
    ]  # fmt: skip
    (side,) = kinds[1].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert [one.SegmentLabel for one in (liver, kidney, other)] == list(NAMES)
    assert hd.color.CIELabColor.from_dicom_value(liver.RecommendedDisplayCIELabValue).to_rgb() == pytest.approx(
        (0xE6, 0x9F, 0x00), abs=1
    )


def test_the_same_again_is_the_same_object_and_another_map_another_one(series: Path, array: np.ndarray) -> None:
    file = segs.write(array, series, segs.segments(*NAMES), series.parent / "one.dcm")
    again = segs.write(array, series, segs.segments(*NAMES), series.parent / "two.dcm")
    assert file.read_bytes() == again.read_bytes()
    first = pydicom.dcmread(file)
    array[2, 2, 2] = 3 - array[2, 2, 2]
    other = written(array, series, *NAMES)
    assert other.SeriesInstanceUID == first.SeriesInstanceUID
    assert other.SOPInstanceUID != first.SOPInstanceUID
    maker = dataclasses.replace(segs.MAKER, digest="other weights")
    volume.write_dicom_segmentation(
        array, volume.read_header(series), segs.segments(*NAMES), maker, "BINARY", series.parent / "three.dcm"
    )
    assert pydicom.dcmread(series.parent / "three.dcm").SeriesInstanceUID != first.SeriesInstanceUID


def test_dciodvfy_finds_no_error(series: Path, array: np.ndarray) -> None:
    import subprocess

    if shutil.which("dciodvfy") is None:
        pytest.skip("apt install dicom3tools")
    file = segs.write(array, series, segs.segments(*NAMES), series.parent / "seg.dcm")
    said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False).stderr
    assert "Segmentation" in said
    assert "Error" not in said, said


# ------------------------------------------------------------------------------------------ what DICOM makes hard


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
def test_structures_that_mark_nothing_are_left_out_and_named(series: Path, array: np.ndarray, kind: str) -> None:
    array[array == 2] = 0
    made = written(array, series, *NAMES, kind=kind)
    assert [one.SegmentLabel for one in made.SegmentSequence if one.SegmentNumber] == ["liver", "Geröll"]
    assert made.SeriesDescription == "Lemis pcl-m4-all: liver, Geröll; not found: left kidney"
    expect_back(series.parent / "seg.dcm", array, series, segs.segments(*NAMES))


def test_where_nothing_is_marked_there_is_no_object_and_none_is_left_from_before(
    series: Path, array: np.ndarray
) -> None:
    file = segs.write(array, series, segs.segments(*NAMES), series.parent / "seg.dcm")
    array[:] = 0
    assert segs.write(array, series, segs.segments(*NAMES), file) == file
    assert not file.exists()


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
def test_one_marked_slice_lies_where_it_is(series: Path, array: np.ndarray, kind: str) -> None:
    array[:, :, :2], array[:, :, 3:] = 0, 0
    file = segs.write(array, series, segs.segments(*NAMES), series.parent / "seg.dcm", kind)
    expect_back(file, array, series, segs.segments(*NAMES))


@pytest.mark.parametrize("kind", segmentation_out.KINDS)
def test_marked_slices_with_empty_ones_between_do_not_close_up(series: Path, array: np.ndarray, kind: str) -> None:
    array[:] = 0
    array[2:4, 2:4, [1, 4]] = 1
    file = segs.write(array, series, segs.segments(*NAMES), series.parent / "seg.dcm", kind)
    expect_back(file, array, series, segs.segments(*NAMES))


def test_a_scan_of_one_slice(tmp_path: Path) -> None:
    series = segs.write_series(tmp_path / "mr", (8, 5, 1))
    array = segs.label_map(volume.read_header(series).canonical_shape, 3)
    file = segs.write(array, series, segs.segments(*NAMES), tmp_path / "seg.dcm")
    expect_back(file, array, series, segs.segments(*NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("kind", segmentation_out.KINDS)
def test_more_structures_than_a_byte_counts(tmp_path: Path, kind: str) -> None:
    series = segs.write_series(tmp_path / "ct", (20, 16, 2))
    array = np.arange(640, dtype=np.uint16).reshape(volume.read_header(series).canonical_shape) % 301
    structures = segs.segments(*(f"part {n}" for n in range(1, 301)))
    file = segs.write(array, series, structures, tmp_path / "seg.dcm", kind)
    expect_back(file, array, series, structures)


def test_names_are_made_to_fit_and_stay_apart(series: Path, array: np.ndarray) -> None:
    names = ("a" * 80, "a" * 79 + "b", "left\\right\nhalf")
    made = written(array, series, *names)
    one, two, three = (item.SegmentLabel for item in made.SegmentSequence)
    assert one != two
    assert max(map(len, (one, two, three, made.SeriesDescription))) <= 64
    assert three == "left/right half"


def test_a_patient_in_another_alphabet_and_tags_that_were_removed(tmp_path: Path, array: np.ndarray) -> None:
    series = segs.write_series(
        tmp_path / "other", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", PatientSex="unknown",
        PatientBirthDate=None, StudyTime=None, ReferringPhysicianName=None, PatientID=None, SliceThickness=None,
    )  # fmt: skip
    made = written(array, series, *NAMES)
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert str(made.PatientName) == "Müller^Jörg"
    assert made.SegmentSequence[2].SegmentLabel == "Geröll"
    assert (made.PatientSex, made.PatientID, made.StudyTime, made.PatientBirthDate) == ("", "", "", "")
    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 3


@pytest.mark.parametrize("tag", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_without_what_an_object_refers_to_is_refused(tmp_path: Path, array: np.ndarray, tag: str) -> None:
    series = segs.write_series(tmp_path / "ct", **{tag: None})
    with pytest.raises(DataFault, match=f"does not state {tag}"):
        written(array, series, *NAMES)
    assert not (tmp_path / "seg.dcm").exists()


def test_an_x_ray_that_lies_nowhere_is_refused(tmp_path: Path) -> None:
    series = segs.write_series(
        tmp_path / "dx", (8, 5, 1), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", ImageOrientationPatient=None
    )
    with pytest.raises(DataFault, match="does not state where it lies in the body"):
        written(np.ones((8, 5, 1), np.uint8), series / "0000.dcm", "lung")


def test_values_without_a_name_are_refused(series: Path, array: np.ndarray) -> None:
    with pytest.raises(UsageError, match="the value 3, of which no name is known"):
        written(array, series, *NAMES[:2])
    assert not (series.parent / "seg.dcm").exists()


def test_what_highdicom_does_not_know_is_refused_in_words(tmp_path: Path, array: np.ndarray) -> None:
    series = segs.write_series(tmp_path / "ct", PatientID=None, SOPClassUID=segs.dicoms.CT)
    for file in series.iterdir():
        one = pydicom.dcmread(file)
        one.SOPClassUID = "1.2.3.4"
        one.save_as(file)
    with pytest.raises(DataFault, match="no DICOM SEG can be made of its series"):
        written(array, series, *NAMES)


# --------------------------------------------------------------------------------------------------------- codes


def test_every_name_of_the_table_is_known_to_pydicom_or_listed() -> None:
    known = codes._known()
    assert {term.type.value for term in known.values()} >= {"10200004", "87878005", "5366008", "39607008", "108369006"}
    assert all(len(term.type.meaning) <= 64 and term.type.scheme == "SCT" for term in known.values())


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("LV", "Left ventricle", None), ("right_ventricle", "Right ventricle", None), ("MYO", "Myocardium", None),
        ("Lung-Right", "Lung", "Right"), ("tumour", "Neoplasm", None), ("hippocampus left", "Hippocampus", "Left"),
        ("Gall_Bladder", "Gallbladder", None),
    ],
)  # fmt: skip
def test_common_names_are_coded(name: str, meaning: str, side: str | None) -> None:
    found = codes.term(name, {})
    assert found is not None
    assert found.type.meaning == meaning
    assert (found.modifier and found.modifier.meaning) == side


@pytest.mark.parametrize("name", ["Geröll", "left", "left liver", "left right lung", "liver lesion 3", ""])
def test_other_names_are_not_guessed(name: str) -> None:
    assert codes.term(name, {}) is None


def test_a_table_of_ones_own_says_more_and_otherwise(tmp_path: Path) -> None:
    table = tmp_path / "codes.csv"
    table.write_text(
        "name,category,type,modifier,colour\n"
        "Geröll,SCT^260787004^Physical object,99LAB^G1^Rubble,,#00FF00\n"
        "LV,,SCT^66720007^Lateral ventricle,SCT^7771000^Left,\n",
        encoding="utf-8",
    )
    own = codes.read(table)
    rubble, ventricle = codes.term("geröll", own), codes.term("lv", own)
    assert rubble == codes.Term(
        codes.Code("SCT", "260787004", "Physical object"), codes.Code("99LAB", "G1", "Rubble"), None, "#00ff00"
    )
    assert ventricle is not None
    assert (ventricle.category.meaning, ventricle.modifier and ventricle.modifier.meaning) == (
        "Anatomical Structure", "Left",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,code\nliver,1\n", "columns name, code"),
        ("name,type\nliver,10200004\n", r"line 2: the type '10200004'(.|\n)*SCT\^10200004\^Liver"),
        ("name,type\nliver,\n", "liver without a type"),
        ("name,type\nliver,SCT^1^a\nLiver,SCT^1^a\n", "'Liver' again"),
        ("name,type,colour\nliver,SCT^1^a,red\n", "the colour 'red'"),
        ("name,type\nliver,SCT^12345678901234567^a\n", "the type"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "codes.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        codes.read(tmp_path / "codes.csv")
