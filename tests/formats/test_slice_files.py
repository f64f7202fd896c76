"""Scans in one file per slice: in order, complete, and on the grid that the files state."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from lemis.errors import DataFault
from lemis.formats import volume
from lemis.formats.grids import is_sheared
from lemis.formats.paths import label_suffix

RANDOM = np.random.default_rng(0)

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


def test_a_series_that_no_scanner_makes(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 2, 1, 5000), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataFault, match=r"a\.nii\.gz holds 5000 volumes"):
        volume.read_header(tmp_path / "a.nii.gz")
