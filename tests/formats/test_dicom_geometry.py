"""Where the voxels of a DICOM series lie: as SimpleITK says, except where it is known to misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

import dicoms
from lemis.errors import DataFault
from lemis.formats import volume

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(10, 2000, (6, 4, 5)).astype(np.uint16)
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def directions(angles: tuple[float, float, float]) -> np.ndarray:
    """Columns: row direction, column direction, normal."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
        matrix = turn @ matrix
    return matrix


def texts(numbers: np.ndarray) -> list[str]:
    """As a scanner writes them: at most 16 characters."""
    return [f"{number:.9f}"[:16] for number in numbers]


def affine_of_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(4, 4) voxel -> mm RAS, and values (columns, rows, slices)."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return TO_RAS @ affine, sitk.GetArrayFromImage(image).T


@settings(deadline=None, max_examples=25)  # files are written: how long that takes is the disk's matter
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6.0)] * 3),
    start=st.tuples(*[st.floats(-300, 300)] * 3),
    order=st.permutations(range(5)),
    numbers=st.permutations(range(5)),
    backwards=st.booleans(),
)
def test_place_of_every_voxel(tmp_path_factory, angles, spacing, start, order, numbers, backwards) -> None:
    folder = tmp_path_factory.mktemp("series")
    turn = directions(angles)
    step = turn[:, 2] * spacing[2] * (-1 if backwards else 1)
    dicoms.write(
        folder,
        PIXELS[:, :, list(order)],
        names=[f"IM{number}" for number in numbers],
        each=lambda z: {
            "ImagePositionPatient": texts(np.array(start) + order[z] * step),
            "InstanceNumber": numbers[z] + 1,
            "SOPInstanceUID": f"1.2.3.{z + 1}",
        },
        ImageOrientationPatient=texts(turn[:, :2].T.ravel()),
        PixelSpacing=texts(np.array([spacing[1], spacing[0]])),
        SliceThickness=9,  # of no matter for where slices lie
    )
    theirs, values = affine_of_simpleitk(folder)
    ours = volume.read(folder)
    assert ours.source.shape == (6, 4, 5)
    np.testing.assert_allclose(ours.source.affine, theirs, atol=2e-5)
    # By way of millimetres, so that the order of axes and slices says nothing by itself.
    voxels = np.stack(np.meshgrid(*map(range, ours.array.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    places = ours.affine @ np.c_[voxels, np.ones(len(voxels))].T
    there = np.rint(np.linalg.inv(theirs) @ places).astype(int)[:3]
    np.testing.assert_array_equal(ours.array.reshape(-1), values[tuple(there)])
    planned = np.array(start) + turn[:, 0] * spacing[0] * 3 + turn[:, 1] * spacing[1] * 2 + step
    voxel = np.rint(np.linalg.inv(ours.affine) @ (*(planned * (-1, -1, 1)), 1.0)).astype(int)[:3]
    assert ours.array[tuple(voxel)] == PIXELS[3, 2, 1]


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 30.0])
def test_a_tilted_gantry_is_a_shear(tmp_path: Path, degrees: float) -> None:
    """SimpleITK makes the directions orthogonal, and puts the last slice somewhere else."""
    tilt = np.radians(degrees)
    column = [0.0, np.cos(tilt), np.sin(tilt)]
    dicoms.write(
        tmp_path,
        PIXELS,
        each=lambda z: {"ImagePositionPatient": [-10, -20, 5 + 3 * z]},
        ImageOrientationPatient=texts(np.array([1.0, 0, 0, *column])),
    )
    affine = volume.read_header(tmp_path).affine
    last = TO_RAS @ affine @ (0, 0, 4, 1)
    np.testing.assert_allclose(last[:3], (-10, -20, 17 if affine[2, 2] > 0 else 5), atol=1e-6)
    np.testing.assert_allclose(np.abs(affine[:3, 2]), (0, 0, 3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), (0.5, 0.75), atol=1e-6)


@pytest.mark.parametrize(("off_mm", "refused"), [(0.04, False), (0.2, True), (3.0, True)])
def test_slices_shifted_against_each_other(tmp_path: Path, off_mm: float, refused: bool) -> None:
    """SimpleITK looks at the first and the last slice only."""
    dicoms.write(
        tmp_path, PIXELS, each=lambda z: {"ImagePositionPatient": [f"{-10 + off_mm * (z == 2):.6f}", -20, 5 + 2 * z]}
    )
    if refused:
        with pytest.raises(DataFault, match=rf"2\.dcm lies {off_mm:.2f} mm beside the straight line from 0\.dcm"):
            volume.read_header(tmp_path)
    else:
        np.testing.assert_allclose(volume.read_header(tmp_path).spacing_mm, (0.5, 0.75, 2.0), atol=1e-6)


def test_slices_of_two_frames_of_reference(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, each=lambda z: {"FrameOfReferenceUID": f"1.2.{z // 3}"})
    (tmp_path / "some").mkdir()
    dicoms.write(tmp_path / "some", PIXELS, each=lambda z: {"FrameOfReferenceUID": "1.2.0" if z % 2 else None})
    assert volume.read_header(tmp_path / "some").shape == (6, 4, 5)
    with pytest.raises(DataFault, match=r"3\.dcm and 0\.dcm differ in Frame of Reference UID(.|\n)*moved"):
        volume.read_header(tmp_path)


def test_uneven_slices_are_refused_where_simpleitk_averages(tmp_path: Path) -> None:
    dicoms.write(tmp_path, PIXELS, each=lambda z: {"ImagePositionPatient": [0, 0, (0, 2, 4, 7, 9)[z]]})
    with pytest.raises(DataFault, match=r"a gap of 3\.00 mm"):
        volume.read_header(tmp_path)
