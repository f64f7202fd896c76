"""DICOM as scanners and archives write it: read as it is meant, or refused naming the file and the value."""

from __future__ import annotations

import resource
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

import dicoms
from dicoms import notes
from how_many import examples
from lemis.checking import check
from lemis.datasets.recognition import recognise
from lemis.errors import DataFault
from lemis.formats import volume

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)


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


@examples(40)  # files are written: how long that takes is the disk's matter
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
    megabyte = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)  # says the same wherever it stands
    packed = 300 * megabyte + packer.flush()
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
