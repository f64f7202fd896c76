"""Files in and out: every format comes back on its own grid; what cannot be used is refused with a reason."""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.spatial.transform import Rotation

from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import directions, nifti, volume
from lemis.formats.faults import unreadable
from lemis.formats.grids import is_sheared
from lemis.formats.paths import FORMATS, label_suffix, stamp, suffix_of
from lemis.formats.source import Source

RANDOM = np.random.default_rng(0)
SHAPE = (4, 5, 6)


def affine_of(permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Stored axis k runs along world axis permutation[k], in direction signs[k]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, size) in enumerate(zip(permutation, signs, spacing, strict=True)):
        affine[world, axis] = sign * size
    affine[:3, 3] = (-7.0, 11.0, 3.5)
    return affine


def write_itk(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def write(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    if FORMATS[suffix_of(path)] in ("nrrd", "meta"):
        write_itk(array, affine, path)
    elif path.suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(array, affine), path)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)


orientations = st.tuples(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
    st.tuples(*[st.floats(0.3, 8.0).map(lambda value: round(value, 3))] * 3),
)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz", ".nrrd", ".mha", ".mhd"])
@given(orientation=orientations)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_map_comes_back_on_the_grid_of_its_scan(suffix: str, orientation: tuple, tmp_path: Path) -> None:
    permutation, signs, spacing = orientation
    affine = affine_of(tuple(permutation), signs, spacing)
    stored = RANDOM.integers(-500, 500, SHAPE).astype(np.int16)
    file = tmp_path / f"scan{suffix}"
    write(stored, affine, file)

    scan = volume.read(file)
    labels = RANDOM.integers(0, 9, scan.array.shape)
    written = volume.write_labels(labels, volume.read_header(file), tmp_path / f"label{suffix}")
    back = volume.read(written)

    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-4)
    assert back.source.shape == scan.source.shape == SHAPE
    assert back.source.axis_codes == scan.source.axis_codes
    np.testing.assert_allclose(back.source.affine, affine, atol=1e-4)
    assert back.array.dtype == np.uint8


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".nrrd", ".mha"])
@given(orientation=orientations, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_map_of_an_oblique_scan_read_in_any_frame_comes_back_on_its_grid(
    suffix: str, orientation: tuple, seed: int, tmp_path: Path
) -> None:
    turned, frame = Rotation.random(2, random_state=seed).as_matrix()
    affine = affine_of(tuple(orientation[0]), *orientation[1:])
    affine[:3, :3] = turned @ affine[:3, :3]
    file, along = tmp_path / f"scan{suffix}", directions.as_axes(frame)
    stored = RANDOM.integers(-500, 500, SHAPE).astype(np.int16)
    write(stored, affine, file)

    scan = volume.read(file, along)
    assert scan.array.shape == scan.source.canonical_shape
    assert np.trace(directions.of_affine(scan.affine).T @ frame) > 1.9  # at most 62.8 degrees off, of all 48 orders
    labels = RANDOM.integers(0, 9, scan.array.shape)
    written = volume.write_labels(labels, scan.source, tmp_path / f"label{suffix}")
    back = volume.read(written, scan.source.axes)
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.source.affine, affine, atol=1e-3)
    for index in itertools.product(*[(0, n - 1) for n in scan.array.shape]):
        i, j, k = np.rint(np.linalg.solve(affine, scan.affine @ [*index, 1])[:3]).astype(int)
        assert stored[i, j, k] == scan.array[index]


@given(orientation=orientations)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_canonical_order_keeps_every_voxel_at_its_place_in_the_world(orientation: tuple, tmp_path: Path) -> None:
    permutation, signs, spacing = orientation
    affine = affine_of(tuple(permutation), signs, spacing)
    stored = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    write(stored, affine, tmp_path / "scan.nii")
    scan = volume.read(tmp_path / "scan.nii")

    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    np.testing.assert_allclose(scan.spacing_mm, np.abs(scan.affine[:3, :3]).sum(0), rtol=1e-6)
    assert scan.source.canonical_shape == scan.array.shape
    np.testing.assert_allclose(scan.source.spacing_mm, scan.spacing_mm)
    for index in itertools.product(*[(0, n - 1) for n in scan.array.shape]):
        world = scan.affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.solve(affine, world)[:3]).astype(int)
        assert stored[i, j, k] == scan.array[index]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_and_nifti_files_of_one_scan_agree_in_the_world(suffix: str, tmp_path: Path) -> None:
    affine = affine_of((1, 0, 2), (-1, 1, -1), (1.0, 2.0, 3.0))
    array = RANDOM.integers(0, 99, SHAPE).astype(np.int16)
    write(array, affine, tmp_path / "a.nii.gz")
    write(array, affine, tmp_path / f"b{suffix}")
    one, other = volume.read(tmp_path / "a.nii.gz"), volume.read(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)


