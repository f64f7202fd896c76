"""DICOM as scanners and archives write it: read as it is meant, or refused naming the file and the value."""

from __future__ import annotations

import resource
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

import dicoms
from lemis.checking import check
from lemis.datasets.listing import LeftOut
from lemis.datasets.recognition import recognise
from lemis.errors import DataFault
from lemis.formats import paths, volume
from lemis.formats.dicom import folders as dicom

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)


def stored(folder: Path) -> np.ndarray:
    """Values in the order of the files: columns, rows, slices."""
    scan = volume.read(folder)
    return scan.array[::-1, ::-1] if scan.array.ndim == 3 else scan.array[::-1, ::-1, :, :]


def notes(path: Path) -> dict[str, str]:
    return {note.kind: note.seen for note in volume.read(path).source.notes}


# ---------------------------------------------------------------- values


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    slopes = [1.0, 0.02, 0.5, 0.001, 0.1]
    dicoms.write(
        tmp_path, PIXELS, each=lambda z: {"RescaleSlope": slopes[z], "RescaleIntercept": 0}, SOPClassUID=dicoms.PET
    )
    assert stored(tmp_path).dtype == np.float64
    np.testing.assert_array_equal(stored(tmp_path), PIXELS * np.array(slopes))


@settings(deadline=None, max_examples=40)  # files are written: how long that takes is the disk's matter
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(-3000, 3000), st.booleans()), min_size=5, max_size=5))
def test_mixed_slopes_intercepts_and_signs(tmp_path_factory, facts) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    signed = [np.int16 if sign else np.uint16 for _, _, sign in facts]
    for z, (slope, intercept, _) in enumerate(facts):
        tags = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        plane = (PIXELS[:, :, z].astype(int) - 1000 * (signed[z] is np.int16)).astype(signed[z])
        dicoms.slice_of(plane.T, z, **tags).save_as(folder / f"{z}.dcm", enforce_file_format=True)
    expected = np.stack(
        [
            slope * (PIXELS[:, :, z].astype(int) - 1000 * sign) + intercept
            for z, (slope, intercept, sign) in enumerate(facts)
        ],
        axis=2,
    )
    assert stored(folder).dtype.kind in "iu"
    np.testing.assert_array_equal(stored(folder), expected)


def test_signs_that_change_within_a_series(tmp_path: Path) -> None:
    plane = np.full((4, 6), -90, np.int16)
    dicoms.slice_of(np.full((4, 6), 268, np.uint16), 0).save_as(tmp_path / "0.dcm", enforce_file_format=True)
    dicoms.slice_of(plane, 1).save_as(tmp_path / "1.dcm", enforce_file_format=True)
    assert stored(tmp_path)[0, 0].tolist() == [268, -90]


