"""NRRD and MetaImage files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from lemis.formats import volume
from lemis.formats.paths import suffix_of
from scans_on_disk import affine_of, write

RANDOM = np.random.default_rng(0)
SHAPE = (4, 5, 6)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_and_nifti_files_of_one_scan_agree_in_the_world(suffix: str, tmp_path: Path) -> None:
    affine = affine_of((1, 0, 2), (-1, 1, -1), (1.0, 2.0, 3.0))
    array = RANDOM.integers(0, 99, SHAPE).astype(np.int16)
    write(array, affine, tmp_path / "a.nii.gz")
    write(array, affine, tmp_path / f"b{suffix}")
    one, other = volume.read(tmp_path / "a.nii.gz"), volume.read(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)


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


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_label_maps_carry_no_keys_of_the_scan(suffix: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(RANDOM.integers(0, 99, SHAPE[::-1]).astype(np.int16))
    image.SetMetaData("PatientName", "DOE^JOHN")
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert b"DOE" in (tmp_path / f"a{suffix}").read_bytes()
    volume.write_labels(np.ones(SHAPE, int), volume.read_header(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}")
    assert b"DOE" not in (tmp_path / f"b{suffix}").read_bytes()