# ---------------------------------------------------------------- NIfTI headers


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


def test_vector_and_2d_nrrd(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 9, (6, 5, 4, 2)).astype(np.int16)  # (Z, Y, X, C)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "vector.nrrd"))
    scan = volume.read(tmp_path / "vector.nrrd")
    assert scan.array.shape == (4, 5, 6, 2)
    np.testing.assert_array_equal(scan.array[::-1, ::-1], array.transpose(2, 1, 0, 3))

    flat = sitk.GetImageFromArray(array[0, :, :, 0])
    flat.SetSpacing((0.5, 2.0))
    sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
    scan = volume.read(tmp_path / "flat.mha")
    assert scan.array.shape == (4, 5, 1)
    assert scan.spacing_mm == (0.5, 2.0, 1.0)
    labels = RANDOM.integers(0, 9, (4, 5, 1))
    volume.write_labels(labels, scan.source, tmp_path / "label.mha")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.mha").array, labels)
    assert sitk.ReadImage(str(tmp_path / "label.mha")).GetDimension() == 2


def test_names_of_slicer_segments_are_read(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((6, 5, 4), np.uint8))
    for key, value in {
        "Segment0_Name": "tumour",
        "Segment0_LabelValue": "3",
        "Segment1_Name": "oedema",
        "Segment1_LabelValue": "1",
    }.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    assert volume.read_header(tmp_path / "a.seg.nrrd").segments == {"tumour": 3, "oedema": 1}
    assert suffix_of(tmp_path / "a.seg.nrrd") == ".nrrd"


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_picture_has_x_to_the_right_and_y_upwards(suffix: str, colours: int, tmp_path: Path) -> None:
    pixels = np.zeros((3, 5) if colours == 1 else (3, 5, 3), np.uint8)  # rows, columns
    pixels[2, 1] = 200  # second from the left in the lowest row
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    scan = volume.read(tmp_path / f"a{suffix}")
    assert scan.array.shape == ((5, 3, 1) if colours == 1 else (5, 3, 1, 3))
    assert np.all(scan.array[1, 0, 0] == 200)
    assert np.count_nonzero(scan.array) == colours
    np.testing.assert_array_equal(scan.affine, np.eye(4))

    labels = RANDOM.integers(0, 4, (5, 3, 1))
    volume.write_labels(labels, scan.source, tmp_path / f"label{suffix}")
    np.testing.assert_array_equal(volume.read(tmp_path / f"label{suffix}").array, labels)
    stored = np.asarray(Image.open(tmp_path / f"label{suffix}"))
    np.testing.assert_array_equal(stored[::-1].T, labels[:, :, 0])


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("1", np.uint8), ("L", np.uint8), ("P", np.uint8), ("I;16", np.uint16), ("F", np.float32)],
)
def test_picture_modes(mode: str, dtype: type, tmp_path: Path) -> None:
    picture = Image.new(mode, (5, 3), 1)
    file = tmp_path / ("a.tif" if mode == "F" else "a.png")
    picture.save(file)
    scan = volume.read(file)
    assert scan.array.dtype == dtype
    assert (scan.array == 1).all()


