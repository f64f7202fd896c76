"""Files in and out: every format comes back on its own grid; what cannot be used is refused with a reason."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import directions, nifti, volume
from lemis.formats.faults import unreadable
from lemis.formats.source import Source
from scans_on_disk import affine_of, write

RANDOM = np.random.default_rng(0)
SHAPE = (4, 5, 6)
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


@given(orientation=orientations, axis=st.integers(0, 2), data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_slice_is_found_in_the_array_of_the_file_and_back(
    orientation: tuple, axis: int, data: st.DataObject, tmp_path: Path
) -> None:
    write(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), affine_of(*orientation), tmp_path / "scan.nii")
    scan = volume.read(tmp_path / "scan.nii")
    number = data.draw(st.integers(0, scan.array.shape[axis] - 1))
    stored_axis, stored_number = scan.source.stored_slice(axis, number)
    stored = np.asarray(nibabel.load(tmp_path / "scan.nii").dataobj)
    shown, kept = np.take(scan.array, number, axis), np.take(stored, stored_number, stored_axis)
    assert sorted(shown.ravel()) == sorted(kept.ravel())
    assert scan.source.canonical_slice(stored_axis, stored_number) == (axis, number)


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


def test_the_whole_reason_is_told(tmp_path: Path) -> None:
    fault = unreadable(tmp_path / "a.nii", OSError("Expected 48 bytes, got 20\n - could the file be damaged?"))
    assert fault.given.endswith("cannot be read: Expected 48 bytes, got 20 - could the file be damaged?")
    fault = unreadable(tmp_path / "a.mha", RuntimeError("Exception thrown\nitk::ERROR: MetaImageIO(0x1): no size"))
    assert fault.given.endswith("cannot be read: itk::ERROR: MetaImageIO(0x1): no size")