def test_the_slope_of_an_mr_series_counts(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, SOPClassUID=dicoms.MR, each=lambda z: {"RescaleSlope": z + 1, "RescaleIntercept": 7})
    np.testing.assert_array_equal(stored(tmp_path), PIXELS * np.arange(1, 6) + 7)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_beside_the_value_are_no_part_of_it(tmp_path: Path, signed: bool) -> None:
    values = RANDOM.integers(-2048, 2048, (6, 4, 3)) if signed else RANDOM.integers(0, 4096, (6, 4, 3))
    overlay = RANDOM.integers(0, 16, values.shape) << 12
    cells = ((values & 0xFFF) | overlay).astype(np.uint16)
    dicoms.write(tmp_path, cells, BitsStored=12, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(stored(tmp_path), values)


def test_a_high_bit_at_the_top(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 4096, (6, 4, 3)).astype(np.uint16)
    dicoms.write(tmp_path, values << 4 | 5, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(stored(tmp_path), values)


@pytest.mark.parametrize(
    ("low", "high", "cells", "signed"),
    [(30000, None, [30000], False), (63536, None, [63536], True), (0, 5, [0, 3, 5], False), (5, 0, [0, 5], False)],
)
def test_padding_is_no_intensity(tmp_path: Path, low: int, high: int | None, cells: list[int], signed: bool) -> None:
    pixels = PIXELS.copy()
    pixels.reshape(-1)[: len(cells)] = cells
    pixels[:, :, 4] = cells[0]
    dicoms.write(tmp_path, pixels, RescaleSlope=1, RescaleIntercept=-1024, PixelRepresentation=int(signed))
    for file in tmp_path.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelPaddingValue", "US", low)
        if high is not None:
            dataset.add_new("PixelPaddingRangeLimit", "US", high)
        dataset.save_as(file)
    padded = np.isin(pixels, cells)
    smallest = int(pixels[~padded].min()) - 1024
    np.testing.assert_array_equal(stored(tmp_path), np.where(padded, smallest, pixels.astype(int) - 1024))
    assert f"{padded.sum()} of {pixels.size} voxels" in notes(tmp_path)["padding"]
    assert f"set to {smallest}" in notes(tmp_path)["padding"]


def test_padding_in_bits_that_are_not_stored(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[0, 0, 0] = 0xF830  # -2000 as a whole word of 16 bits, though 12 are stored
    dicoms.write(tmp_path, pixels, BitsStored=12, PixelRepresentation=0)
    for file in tmp_path.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelPaddingValue", "US", 0xF830)
        dataset.save_as(file)
    assert stored(tmp_path)[0, 0, 0] == PIXELS.reshape(-1)[1:].min()


def test_a_scan_of_padding_only_stays_what_it_is(tmp_path: Path) -> None:
    dicoms.write(tmp_path, np.full((6, 4, 2), 9, np.uint16), PixelPaddingValue=9)
    assert set(stored(tmp_path).flat) == {9}
    assert not notes(tmp_path)


def test_what_is_bright_is_large(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}
    dicoms.write(tmp_path / "x-ray", PIXELS[:, :, :1], SOPClassUID=dicoms.X_RAY, **tags)
    np.testing.assert_array_equal(stored(tmp_path / "x-ray"), 4095 - PIXELS[:, :, :1].astype(int))
    assert "turned over" in notes(tmp_path / "x-ray")["bright is small"]
    dicoms.write(tmp_path / "ct", PIXELS, **tags)  # Hounsfield units stay what they are
    np.testing.assert_array_equal(stored(tmp_path / "ct"), PIXELS)
    assert "values are kept" in notes(tmp_path / "ct")["bright is small"]


def test_colours_are_channels(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 255, (4, 6, 3)).astype(np.uint8)
    for z in range(2):
        dicoms.slice_of(pixels, z).save_as(tmp_path / f"{z}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(stored(tmp_path)[:, :, 0], pixels.swapaxes(0, 1))


def test_a_palette_is_refused(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(DataFault, match=r"'PALETTE COLOR'(.|\n)*indices, not intensities"):
        volume.read_header(tmp_path)


# ---------------------------------------------------------------- how pixels are stored


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "JPEGLS"])
@pytest.mark.parametrize("signed", [False, True])
def test_packed_pixels(tmp_path: Path, write_series, compressor: str, signed: bool) -> None:
    pixels = (RANDOM.integers(0, 4000, (16, 12, 1)) - 2000 * signed).astype(np.int16 if signed else np.uint16)
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels.T))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    write_series(tmp_path / "any", np.ones((6, 5, 1), dtype=np.int16))  # for the locale that it restores
    writer.Execute(image)
    packed = pydicom.dcmread(tmp_path / "packed.dcm")
    assert packed.file_meta.TransferSyntaxUID.is_compressed
    dataset = dicoms.slice_of(
        pixels[:, :, 0].T, RescaleSlope=0.3, RescaleIntercept=-5, PixelPaddingValue=int(pixels[0, 0, 0])
    )
    dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    dataset.PixelData = packed.PixelData
    (tmp_path / "scan").mkdir()
    dataset.save_as(tmp_path / "scan" / "0.dcm", enforce_file_format=True)
    padded = pixels == pixels[0, 0, 0]
    values = pixels * 0.3 - 5
    np.testing.assert_allclose(stored(tmp_path / "scan"), np.where(padded, values[~padded].min(), values), rtol=1e-12)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"])
def test_plain_and_deflated_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    for z in range(5):
        pixels = PIXELS[:, :, z].T.astype(">u2" if syntax.endswith(".2.2") else "<u2")
        dataset = dicoms.slice_of(np.ascontiguousarray(pixels), z)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        dataset.save_as(tmp_path / f"{z}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(stored(tmp_path), PIXELS)


def test_run_length_encoding(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 2000, (64, 48, 2)).astype(np.uint16)
    for file in dicoms.write(tmp_path, pixels):
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(stored(tmp_path), pixels)


def test_files_without_a_preamble(tmp_path: Path) -> None:
    for z in range(5):
        dataset = dicoms.slice_of(np.ascontiguousarray(PIXELS[:, :, z].T), z)
        del dataset.file_meta
        dataset.save_as(tmp_path / f"IM{z}", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(stored(tmp_path), PIXELS)


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    "value", [b"abc", b"nan\\nan", b"0\\0", b"-1\\-1", b"1e20\\1e20", b"1e400\\1", b"0.5", b"1\\1\\1"]
)
def test_pixel_spacing_that_is_none(tmp_path: Path, value: bytes) -> None:
    for file in dicoms.write(tmp_path, PIXELS):
        dicoms.with_raw(file, 0x00280030, value)
    with pytest.raises(DataFault, match=r"0\.dcm: Pixel Spacing is '") as error:
        volume.read_header(tmp_path)
    assert repr(value.decode())[1:-1] in error.value.given


@pytest.mark.parametrize("value", [None, ""])
def test_pixel_spacing_is_never_made_up(tmp_path: Path, value: str | None) -> None:
    dicoms.write(tmp_path / "none", PIXELS, PixelSpacing=value)
    with pytest.raises(DataFault, match=r"Pixel Spacing \(0028,0030\) is not in the file"):
        volume.read_header(tmp_path / "none")
    dicoms.write(tmp_path / "imager", PIXELS, PixelSpacing=value, ImagerPixelSpacing=[0.3, 0.2])
    assert volume.read(tmp_path / "imager").spacing_mm == (0.2, 0.3, 2.0)
    assert "0.2 x 0.3 mm is Imager Pixel Spacing" in notes(tmp_path / "imager")["pixel size at the detector"]


def test_slices_of_two_pixel_sizes(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, each=lambda z: {"PixelSpacing": [0.75, 0.5 if z < 4 else 0.6]})
    with pytest.raises(DataFault, match=r"4\.dcm has pixels of 0\.6 x 0\.75 mm, 0\.dcm of 0\.5 x 0\.75 mm"):
        volume.read_header(tmp_path)


@pytest.mark.parametrize(("thickness", "taken", "said"), [(5, 5.0, "its Slice Thickness"), (None, 0.75, "is unknown")])
def test_a_single_slice_says_where_its_thickness_comes_from(
    tmp_path: Path, thickness: float | None, taken: float, said: str
) -> None:
    dicoms.write(tmp_path, PIXELS[:, :, :1], SliceThickness=thickness)
    np.testing.assert_allclose(volume.read(tmp_path).spacing_mm, (0.5, 0.75, taken))
    assert said in notes(tmp_path)["single slice"]


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x00200032, b"abc"), (0x00200032, b"0\\0\\nan"), (0x00200032, b"0\\0"), (0x00200032, b"0\\0\\1e30"),
        (0x00200037, b"1\\0\\0\\0\\1\\x"), (0x00200037, b"1\\0\\0\\1\\0\\0"), (0x00200037, b"0\\0\\0\\0\\0\\0"),
        (0x00281053, b"none"), (0x00281053, b"0"), (0x00281053, b"1e300"), (0x00281052, b"inf"),
    ],
)  # fmt: skip
def test_text_where_numbers_must_stand(tmp_path: Path, tag: int, value: bytes) -> None:
    file = dicoms.write(tmp_path, PIXELS, RescaleSlope=1, RescaleIntercept=0)[2]
    dicoms.with_raw(file, tag, value)
    with pytest.raises(DataFault, match=r"2\.dcm: [A-Z]"):
        volume.read(tmp_path)


