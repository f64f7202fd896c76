"""NIfTI and FreeSurfer files: what their headers say is kept, and what they say wrongly is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from lemis.errors import DataFault
from lemis.formats import nifti, volume
from lemis.formats.grids import is_sheared
from scans_on_disk import affine_of, write

RANDOM = np.random.default_rng(0)
SHAPE = (4, 5, 6)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 1), (2, 4)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_codes_and_version_are_written_back(codes: tuple[int, int], kind: type, tmp_path: Path) -> None:
    image = kind(np.zeros(SHAPE, np.int16), affine_of((0, 1, 2), (-1, 1, 1), (1, 2, 3)))
    image.set_qform(image.affine, code=codes[0])
    image.set_sform(image.affine, code=codes[1])
    nibabel.save(image, tmp_path / "scan.nii")
    source = volume.read_header(tmp_path / "scan.nii")
    volume.write_labels(np.ones(source.canonical_shape, np.int64), source, tmp_path / "label.nii")
    back = nibabel.load(tmp_path / "label.nii")
    assert source.codes == codes
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == codes
    assert type(back) is kind
    for field in ("pixdim", "quatern_b", "qoffset_x", "srow_x"):
        np.testing.assert_array_equal(back.header[field], nibabel.load(tmp_path / "scan.nii").header[field])


def test_a_sheared_affine_is_kept_exactly(tmp_path: Path) -> None:
    affine = np.array([[0.5, 0, 0, 1], [0, 0.5, 0.7, 2], [0, 0, 2.0, 3], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), affine), tmp_path / "scan.nii.gz")
    scan = volume.read(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)
    assert is_sheared(scan.affine)
    volume.write_labels(np.zeros(SHAPE, np.uint8), scan.source, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.nii.gz").affine, scan.affine)


def test_scaled_values_are_float32_and_labels_of_that_scan_are_not_scaled(tmp_path: Path) -> None:
    stored = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "ignored.nii")  # nibabel rescales on writing; so set it in the file itself
    header = image.header.copy()
    raw = bytearray((tmp_path / "ignored.nii").read_bytes())
    raw[112:120] = np.array([0.5, -1024], header.endianness + "f4").tobytes()
    raw[352:] = stored.tobytes(order="F")
    (tmp_path / "scan.nii").write_bytes(raw)

    scan = volume.read(tmp_path / "scan.nii")
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, stored * 0.5 - 1024)
    volume.write_labels(np.full(SHAPE, 7), scan.source, tmp_path / "label.nii")
    back = volume.read(tmp_path / "label.nii")
    assert back.array.dtype == np.uint8
    assert (back.array == 7).all()


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<i4", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["F", "C"])
def test_values_scaled_in_parts_are_those_of_the_whole_to_the_bit(
    dtype: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "_SCALED_AT_ONCE", 7)
    stored = np.asarray(RANDOM.normal(100, 30, (*SHAPE, 2)).astype(dtype), order=order)
    whole = (stored.astype(np.float64) * 0.37 - 12.3).astype(np.float32)
    scaled = nifti._scaled(stored, 0.37, -12.3)
    assert (scaled.dtype, scaled.strides) == (whole.dtype, whole.strides)
    np.testing.assert_array_equal(scaled, whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_unscaled_values_keep_their_type(dtype: type, tmp_path: Path) -> None:
    array = np.arange(120).reshape(SHAPE).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    scan = volume.read(tmp_path / "scan.nii")
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array, array)


def test_big_endian_files_are_read_in_native_order_and_stay_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    array = np.arange(120, dtype=np.int16).reshape(SHAPE)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), tmp_path / "scan.nii")
    scan = volume.read(tmp_path / "scan.nii")
    assert scan.array.dtype.isnative
    np.testing.assert_array_equal(scan.array, array)
    volume.write_labels(array.astype(np.int64), scan.source, tmp_path / "label.nii")
    assert nibabel.load(tmp_path / "label.nii").header.endianness == ">"
    np.testing.assert_array_equal(volume.read(tmp_path / "label.nii").array, array)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (4, 5, 1)),
        ((4, 5, 6, 1), (4, 5, 6)),
        ((4, 5, 6, 3), (4, 5, 6, 3)),
        ((4, 5, 6, 1, 2), (4, 5, 6, 2)),
    ],
)
def test_two_four_and_five_axes(shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    array = RANDOM.integers(0, 9, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, 1, 1, 1])), tmp_path / "scan.nii.gz")
    scan = volume.read(tmp_path / "scan.nii.gz")
    assert scan.array.shape == expected
    np.testing.assert_array_equal(scan.array, array.reshape(expected)[::-1])
    labels = RANDOM.integers(0, 9, expected[:3])
    volume.write_labels(labels, scan.source, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.nii.gz").array, labels)
    assert nibabel.load(tmp_path / "label.nii.gz").shape == shape[: min(len(shape), 3)]


def test_colours_of_a_nifti_file_become_channels(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    array["G"] = 5
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    scan = volume.read(tmp_path / "scan.nii")
    assert scan.array.shape == (*SHAPE, 3)
    assert scan.source.channels == 3
    assert scan.array[0, 0, 0].tolist() == [0, 5, 0]


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataFault, match=r"complex numbers(.|\n)*save the magnitude"):
        volume.read(tmp_path / "a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(SHAPE, np.complex64)), str(tmp_path / "a.nrrd"))
    with pytest.raises(DataFault, match="complex numbers"):
        volume.read_header(tmp_path / "a.nrrd")


def test_six_axes_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataFault, match=r"an array of shape \(2, 2, 2, 3, 2\)"):
        volume.read(tmp_path / "a.nii")


def test_a_damaged_film_gives_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = RANDOM.integers(0, 99, (*SHAPE, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(film, np.eye(4)), tmp_path / "film.nii.gz")
    monkeypatch.setattr(nifti, "_FILM_BYTES", 100)  # frame by frame, as of large ones
    for number in (1, 3):
        frame = volume.read(Path(f"{tmp_path / 'film.nii.gz'}#frame={number}"))
        np.testing.assert_array_equal(frame.array, film[..., number - 1])
    damaged = bytearray((tmp_path / "film.nii.gz").read_bytes())
    damaged[-6] ^= 1
    for limit in (100, 10**9):
        monkeypatch.setattr(nifti, "_FILM_BYTES", limit)
        (tmp_path / f"{limit}.nii.gz").write_bytes(damaged)
        with pytest.raises(DataFault, match=r"#frame=1 cannot be read: CRC"):
            volume.read(Path(f"{tmp_path / f'{limit}.nii.gz'}#frame=1"))


def header_changed(path: Path, *, codes: tuple[int, int] = (0, 1), **fields: object) -> Path:
    """A NIfTI file with fields of its header overwritten after nibabel has made them consistent."""
    image = nibabel.Nifti1Image(RANDOM.integers(0, 99, SHAPE).astype(np.int16), np.diag([1.5, 1.5, 8, 1]))
    image.set_sform(image.affine, code=codes[1])
    image.set_qform(image.affine, code=codes[0])
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    header["vox_offset"] = 352
    path.write_bytes(header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes(order="F"))
    return path


@pytest.mark.parametrize("value", [1e38, 1e20, 1e-9, 0.0, np.nan, np.inf])
def test_lengths_that_no_scan_has(value: float, tmp_path: Path) -> None:
    file = header_changed(tmp_path / "a.nii", srow_x=[value, 0, 0, 0])
    with pytest.raises(DataFault, match=r"a\.nii (has voxels of|has an affine that is no grid)"):
        volume.read(file)
    file = header_changed(tmp_path / "b.nii", srow_x=[1, 0, 0, 1e38])
    with pytest.raises(DataFault, match=r"b\.nii has its origin at"):
        volume.read(file)


def test_a_quaternion_that_is_no_rotation(tmp_path: Path) -> None:
    for wrong in (2.0, np.inf):
        file = header_changed(tmp_path / "a.nii", codes=(1, 1), quatern_b=wrong)
        with pytest.raises(DataFault, match=r"a\.nii has a qform that is no rotation: quatern_b (2|inf), "):
            volume.read_header(file)
        unused = header_changed(tmp_path / "b.nii", codes=(0, 1), quatern_b=wrong)
        assert volume.read(unused).spacing_mm == (1.5, 1.5, 8.0)


@pytest.mark.parametrize(("unit", "length_mm"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (10, 1.0), (11, 0.001)])
def test_units_of_length_are_honoured_and_kept(unit: int, length_mm: float, tmp_path: Path) -> None:
    affine = affine_of((1, 0, 2), (-1, 1, 1), (0.8 / length_mm, 1.2 / length_mm, 5 / length_mm))
    image = nibabel.Nifti1Image(RANDOM.integers(0, 99, SHAPE).astype(np.int16), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header["xyzt_units"] = unit
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = volume.read(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(sorted(scan.spacing_mm), (0.8, 1.2, 5), rtol=1e-5)
    labels = RANDOM.integers(0, 5, scan.array.shape)
    volume.write_labels(labels, scan.source, tmp_path / "b.nii.gz")
    back = volume.read(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_array_equal(back.affine, scan.affine)
    assert int(back.source.header["xyzt_units"]) == unit


def test_a_unit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="xyzt_units 5, whose unit of length is 5"):
        volume.read_header(header_changed(tmp_path / "a.nii", xyzt_units=5))


def test_a_spacing_that_a_header_states_twice(tmp_path: Path) -> None:
    file = header_changed(tmp_path / "a.nii", pixdim=[1, 0.5, 0.5, 5, 0, 0, 0, 0])
    (note,) = volume.read_header(file).notes
    assert note.kind == "pixdim and sform disagree"
    assert "0.5 x 0.5 x 5 mm" in note.seen
    assert "1.5 x 1.5 x 8 mm" in note.seen
    assert volume.read_header(header_changed(tmp_path / "b.nii")).notes == ()


def test_what_a_header_gets_wrong_of_its_grid_is_said(tmp_path: Path) -> None:
    def notes(**fields: object) -> list[str]:
        return [note.kind for note in volume.read_header(header_changed(tmp_path / "a.nii", **fields)).notes]

    assert notes(codes=(1, 0), pixdim=[1, 0, 1.5, 8, 0, 0, 0, 0]) == ["spacing assumed"]
    assert notes(codes=(1, 0), pixdim=[1, 1.5, -1.5, 8, 0, 0, 0, 0]) == ["spacing assumed"]
    assert notes(sform_code=77) == ["unknown code"]
    assert notes(codes=(1, 0)) == []
    assert notes(codes=(1, 1), pixdim=[0, 1.5, 1.5, 8, 0, 0, 0, 0]) == []  # so many write it; it means 1
    flat = nibabel.Nifti1Image(np.ones((4, 5), np.int16), np.diag([1.5, 1.5, 1, 1]))
    flat.header["pixdim"][3] = 0
    nibabel.save(flat, tmp_path / "flat.nii")
    assert volume.read_header(tmp_path / "flat.nii").notes == ()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_more_data_than_the_header_says(suffix: str, tmp_path: Path) -> None:
    array = RANDOM.integers(0, 99, (20, 20, 10)).astype(np.int16)
    write(array, np.eye(4), tmp_path / f"a{suffix}")
    assert volume.read(tmp_path / f"a{suffix}").source.notes == ()
    opened = gzip.open if suffix == ".nii.gz" else open
    with opened(tmp_path / f"a{suffix}", "ab") as stream:
        stream.write(bytes(2 * 400 * 2))
    (note,) = volume.read(tmp_path / f"a{suffix}").source.notes
    assert note.kind == "more data than the header says"
    assert "1600 bytes" in note.seen


def test_a_slope_beyond_float32_gives_no_warning_of_numpy(tmp_path: Path) -> None:
    scan = volume.read(header_changed(tmp_path / "a.nii", scl_slope=3e38, scl_inter=0))
    assert not np.isfinite(scan.array).all()


NAMES = {"descrip": b"DOE^JOHN 1960-01-01", "aux_file": b"MRN 12345", "db_name": b"DOE^JOHN", "data_type": b"DOE"}


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_label_maps_carry_no_text_of_the_scan(kind: type, tmp_path: Path) -> None:
    image = kind(RANDOM.integers(0, 99, SHAPE).astype(np.int16), np.diag([1, 2, 3, 1]))
    for field, text in NAMES.items():
        if field in image.header:
            image.header[field] = text
    image.header["intent_name"] = b"DOE"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"PatientName=DOE^JOHN"))
    nibabel.save(image, tmp_path / "a.nii")
    assert b"DOE" in (tmp_path / "a.nii").read_bytes()
    source = volume.read_header(tmp_path / "a.nii")
    volume.write_labels(np.ones(SHAPE, int), source, tmp_path / "b.nii")
    written = (tmp_path / "b.nii").read_bytes()
    assert b"DOE" not in written
    assert b"12345" not in written
    np.testing.assert_array_equal(volume.read_header(tmp_path / "b.nii").affine, source.affine)
    assert b"DOE" in bytes(source.header["descrip"])  # the scan's own header is left alone


def test_label_maps_carry_no_tags_of_a_freesurfer_scan(tmp_path: Path) -> None:
    write(RANDOM.integers(0, 99, SHAPE).astype(np.int16), np.eye(4), tmp_path / "a.mgz")
    with gzip.open(tmp_path / "a.mgz", "ab") as stream:
        stream.write(b"\0\0\0\x03\0\0\0\0\0\0\0\x10mri_convert DOE^J")
    scan = volume.read(tmp_path / "a.mgz")
    volume.write_labels(np.ones(scan.array.shape, int), scan.source, tmp_path / "b.mgz")
    assert b"DOE" not in gzip.decompress((tmp_path / "b.mgz").read_bytes())