def test_alpha_is_dropped_and_tiff_pages_are_slices(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 3), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert volume.read(tmp_path / "a.png").array[0, 0, 0].tolist() == [1, 2, 3]

    pages = [Image.new("L", (5, 3), value) for value in (10, 20)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    scan = volume.read(tmp_path / "stack.tif")
    assert scan.array.shape == (5, 3, 2)
    assert scan.array[0, 0].tolist() == [10, 20]
    labels = RANDOM.integers(0, 4, (5, 3, 2))
    volume.write_labels(labels, scan.source, tmp_path / "label.tif")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.tif").array, labels)


def test_labels_of_a_jpeg_are_png(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.jpg")
    assert label_suffix(tmp_path / "a.jpg") == ".png"
    with pytest.raises(UsageError, match=r"written as \.png or \.tif"):
        volume.write_labels(np.zeros((5, 3, 1), int), volume.read_header(tmp_path / "a.jpg"), tmp_path / "label.jpg")


def test_large_label_values_of_a_picture(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.png")
    source = volume.read_header(tmp_path / "a.png")
    labels = np.full((5, 3, 1), 40_000)
    volume.write_labels(labels, source, tmp_path / "label.png")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.png").array, labels)
    with pytest.raises(UsageError, match=r"label values -1 to -1 in label\.png"):
        volume.write_labels(np.full((5, 3, 1), -1), source, tmp_path / "label.png")
    with pytest.raises(UsageError, match="0 to 65535 in pictures"):
        volume.write_labels(np.full((5, 3, 1), 70_000), source, tmp_path / "label.png")
    np.testing.assert_array_equal(volume.read(tmp_path / "label.png").array, labels)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (5, 3)).save(tmp_path / "a.jpg")
    with pytest.raises(DataFault, match="mode CMYK"):
        volume.read(tmp_path / "a.jpg")

    pages = [Image.new("L", (5, 3)), Image.new("L", (6, 3))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataFault, match="pages of different sizes"):
        volume.read(tmp_path / "a.tif")


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.full((3, 5, 3), 300, np.uint16), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.png"))
    with pytest.raises(DataFault, match="16-bit colour"):
        volume.read(tmp_path / "a.png")


# ---------------------------------------------------------------- what is refused


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


def test_an_affine_that_is_no_grid_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.header["srow_x"] = (1, 0, 0, 0)
    image.header["srow_y"] = (1, 0, 0, 0)
    image.header["sform_code"] = 1
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(DataFault, match="an affine that is no grid"):
        volume.read(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz", "a.nrrd", "a.mha", "a.png", "a.dcm"])
def test_damaged_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"this is no scan" * 40)
    for read in (volume.read, volume.read_header):
        with pytest.raises(DataFault, match=f"{name} cannot be read"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.png"])
def test_a_file_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    array = RANDOM.integers(0, 200, (30, 30, 30)).astype(np.uint8)
    if name.endswith(".png"):
        Image.fromarray(array.reshape(150, 180)).save(tmp_path / name)
    else:
        write(array, np.eye(4), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFault, match="cannot be read"):
        volume.read(tmp_path / name)


def test_unknown_formats_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        volume.read(tmp_path / "nothing.nii.gz")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match=r"a\.txt: files of this format are not read(.|\n)*\.nii\.gz"):
        volume.read(tmp_path / "a.txt")
    assert suffix_of(tmp_path / "a.txt") == ""


def test_labels_of_another_format_or_shape_are_refused(tmp_path: Path) -> None:
    write(np.zeros(SHAPE, np.int16), np.eye(4), tmp_path / "a.nii.gz")
    source = volume.read_header(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match=r"written as \.nii\.gz or \.nii(.|\n)*name it b\.nii\.gz"):
        volume.write_labels(np.zeros(SHAPE, int), source, tmp_path / "b.nrrd")
    with pytest.raises(ValueError, match=r"\(5, 4, 6\)"):
        volume.write_labels(np.zeros((5, 4, 6), int), source, tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match="float64"):
        volume.write_labels(np.zeros(SHAPE), source, tmp_path / "b.nii.gz")
    with pytest.raises(UsageError, match="32-bit integers"):
        volume.write_labels(np.full(SHAPE, 2**40), source, tmp_path / "b.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_label_map_that_lands_elsewhere_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(np.zeros(SHAPE, np.int16), np.eye(4), tmp_path / "a.nii.gz")
    source = volume.read_header(tmp_path / "a.nii.gz")

    def wrong(stored: np.ndarray, _like: Source, path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 1.5, 1])), path)

    monkeypatch.setattr(nifti, "write_labels", wrong)
    with pytest.raises(LemisError, match=r"another grid(.|\n)*2.5 mm apart"):
        volume.write_labels(np.zeros(SHAPE, int), source, tmp_path / "label.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(("high", "dtype"), [(255, np.uint8), (256, np.uint16), (70_000, np.int32)])
def test_the_smallest_type_that_holds_the_labels(high: int, dtype: type, tmp_path: Path) -> None:
    write(np.zeros(SHAPE, np.int16), np.eye(4), tmp_path / "a.nii.gz")
    labels = np.zeros(SHAPE, np.int64)
    labels[0, 0, 0] = high
    volume.write_labels(labels, volume.read_header(tmp_path / "a.nii.gz"), tmp_path / "b.nii.gz")
    back = volume.read(tmp_path / "b.nii.gz").array
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)