# ---------------------------------------------------------------- places


@settings(deadline=None, max_examples=40)  # files are written: how long that takes is the disk's matter
@given(st.floats(0.05, 6.0), st.integers(1, 3), st.floats(-500, 500))
def test_rounded_positions_are_no_gap(tmp_path_factory, step_mm: float, digits: int, start_mm: float) -> None:
    if step_mm < 3 * 10.0**-digits:
        step_mm += 3 * 10.0**-digits
    folder = tmp_path_factory.mktemp("rounded")
    places = [round(start_mm + step_mm * z, digits) for z in range(12)]
    zeros = np.zeros((3, 2, 12), np.uint16)
    dicoms.write(folder, zeros, each=lambda z: {"ImagePositionPatient": ["0", "0", f"{places[z]:.{digits}f}"]})
    header = volume.read_header(folder)
    np.testing.assert_allclose(header.spacing_mm[2], step_mm, atol=10.0**-digits / 11 + 1e-9)
    (folder / "6.dcm").unlink()
    with pytest.raises(DataFault, match="a gap of"):
        volume.read_header(folder)


def test_coarse_rounding_is_said(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, each=lambda z: {"ImagePositionPatient": ["0", "0", f"{0.34 * z:.1f}"]})
    assert "0.3 to 0.4 mm" in notes(tmp_path)["rounded positions"]


def test_the_odd_one_out_is_named(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, each=lambda z: {} if z else {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]})
    with pytest.raises(DataFault, match=r"^(?:.*)0\.dcm is \(6, 4\)(.|\n)*localisers"):
        volume.read_header(tmp_path)


