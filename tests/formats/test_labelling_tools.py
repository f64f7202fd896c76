"""Label maps for ITK-SNAP and 3D Slicer: names, values, colours, and every voxel where it was."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation

from lemis.formats import itksnap, labels, volume

STRUCTURES = {"left ventricle": 3, "RV": 1, "absent": 7}
COLOURS = {"left ventricle": "#ff0080", "RV": "#00ff00", "absent": "#102030"}


def oblique(stored: str) -> np.ndarray:
    """(4, 4) of 1.5 x 2 x 5 mm voxels in a turned frame, in the order of these axes."""
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 2.0, 5.0])
    affine[:3, 3] = [-40, 25, 300]
    turned: np.ndarray = affine @ inv_ornt_aff(axcodes2ornt(tuple(stored)), (7, 8, 9))
    return turned


def scan(folder: Path, stored: str = "LPS") -> Path:
    path = folder / "scan.nii.gz"
    shape = tuple({"L": 7, "R": 7, "P": 8, "A": 8, "S": 9, "I": 9}[axis] for axis in stored)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), oblique(stored)), path)
    return path


def marked(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([0, 1, 3], np.uint8), shape)


@pytest.mark.parametrize("stored", ["RAS", "LPS", "SRA", "IPR"])
def test_a_segmentation_lies_where_the_scan_does(tmp_path: Path, stored: str) -> None:
    grid = volume.read_header(scan(tmp_path, stored))
    wanted = marked(grid.canonical_shape)
    path = volume.write_segmentation(wanted, grid, STRUCTURES, COLOURS, tmp_path / "a.seg.nrrd")
    found = labels.read(path, grid.axes, grid, {"background": 0, **STRUCTURES})
    assert np.array_equal(found.array, wanted)
    assert np.allclose(found.affine, grid.canonical_affine, atol=1e-4)
    assert found.source.segments == STRUCTURES
    assert io_orientation(volume.read_header(path).affine).tolist() == io_orientation(grid.affine).tolist()


def test_slicer_is_told_names_values_and_colours(tmp_path: Path) -> None:
    grid = volume.read_header(scan(tmp_path))
    path = volume.write_segmentation(marked(grid.canonical_shape), grid, STRUCTURES, COLOURS, tmp_path / "a.seg.nrrd")
    image = sitk.ReadImage(str(path))
    told = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [told[f"Segment{n}_Name"] for n in range(3)] == ["RV", "left ventricle", "absent"]  # in order of values
    assert [told[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", "3", "7"]
    assert told["Segment1_Color"] == "1.0000 0.0000 0.5020"
    assert told["Segment0_Extent"] == "0 6 0 7 0 8"
    assert len({told[f"Segment{n}_ID"] for n in range(3)}) == 3
    assert told["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert told["Segmentation_MasterRepresentation"] == told["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert image.GetDimension() == 3


def test_itk_snap_is_told_names_and_colours() -> None:
    text = itksnap.description({**STRUCTURES, 'a "b"': 9}, {**COLOURS, 'a "b"': "#000000"})
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    form = r"\s*" + r"(\d+)\s+" * 4 + r"([01])\s+" * 3 + '"(.*)"'
    found = [re.fullmatch(form, line) for line in lines]
    rows = [match.groups() for match in found if match]
    assert len(rows) == len(lines) == 5
    assert rows[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    assert rows[1] == ("1", "0", "255", "0", "1", "1", "1", "RV")
    assert rows[2] == ("3", "255", "0", "128", "1", "1", "1", "left ventricle")
    assert rows[4][-1] == "a 'b'"