def test_write_volume(tmp_path: Path) -> None:
    affine = affine_of((0, 1, 2), (1, 1, 1), (1.5, 1.5, 8.0))
    array = RANDOM.normal(size=(*SHAPE, 2)).astype(np.float32)
    volume.write_volume(array, affine, tmp_path / "new" / "a.nii.gz")
    scan = volume.read(tmp_path / "new" / "a.nii.gz")
    np.testing.assert_array_equal(scan.array, array)
    np.testing.assert_allclose(scan.affine, affine)
    with pytest.raises(UsageError, match=r"writes \.nii and \.nii\.gz"):
        volume.write_volume(array, affine, tmp_path / "a.nrrd")


# ---------------------------------------------------------------- DICOM

PIXELS = RANDOM.integers(0, 2000, (6, 4, 5)).astype(np.int16)


def test_a_series_is_ordered_by_position_and_its_labels_are_nifti(tmp_path: Path, write_series) -> None:
    names = ["d.dcm", "a.dcm", "e.dcm", "c.dcm", "b.dcm"]
    write_series(tmp_path / "scan", PIXELS, names=names)
    (tmp_path / "scan" / "notes.txt").write_text("not a slice")
    scan = volume.read(tmp_path / "scan")
    np.testing.assert_array_equal(scan.array[::-1, ::-1], PIXELS)  # LPS is stored, RAS is read
    np.testing.assert_allclose(scan.spacing_mm, (0.5, 0.75, 2.0))
    np.testing.assert_allclose(scan.source.affine[:3, 3], (10.0, 20.0, 5.0))
    assert label_suffix(tmp_path / "scan") == ".nii.gz"
    labels = RANDOM.integers(0, 4, scan.array.shape)
    volume.write_labels(labels, scan.source, tmp_path / "label.nii.gz")
    back = volume.read(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-4)
    assert back.source.codes == (1, 1)


def test_a_tilted_gantry_is_a_shear(tmp_path: Path, write_series) -> None:
    positions = [(0.0, 0.4 * z, 2.0 * z) for z in range(5)]
    write_series(tmp_path / "scan", PIXELS, positions=positions)
    scan = volume.read(tmp_path / "scan")
    assert is_sheared(scan.source.affine)
    np.testing.assert_allclose(scan.source.affine[:3, 2], (0, -0.4, 2.0))
    volume.write_labels(np.zeros((6, 4, 5), int), scan.source, tmp_path / "label.nii.gz")
    back = volume.read_header(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(back.affine, scan.source.affine, atol=1e-5)
    assert back.codes == (0, 1)


def test_a_missing_slice_is_named_with_its_place(tmp_path: Path, write_series) -> None:
    write_series(tmp_path / "scan", PIXELS)
    (tmp_path / "scan" / "2.dcm").unlink()
    with pytest.raises(DataFault, match=r"gap of 4\.00 mm(.|\n)*7\.00 mm \(1\.dcm\) and 11\.00 mm \(3\.dcm\)"):
        volume.read_header(tmp_path / "scan")


def test_a_slice_twice_is_refused(tmp_path: Path, write_series) -> None:
    positions = [(0, 0, z) for z in (0.0, 2.0, 2.0, 4.0, 6.0)]
    write_series(tmp_path / "scan", PIXELS, positions=positions)
    with pytest.raises(DataFault, match=r"1\.dcm and 2\.dcm are both at 2\.00 mm"):
        volume.read(tmp_path / "scan")


def test_two_series_are_listed(tmp_path: Path, write_series) -> None:
    write_series(tmp_path, PIXELS, tags={"0008|103e": "lung"})
    write_series(tmp_path, PIXELS[:, :, :3], uid="1.2.4", names=["x.dcm", "y.dcm", "z.dcm"])
    with pytest.raises(DataFault, match=r"2 DICOM series: 5 of lung(.|\n)*3 of 1\.2\.4 \(x\.dcm"):
        volume.read(tmp_path)


def test_slices_of_another_size_or_direction_are_refused(tmp_path: Path, write_series) -> None:
    write_series(tmp_path, PIXELS)
    write_series(tmp_path, PIXELS[:, :, :1], names=["z.dcm"], orientation=(0, 1, 0, 1, 0, 0))
    with pytest.raises(DataFault, match=r"z\.dcm(.|\n)*localisers"):
        volume.read(tmp_path)


def test_single_files_segmentations_and_empty_folders(tmp_path: Path, write_series) -> None:
    write_series(tmp_path / "scan", PIXELS)
    with pytest.raises(DataFault, match=r"one file of a DICOM series(.|\n)*scan"):
        volume.read(tmp_path / "scan" / "1.dcm")
    write_series(tmp_path / "seg", PIXELS[:, :, :1], tags={"0008|0060": "SEG"})
    for path in (tmp_path / "seg", tmp_path / "seg" / "0.dcm"):
        with pytest.raises(DataFault, match="DICOM SEG object"):
            volume.read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFault, match="without DICOM files"):
        volume.read(tmp_path / "empty")


