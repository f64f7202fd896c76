"""Scans are known again by their content, whatever file, name, type and header they are stored with."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from lemis.datasets.scans import image_digest, label_digest
from lemis.formats import volume

SCAN = np.random.default_rng(3).integers(0, 300, (4, 5, 6)).astype(np.int16)
TURNS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]


def turned(array: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    return array.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]


@pytest.mark.parametrize("turn", TURNS)
def test_a_scan_is_the_same_however_it_is_turned(turn):
    assert image_digest([turned(SCAN, *turn)]) == image_digest([SCAN])


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.float64, ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_type_in_memory_does_not_matter(kind, order):
    other = np.asarray(SCAN, dtype=kind, order=order)
    assert image_digest([other]) == image_digest([SCAN])


def test_the_files_do_not_matter(tmp_path: Path):
    affine = np.diag([-0.7, 0.8, 5.0, 1.0])
    affine[:3, 3] = 4.0, -9.0, 30.0
    nibabel.save(nibabel.Nifti1Image(SCAN, affine), tmp_path / "patient.nii.gz")
    nibabel.save(nibabel.Nifti1Image(SCAN.astype(np.float32), np.eye(4)), tmp_path / "x.nii")  # as careless tools do
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(SCAN.T)), str(tmp_path / "renamed.mha"))
    digests = {image_digest([volume.read(file).array]) for file in tmp_path.iterdir()}
    assert digests == {image_digest([SCAN])}


def test_channels_in_one_file_are_those_in_several():
    channels = [SCAN, SCAN[::-1] + 1]
    assert image_digest([np.stack(channels, axis=3)]) == image_digest(channels)
    assert image_digest(channels[::-1]) != image_digest(channels)


def test_zero_has_one_sign():
    assert image_digest([np.full((1, 2, 2), -0.0)]) == image_digest([np.zeros((1, 2, 2))])


@given(st.integers(0, SCAN.size - 1), st.integers(-3, 3).filter(bool))
def test_one_voxel_makes_another_scan(place, change):
    other = SCAN.copy()
    other.flat[place] += change
    assert image_digest([other]) != image_digest([SCAN])


@given(st.permutations(range(6)))
def test_slices_in_another_order_make_another_scan(order):
    shuffled = SCAN[:, :, order]
    alike = order in (sorted(order), sorted(order, reverse=True))
    assert (image_digest([shuffled]) == image_digest([SCAN])) == alike


def test_the_same_values_in_another_shape_are_another_scan():
    assert image_digest([SCAN.reshape(4, 6, 5)]) != image_digest([SCAN])


def test_pictures_of_two_values_differ():
    pictures = np.random.default_rng(1).integers(0, 2, (1000, 8, 8, 1)).astype(np.uint8)
    assert len({image_digest([picture]) for picture in pictures}) == 1000


@pytest.mark.parametrize(
    ("box", "tells"),
    [
        ((slice(0), slice(0), slice(0)), False),
        ((slice(None), slice(None), slice(None)), False),  # a patch of tissue that is all of one kind
        ((slice(4, 6), slice(3, 5), slice(2, 4)), False),  # a spot of 2 x 2 x 2 voxels
        ((slice(4, 9), slice(3, 8), slice(2, 4)), True),
    ],
)
def test_a_label_tells_whose_it_is_only_by_what_is_not_alike_in_many(box: tuple[slice, ...], tells: bool) -> None:
    label = np.zeros((12, 11, 6), np.uint8)
    label[box] = 1
    assert label_digest(label) == (image_digest([label]) if tells else "")