# ---------------------------------------------------------------- which files


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
    (tmp_path / "p2" / "study" / "SEG").mkdir()
    segments.save_as(tmp_path / "p2" / "study" / "SEG" / "1.dcm", enforce_file_format=True)
    listing = recognise(tmp_path)
    assert [scan.images for scan in listing.index.scans] == [("p1/study/CT",), ("p2/study/CT",)]
    assert [(left.file, left.reason[:21]) for left in listing.left_out] == [
        ("p1/study/RT", "DICOM without an imag"),
        ("p2/study/RT", "DICOM without an imag"),
        ("p2/study/SEG", "a DICOM SEG object (a"),
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
    with pytest.raises(DataFault, match=r"2 DICOM series: 5 of lung \(lung0, ...\), series 3; 5 of soft") as error:
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
    assert "1 of Topogram (localiser)" in said
    assert "(RTSTRUCT, no image)" in said


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


# ---------------------------------------------------------------- hostile and damaged files


def test_check_says_what_it_took_for_granted(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, PixelSpacing=None, ImagerPixelSpacing=[0.3, 0.2])
    (fault,) = check.examine(recognise(tmp_path).index, jobs=1).faults
    assert (fault.severity, fault.kind) == ("warning", "pixel size at the detector")


@pytest.mark.parametrize(
    ("tag", "word"), [(0x00280010, 60000), (0x00280011, 60000), (0x00280100, 32), (0x00280101, 99)]
)
def test_a_claim_that_the_file_cannot_hold_costs_no_memory(tmp_path: Path, tag: int, word: int) -> None:
    file = dicoms.write(tmp_path, PIXELS)[3]
    dicoms.with_raw(file, tag, word.to_bytes(2, "little"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataFault, match=r"3\.dcm"):
        volume.read(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; the claim is up to 480 MB


def jpeg2000(columns: int, rows: int) -> bytes:
    """The first segment of a stream of that size, and nothing more."""
    size = b"".join(number.to_bytes(4, "big") for number in (columns, rows, 0, 0, columns, rows, 0, 0))
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + size + b"\x00\x01\x0b\x01\x01\xff\xd9\x00"


@pytest.mark.parametrize(
    ("coded", "claimed", "said"), [(60000, 4, "packed as"), (60000, 60000, "MB in all"), (4, 4, "unpacked")]
)
def test_packed_pixels_that_claim_more_than_they_hold(tmp_path: Path, coded: int, claimed: int, said: str) -> None:
    dataset = dicoms.slice_of(np.zeros((4, 4), np.uint16), Rows=claimed, Columns=claimed)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    dataset.PixelData = encapsulate([jpeg2000(coded, coded)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataFault, match=said):
        volume.read(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_deflated_file_that_unpacks_without_end(tmp_path: Path) -> None:
    (file,) = dicoms.write(tmp_path, PIXELS[:, :, :1])
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(file)
    content = file.read_bytes()
    start = 144 + pydicom.filereader.read_file_meta_info(file).FileMetaInformationGroupLength
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()
    file.write_bytes(content[:start] + packed)
    with pytest.raises(DataFault, match="unpacks to more than 256 MB"):
        volume.read_header(tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 140, 400, -1, -30])
def test_files_that_end_early(tmp_path: Path, kept: int) -> None:
    file = dicoms.write(tmp_path, PIXELS)[2]
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataFault, match=r"2\.dcm"):
        volume.read(tmp_path)


def test_rows_that_nobody_claims_are_said(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, Columns=5)
    assert "holds 8 bytes more" in notes(tmp_path)["more pixels than claimed"]
    dicoms.write(tmp_path / "odd", RANDOM.integers(0, 255, (3, 5, 2)).astype(np.uint8))
    assert not notes(tmp_path / "odd")


def test_many_frames_and_other_objects_are_refused_with_the_reason(tmp_path: Path) -> None:
    dicoms.write(tmp_path / "frames", PIXELS[:, :, :1], NumberOfFrames=12)
    with pytest.raises(DataFault, match=r"12 frames(.|\n)*dcm2niix"):
        volume.read(tmp_path / "frames")
    (file,) = dicoms.write(tmp_path / "syntax", PIXELS[:, :, :1])
    dicoms.with_raw(file, 0x00020010, b"1.2.840.113619.5.2\0\0")  # of the same length as the syntax before
    with pytest.raises(DataFault, match=r"transfer syntax is '1\.2\.840\.113619\.5\.2'"):
        volume.read(tmp_path / "syntax")


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