def test_files_without_a_suffix_are_found_by_their_content(tmp_path: Path, write_series) -> None:
    for number, file in enumerate(write_series(tmp_path, PIXELS)):
        file.rename(tmp_path / f"IM{number}")
    (tmp_path / "README").write_text("no slice")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert volume.read(tmp_path).array.shape == (6, 4, 5)


def test_a_stamp_changes_with_the_files_that_a_path_stands_for(tmp_path: Path) -> None:
    names = ("ct.mhd", "ct.raw", "other.raw", "series/1.dcm", "series/2.dcm", "film.nii.gz")
    (tmp_path / "series").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"0" * number)
    stamps = {path: stamp(tmp_path / path) for path in ("ct.mhd", "series", "film.nii.gz#frame=3")}
    assert stamps == {path: stamp(tmp_path / path) for path in stamps}
    assert stamp(tmp_path / "film.nii.gz") == stamps["film.nii.gz#frame=3"]
    for name, changed in (("ct.raw", "ct.mhd"), ("series/2.dcm", "series"), ("film.nii.gz", "film.nii.gz#frame=3")):
        (tmp_path / name).write_bytes(b"other")
        now = {path: stamp(tmp_path / path) for path in stamps}
        assert [path for path in stamps if now[path] != stamps[path]] == [changed]
        stamps = now
    (tmp_path / "other.raw").write_bytes(b"other")
    assert stamps["ct.mhd"] == stamp(tmp_path / "ct.mhd")
    for absent in ("no.nii", "no.mhd"):
        with pytest.raises(FileNotFoundError):
            stamp(tmp_path / absent)


def test_a_file_of_the_same_size_and_time_has_another_stamp(tmp_path: Path) -> None:
    """As an archive unpacks it over the other: the time of its content is set."""
    file = tmp_path / "scan.nii"
    file.write_bytes(b"0" * 400)
    before, state = stamp(file), file.stat()
    while file.stat().st_ctime_ns == state.st_ctime_ns:  # as coarse as the disk's clock
        file.write_bytes(b"1" * 400)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert stamp(file) != before


