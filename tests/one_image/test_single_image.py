"""One image of any kind becomes upright planes in [0, 1], and label maps go back on its own grid."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.one_image import single_image

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (9, 12, 3), dtype=np.uint8)


def picture(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def scan(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 4.0, 1.0]) if affine is None else affine), path)
    return path


def only(stack: single_image.Stack) -> np.ndarray:
    (plane,) = stack.planes
    assert plane.dtype == np.float32
    assert plane.min() >= 0
    assert plane.max() <= 1
    return plane


# ---------------------------------------------------------------- pictures


def test_colours_are_divided_by_255(tmp_path):
    stack = single_image.read(picture(tmp_path / "a.png", RGB))
    np.testing.assert_allclose(only(stack), np.moveaxis(RGB, -1, 0) / 255, rtol=1e-6)
    assert (stack.numbers, stack.notes, stack.shape) == ((1,), (), (9, 12))


def test_grey_has_one_channel(tmp_path):
    grey = RGB[..., 0]
    np.testing.assert_allclose(only(single_image.read(picture(tmp_path / "a.png", grey))), grey[None] / 255, rtol=1e-6)


def test_sixteen_bits_are_stretched(tmp_path):
    array = np.linspace(1000, 1400, 20 * 20).reshape(20, 20).astype(np.uint16)  # 12 bits of 16: black if divided
    plane = only(single_image.read(picture(tmp_path / "a.png", array)))
    assert plane.min() == 0
    assert plane.max() == 1
    assert np.all(np.diff(plane.ravel()) >= 0)


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.full((9, 12, 1), 255, dtype=np.uint8)
    alpha[:4] = 0
    stack = single_image.read(picture(tmp_path / "a.png", np.concatenate([RGB, alpha], axis=2)))
    plane = only(stack)
    assert (plane[:, :4] == 1).all()
    np.testing.assert_allclose(plane[:, 4:], np.moveaxis(RGB, -1, 0)[:, 4:] / 255, rtol=1e-6)
    assert stack.notes == ("transparent parts are laid on white",)


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    stack = single_image.read(picture(tmp_path / "a.png", RGB, "RGBA"))
    np.testing.assert_allclose(only(stack), np.moveaxis(RGB, -1, 0) / 255, rtol=1e-6)
    assert "dropped" in stack.notes[0]


def test_grey_with_alpha_stays_grey(tmp_path):
    assert only(single_image.read(picture(tmp_path / "a.png", RGB[..., 0], "LA"))).shape == (1, 9, 12)


def test_a_palette_is_its_colours(tmp_path):
    plane = only(single_image.read(picture(tmp_path / "a.png", np.repeat(RGB[:, :1], 12, axis=1), "P")))
    assert plane.shape == (3, 9, 12)


def test_a_picture_is_turned_as_its_camera_says_and_its_mask_lies_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stack = single_image.read(picture(tmp_path / "a.png", RGB, exif=exif))
    assert stack.shape == (12, 9)
    assert "EXIF" in stack.notes[0]
    np.testing.assert_allclose(only(stack), np.moveaxis(np.rot90(RGB, -1), -1, 0) / 255, rtol=1e-6)
    labels = RANDOM.integers(0, 3, (12, 9))
    volume.write_labels(single_image.on_grid(stack, {1: labels}), stack.source, tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), labels)


def test_the_pages_of_a_tiff_are_slices(tmp_path):
    pages = [Image.fromarray(RGB[..., k]) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    stack = single_image.read(tmp_path / "a.tif", slices=(2, 3))
    assert stack.numbers == (2, 3)
    np.testing.assert_allclose(stack.planes[1], RGB[..., 2][None] / 255, rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_a_corrupt_picture_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.png cannot be read"):
        single_image.read(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [30, 200, 400])
def test_a_truncated_picture_is_refused(tmp_path, kept):
    whole = picture(tmp_path / "b.png", RANDOM.integers(0, 256, (20, 20, 3), dtype=np.uint8)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:kept])
    with pytest.raises(UsageError, match=r"a\.png cannot be read"):
        single_image.read(tmp_path / "a.png")


def test_a_picture_too_large_to_be_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UsageError, match="cannot be read"):
        single_image.read(picture(tmp_path / "a.png", RGB))


# ---------------------------------------------------------------- scans


def test_slices_of_a_volume_count_from_one(tmp_path):
    array = RANDOM.normal(size=(8, 7, 5)).astype(np.float32)
    path = scan(tmp_path / "a.nii.gz", array)
    stack = single_image.read(path, slices=(2, 4))
    assert (stack.numbers, stack.axis, stack.shape) == ((2, 3, 4), 2, (7, 8))
    assert single_image.read(path).numbers == (1, 2, 3, 4, 5)
    upright = array[::-1, ::-1, 1].T  # the patient's right on the left, anterior on top
    low, high = np.percentile(upright, single_image.PERCENTILES)
    np.testing.assert_allclose(stack.planes[0][0], np.clip((upright - low) / (high - low), 0, 1), atol=1e-5)


def test_slices_run_along_the_widest_spacing(tmp_path):
    path = scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(4, 7, 8)), np.diag([6.0, 1.0, 1.0, 1.0]))
    assert single_image.read(path).axis == 0


def test_the_axis_of_one_voxel_is_across(tmp_path):
    stack = single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(6, 1, 8)), np.eye(4)))
    assert (stack.axis, len(stack.planes)) == (1, 1)


def test_channels_of_a_volume(tmp_path):
    stack = single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(6, 7, 2, 4))), slices=(1, 1))
    assert only(stack).shape == (4, 7, 6)


@pytest.mark.parametrize("slices", [(0, 1), (2, 6), (4, 2)])
def test_slices_that_are_not_there(tmp_path, slices):
    with pytest.raises(UsageError, match=r"1 to 5: slices count from 1(.|\n)*--slices 1:5"):
        single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(6, 7, 5))), slices=slices)


def test_a_window_in_the_image_s_own_values(tmp_path):
    array = np.array([-2000.0, -512.0, 0.0, 512.0, 3000.0, 100.0]).reshape(6, 1, 1) + np.zeros((6, 2, 1))
    plane = only(single_image.read(scan(tmp_path / "a.nii.gz", array), window=(-512, 512)))
    np.testing.assert_allclose(plane[0, 0, ::-1], [0, 0, 0.5, 1, 1, 612 / 1024], atol=1e-6)


def test_a_slice_without_a_finite_value_is_named(tmp_path):
    array = RANDOM.normal(size=(6, 7, 5))
    array[..., 3] = np.nan
    path = scan(tmp_path / "a.nii.gz", array)
    with pytest.raises(DataFault, match=r"slice 4 holds no finite value(.|\n)*--slices"):
        single_image.read(path)
    assert single_image.read(path, slices=(1, 3)).numbers == (1, 2, 3)


def test_values_that_are_not_finite_become_the_smallest(tmp_path):
    array = RANDOM.uniform(5, 9, size=(6, 7, 1))
    array[0, 0, 0], array[1, 0, 0] = np.nan, np.inf
    stack = single_image.read(scan(tmp_path / "a.nii.gz", array))
    assert only(stack)[0, -1, -1] == only(stack)[0, -1, -2] == 0
    assert stack.notes == ("slice 1: 2 values that are not finite became the smallest one",)


def test_a_constant_image_is_refused(tmp_path):
    with pytest.raises(DataFault, match="all pixels are alike"):
        single_image.read(picture(tmp_path / "a.png", np.full((5, 5), 77, dtype=np.uint8)))
    with pytest.raises(DataFault, match=r"alike between 500 and 900(.|\n)*widen --window"):
        single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(6, 7, 1))), window=(500, 900))


def test_constant_slices_among_others_are_left_empty(tmp_path):
    array = RANDOM.normal(size=(6, 7, 4))
    array[..., (0, 3)] = 2.0
    stack = single_image.read(scan(tmp_path / "a.nii.gz", array))
    assert stack.constant == (1, 4)
    assert "slices 1, 4" in stack.notes[-1]


def test_few_pixels_on_a_flat_ground_are_seen(tmp_path):
    array = np.zeros((30, 30, 1))
    array[3, 3] = 5.0  # beyond the percentiles
    assert only(single_image.read(scan(tmp_path / "a.nii.gz", array))).max() == 1


def test_one_pixel_high(tmp_path):
    plane = only(single_image.read(picture(tmp_path / "a.png", RGB[:1])))
    assert plane.shape == (3, 1, 12)
    assert single_image.resized(plane, 16).shape == (3, 16, 16)


def test_a_missing_file_and_a_foreign_format(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        single_image.read(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match="files of this format are not read"):
        single_image.read(tmp_path / "a.txt")


# ---------------------------------------------------------------- DICOM


def test_one_file_of_a_dicom_series(tmp_path, write_series):
    pixels = RANDOM.integers(0, 500, (6, 5, 3)).astype(np.int16)
    files = write_series(tmp_path / "scan", pixels, names=["a.dcm", "b.dcm", "plain"])
    whole = single_image.read(tmp_path / "scan")
    for k, file in enumerate(files):
        one = single_image.read(file)
        np.testing.assert_array_equal(only(one), whole.planes[k])
        assert one.shape == whole.shape == (5, 6)
        mask = volume.write_labels(
            single_image.on_grid(one, {1: np.eye(5, 6, dtype=int)}), one.source, tmp_path / "m.nii.gz"
        )
        there = volume.read(tmp_path / "scan").affine
        np.testing.assert_allclose(volume.read(mask).affine[:3, :2], there[:3, :2], atol=1e-5)
        np.testing.assert_allclose(volume.read(mask).affine[:3, 3], (there @ [0, 0, k, 1])[:3], atol=1e-4)


def test_a_dicom_segmentation_and_a_broken_slice_are_refused(tmp_path, write_series):
    (segmentation,) = write_series(tmp_path / "seg", np.ones((6, 5, 1), dtype=np.int16), tags={"0008|0060": "SEG"})
    with pytest.raises(DataFault, match="is a DICOM SEG object"):
        single_image.read(segmentation)
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(DataFault, match=r"a\.dcm cannot be read"):
        single_image.read(tmp_path / "a.dcm")


def test_a_dicom_file_of_many_frames_that_state_their_places(tmp_path, write_series):
    import SimpleITK as sitk  # noqa: N813

    write_series(tmp_path / "any", np.ones((6, 5, 1), dtype=np.int16))  # for the locale that it restores
    frames = np.arange(90, dtype=np.uint8).reshape(3, 5, 6)
    image = sitk.GetImageFromArray(frames)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    stack = single_image.read(tmp_path / "a.dcm")
    assert (stack.numbers, stack.spacing_mm) == ((1, 2, 3), (0.75, 0.5))
    np.testing.assert_allclose(
        stack.source.affine, np.diag([-0.5, -0.75, 3.0, 1]) + np.outer((-1, -2, 3, 0), (0, 0, 0, 1))
    )
    scan = volume.read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array[::-1, ::-1], frames.T)


# ---------------------------------------------------------------- sizes, and back on the grid


def test_resizing_smooths_where_it_shrinks():
    chequers = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)[None]
    assert np.abs(single_image.resized(chequers, 16) - 0.5).max() < 0.05
    assert single_image.resized(chequers, None) is chequers


def test_resizing_stays_in_range():
    step = np.zeros((1, 8, 8), dtype=np.float32)
    step[..., 4:] = 1
    large = single_image.resized(step, 64)
    assert (large.min(), large.max()) == (0, 1)


def test_shrinking_keeps_the_proportions():
    assert single_image.shrunk(np.zeros((3, 40, 80), dtype=np.float32), 20).shape == (3, 10, 20)
    assert single_image.shrunk(np.zeros((3, 1, 80), dtype=np.float32), 20).shape == (3, 1, 20)
    assert single_image.shrunk(np.zeros((3, 4, 8), dtype=np.float32), 20).shape == (3, 4, 8)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_enlarged_and_brought_back_labels_are_the_same(h, w, more, wider):
    labels = np.arange(h * w).reshape(h, w)
    large = single_image.nearest(labels, (h + more, w + wider))
    np.testing.assert_array_equal(single_image.nearest(large, (h, w)), labels)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_label_maps_come_back_where_the_pixels_were(tmp_path, axes):
    affine = np.zeros((4, 4))
    affine[axes, range(3)], affine[3, 3] = (-1.0, 2.0, 7.0), 1
    array = RANDOM.integers(0, 9, (6, 7, 3)).astype(np.int16)
    path = scan(tmp_path / "a.nii.gz", array, affine)
    stack = single_image.read(path, slices=(2, 3))
    planes = single_image.read_labels(path, stack)  # the values themselves as labels
    written = volume.write_labels(single_image.on_grid(stack, planes), stack.source, tmp_path / "labels.nii.gz")
    back = nibabel.load(written)
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    expected = array.copy()
    expected[:, :, 0] = 0
    np.testing.assert_array_equal(np.asarray(back.dataobj), expected)
    np.testing.assert_array_equal(planes[3], single_image.read_labels(written, stack)[3])


@pytest.mark.parametrize("other", [np.diag([-1.0, 1.0, 4.0, 1.0]), np.diag([2.0, 1.0, 4.0, 1.0])])
def test_a_label_map_that_lies_elsewhere_is_refused(other, tmp_path):
    stack = single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.integers(0, 9, (6, 7, 3)).astype(np.int16)))
    labels = RANDOM.integers(0, 2, (6, 7, 3)).astype(np.uint8)
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = 5
    there = single_image.read_labels(scan(tmp_path / "b.nii.gz", labels), stack)
    same = single_image.read_labels(
        scan(tmp_path / "c.nii.gz", labels[::-1], np.diag([1.0, 1.0, 4.0, 1.0]) @ turned), stack
    )
    np.testing.assert_array_equal(there[1], same[1])
    with pytest.raises(DataFault, match=r"d\.nii\.gz and \S+a\.nii\.gz lie \S+ mm apart"):
        single_image.read_labels(scan(tmp_path / "d.nii.gz", labels, other), stack)


def test_label_maps_of_pictures_are_not_mirrored(tmp_path):
    stack = single_image.read(picture(tmp_path / "a.png", RGB))
    labels = np.zeros((9, 12), dtype=int)
    labels[1, 2] = 5
    path = volume.write_labels(single_image.on_grid(stack, {1: labels}), stack.source, tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)
    np.testing.assert_array_equal(single_image.read_labels(path, stack)[1], labels)


def test_label_maps_of_another_image_are_refused(tmp_path):
    stack = single_image.read(picture(tmp_path / "a.png", RGB))
    with pytest.raises(DataFault, match="on the image's own grid"):
        single_image.read_labels(picture(tmp_path / "b.png", RGB[:5, :, 0]), stack)
    with pytest.raises(DataFault, match=r"c\.png holds 3 values per voxel"):
        single_image.read_labels(picture(tmp_path / "c.png", RGB), stack)
    image = single_image.read(scan(tmp_path / "a.nii.gz", RANDOM.normal(size=(6, 7, 1))))
    with pytest.raises(DataFault, match="from an integer"):
        single_image.read_labels(tmp_path / "a.nii.gz", image)


def test_the_images_of_a_folder(tmp_path, write_series):
    picture(tmp_path / "b.png", RGB)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / ".hidden.png").write_text("text")
    write_series(tmp_path, np.ones((6, 5, 1), dtype=np.int16), names=["a"])
    assert [path.name for path in single_image.images_in(tmp_path)] == ["a", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        single_image.images_in(tmp_path / "empty")
    with pytest.raises(UsageError, match="is not a folder"):
        single_image.images_in(tmp_path / "b.png")


@pytest.mark.slow
def test_reading_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys, lemis.one_image.single_image, lemis.measure.clusters, lemis.reporting.overlay; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux only")
def test_a_name_that_is_not_utf_8_is_refused_and_shown_by_its_escapes(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.png"))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(file)
    with pytest.raises(DataFault, match=r"odd\\udcff\.png: its name is not UTF-8"):
        single_image.read(file)
