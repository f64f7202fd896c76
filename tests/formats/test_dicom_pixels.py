"""Pixels of DICOM files: every value as it is meant, whatever its bits, slope, sign and packing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

import dicoms
from dicoms import notes, stored
from how_many import examples
from lemis.errors import DataFault
from lemis.formats import volume

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    slopes = [1.0, 0.02, 0.5, 0.001, 0.1]
    dicoms.write(
        tmp_path, PIXELS, each=lambda z: {"RescaleSlope": slopes[z], "RescaleIntercept": 0}, SOPClassUID=dicoms.PET
    )
    assert stored(tmp_path).dtype == np.float64
    np.testing.assert_array_equal(stored(tmp_path), PIXELS * np.array(slopes))


@examples(40)  # files are written: how long that takes is the disk's matter
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


@pytest.mark.parametrize(("first", "signed", "bits"), [(0, 0, 16), (12, 0, 16), (-3, 1, 16), (2, 0, 8)])
def test_a_modality_lut_gives_the_values(tmp_path: Path, first: int, signed: int, bits: int) -> None:
    table = RANDOM.integers(0, 2**bits, 20).astype(np.uint16 if bits == 16 else np.uint8)
    pixels = RANDOM.integers(-10 if signed else 0, 40, (6, 4, 2)).astype(np.int16 if signed else np.uint16)
    dicoms.write(tmp_path, pixels, PixelRepresentation=signed)
    for file in tmp_path.iterdir():
        dataset = pydicom.dcmread(file)
        item = pydicom.Dataset()
        item.add_new("LUTDescriptor", "SS" if signed else "US", [20, first, bits])
        item.ModalityLUTType = "US"
        item.add_new("LUTData", "OW", table.tobytes())
        dataset.ModalityLUTSequence = [item]
        dataset.save_as(file)
    np.testing.assert_array_equal(stored(tmp_path), table[np.clip(pixels.astype(int) - first, 0, 19)])


def test_a_modality_lut_that_is_none_is_refused(tmp_path: Path) -> None:
    (file,) = dicoms.write(tmp_path, PIXELS[:, :, :1])
    dataset = pydicom.dcmread(file)
    dataset.ModalityLUTSequence = [pydicom.Dataset()]
    dataset.save_as(file)
    with pytest.raises(DataFault, match="Modality LUTSequence cannot be read"):
        volume.read(tmp_path)


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
def test_a_scale_that_one_slice_lacks_is_refused(tmp_path: Path, tag: str) -> None:
    scale = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    dicoms.write(tmp_path, PIXELS, each=lambda z: {name: scale[name] for name in scale if z != 3 or name != tag})
    with pytest.raises(DataFault, match=r"3\.dcm: Rescale \w+ is missing, and stated in other slices"):
        volume.read(tmp_path)


def test_pet_keeps_its_units(tmp_path: Path) -> None:
    tags = {"Units": "BQML", "SUVType": "BW", "RescaleSlope": 1.5, "RescaleIntercept": 0}
    dicoms.write(tmp_path, PIXELS, SOPClassUID=dicoms.PET, **tags)
    np.testing.assert_array_equal(stored(tmp_path), PIXELS * 1.5)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
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


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_ls(tmp_path: Path, bits: int, signed: bool) -> None:
    pytest.importorskip("jpeg_ls", reason="packs them: pip install -e '.[dicom]' -c constraints.txt")
    low = -(2 ** (bits - 1)) * signed
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    for z in range(2):
        pixels = (RANDOM.integers(0, 2**bits, (16, 12)) + low).astype(kind)
        dataset = dicoms.slice_of(pixels, z, BitsStored=bits)
        dataset.compress(pydicom.uid.JPEGLSLossless)
        assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLSLossless
        dataset.save_as(tmp_path / f"{z}.dcm", enforce_file_format=True)
        if z:
            np.testing.assert_array_equal(stored(tmp_path)[:, :, 1].T, pixels)


# (arange(16 * 12) * 7 % 2000) as 16 rows of 12, packed by imagecodecs 2026.3.6 (OpenJPH), reversibly.
_HTJ2K = bytes.fromhex(
    "ff4fff51002940000000000c0000001000000000000000000000000c00000010000000000000000000010f0101ff50000800020000000aff52"
    "000c00020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e32362e33"
    "2eff90000a0000000000730001ff93c00026c5fc0507740000c00012c0001300f600877400fefd02877400c00011c00013801b7300fcf2fb00"
    "835400c00013c0001540dedd817ecb750078f1f0fec018c08cb600c0002aa00015e0244992dea7a7a7427700a62693c964fafc0010f62101ec"
    "b900ffd9"
)


def high_throughput(folder: Path) -> np.ndarray:
    pixels = (np.arange(16 * 12) * 7 % 2000).reshape(16, 12).astype(np.uint16)
    dataset = dicoms.slice_of(pixels, RescaleSlope=2, RescaleIntercept=-1)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    dataset.PixelData = pydicom.encaps.encapsulate([_HTJ2K])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(folder / "0.dcm", enforce_file_format=True)
    return pixels


def test_high_throughput_jpeg_2000(tmp_path: Path) -> None:
    for package in ("openjpeg", "pylibjpeg"):
        pytest.importorskip(package, reason="pip install -e '.[dicom]' -c constraints.txt")
    pixels = high_throughput(tmp_path)
    np.testing.assert_array_equal(stored(tmp_path)[:, :, 0].T, pixels * 2.0 - 1)


def test_pixels_that_nothing_installed_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    high_throughput(tmp_path)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda _decoder: False))
    with pytest.raises(DataFault, match=r"High-Throughput JPEG 2000(.|\n)*pip install 'lemis\[dicom\]'"):
        stored(tmp_path)
    dicoms.with_raw(tmp_path / "0.dcm", 0x00020010, b"1.2.840.10008.1.2.4.099\0")
    with pytest.raises(DataFault, match="cannot be unpacked"):
        stored(tmp_path)
    dicoms.with_raw(tmp_path / "0.dcm", 0x00020010, b"1.2.840.10008.1.2.4.110\0")  # JPEG XL
    with pytest.raises(DataFault, match=r"nothing that we know unpacks(.|\n)*without compression"):
        stored(tmp_path)


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