def test_a_moved_file_can_have_the_same_stamp(tmp_path: Path) -> None:
    file, moved = tmp_path / "a" / "lesion.png", tmp_path / "b" / "lesion.png"
    for folder in (file.parent, moved.parent):
        folder.mkdir()
    file.write_bytes(b"0")
    before, state = stamp(file, moved_is_other=False), file.stat()
    file.rename(moved)
    while moved.stat().st_ctime_ns == state.st_ctime_ns:  # as coarse as the disk's clock
        os.utime(moved, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert stamp(moved, moved_is_other=False) == before


# ---------------------------------------------------------------- files that are not what they say


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_one_flipped_bit_of_a_packed_file_is_refused(name: str, tmp_path: Path) -> None:
    write(RANDOM.integers(0, 99, (9, 8, 7)).astype(np.int16), np.eye(4), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for place in (len(whole) // 2, len(whole) - 40, len(whole) - 7, len(whole) - 1):  # voxels, check sum, length
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataFault, match=rf"{name} cannot be read: \S"):
            volume.read(tmp_path / name)


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


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_a_claim_beyond_the_file_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    write(RANDOM.integers(0, 99, SHAPE).astype(np.int16), np.eye(4), tmp_path / name)
    opened = gzip.open if name.endswith("z") else open
    with opened(tmp_path / name, "rb") as stream:
        whole = bytearray(stream.read())
    place, kind = (42, "<i2") if "nii" in name else (4, ">i4")
    sizes = np.array([1200, 1200, 1200], kind).tobytes()
    whole[place : place + len(sizes)] = sizes
    with opened(tmp_path / name, "wb") as stream:
        stream.write(whole)
    for read in (volume.read, volume.read_header):
        with pytest.raises(DataFault, match=r"it claims 1200 x 1200 x 1200 voxels of \w+, \d+ bytes, and"):
            read(tmp_path / name)


def test_what_is_no_file_is_refused_at_the_door(tmp_path: Path) -> None:
    for suffix in FORMATS:
        os.mkfifo(tmp_path / f"a{suffix}")
        with pytest.raises(DataFault, match="is a named pipe"):
            volume.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("name", "what"), [("a.hdr", r"\.hdr and \.img"), ("a.img.gz", "pairs"), ("a.mnc", "MINC")])
def test_formats_that_are_not_read_are_named(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"0")
    with pytest.raises(UsageError, match=rf"{what}(.|\n)*are not read(.|\n)*convert it"):
        volume.read(tmp_path / name)


def test_the_whole_reason_is_told(tmp_path: Path) -> None:
    fault = unreadable(tmp_path / "a.nii", OSError("Expected 48 bytes, got 20\n - could the file be damaged?"))
    assert fault.given.endswith("cannot be read: Expected 48 bytes, got 20 - could the file be damaged?")
    fault = unreadable(tmp_path / "a.mha", RuntimeError("Exception thrown\nitk::ERROR: MetaImageIO(0x1): no size"))
    assert fault.given.endswith("cannot be read: itk::ERROR: MetaImageIO(0x1): no size")


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


def test_a_series_that_no_scanner_makes(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 2, 1, 5000), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataFault, match=r"a\.nii\.gz holds 5000 volumes"):
        volume.read_header(tmp_path / "a.nii.gz")


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


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_label_maps_carry_no_keys_of_the_scan(suffix: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(RANDOM.integers(0, 99, SHAPE[::-1]).astype(np.int16))
    image.SetMetaData("PatientName", "DOE^JOHN")
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert b"DOE" in (tmp_path / f"a{suffix}").read_bytes()
    volume.write_labels(np.ones(SHAPE, int), volume.read_header(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}")
    assert b"DOE" not in (tmp_path / f"b{suffix}").read_bytes()


def test_label_maps_carry_no_tags_of_a_freesurfer_scan(tmp_path: Path) -> None:
    write(RANDOM.integers(0, 99, SHAPE).astype(np.int16), np.eye(4), tmp_path / "a.mgz")
    with gzip.open(tmp_path / "a.mgz", "ab") as stream:
        stream.write(b"\0\0\0\x03\0\0\0\0\0\0\0\x10mri_convert DOE^J")
    scan = volume.read(tmp_path / "a.mgz")
    volume.write_labels(np.ones(scan.array.shape, int), scan.source, tmp_path / "b.mgz")
    assert b"DOE" not in gzip.decompress((tmp_path / "b.mgz").read_bytes())


# ---------------------------------------------------------------- pictures that are not what they seem


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(turn: int, suffix: str, tmp_path: Path) -> None:
    grey = np.zeros((16, 24), np.uint8)
    grey[:8, :8] = 200  # the upper left corner
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(grey).save(tmp_path / f"a{suffix}", exif=exif, compression="tiff_lzw")
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a{suffix}")))
    scan = volume.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scan.array[:, ::-1, 0].T, shown)
    assert scan.source.shape == volume.read_header(tmp_path / f"a{suffix}").shape
    assert [note.kind for note in scan.source.notes] == ["turned by its camera"] * (turn != 1)
    labels = RANDOM.integers(0, 3, scan.array.shape)
    volume.write_labels(labels, scan.source, tmp_path / "label.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "label.png"))[::-1].T, labels[..., 0])


def test_an_unpacked_tiff_that_is_to_be_turned_is_refused(tmp_path: Path) -> None:
    Image.new("L", (24, 16)).save(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    with pytest.raises(DataFault, match=r"a\.tif holds an unpacked TIFF that is to be turned"):
        volume.read(tmp_path / "a.tif")


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_pictures_whose_file_is_at_fault_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("L", (5, 3)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    size = whole[16:29]
    made = {
        "claims.png": whole[:8] + chunk(b"IHDR", b"\0\0\x4e\x20\0\0\x4e\x20" + size[8:]) + whole[33:],
        "wide.png": whole[:8] + chunk(b"IHDR", b"\0\0\x20\0\0\0\x20\0" + size[8:]) + whole[33:],
        "text.png": whole[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))) + whole[33:],
        "no.png": b"",
    }
    palette = Image.new("P", (5, 3))
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "a.bmp")
    damaged = bytearray((tmp_path / "a.bmp").read_bytes())
    damaged[46:50] = (3).to_bytes(4, "little")  # colours in the palette
    damaged[28] = 7  # bits per pixel
    made["palette.bmp"] = bytes(damaged)
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFault, match=f"{name} cannot be read"):
            volume.read(tmp_path / name)
