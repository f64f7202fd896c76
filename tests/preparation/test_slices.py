"""Slices of the canonical array: which way they are turned, and back."""

import numpy as np
import pytest

from lemis.preparation.slices import InPlane, in_plane, slices_first, slices_last


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_slices_first_is_undone_exactly(slice_axis, shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    slices = slices_first(array, slice_axis)
    assert len(slices) == shape[slice_axis]
    np.testing.assert_array_equal(slices_last(slices, slice_axis), array)


def test_an_axial_slice_is_upright_in_the_radiological_way():
    volume = np.zeros((5, 7, 3))  # x grows to the right, y to the front, z upwards
    volume[:, -1] = 1  # the front
    volume[-1] += 2  # the patient's right
    picture = slices_first(volume, 2)[0]
    assert picture.shape == (7, 5)
    assert (picture[0] >= 1).all()
    assert (picture[1:, 0] == 2).all()
    assert (picture[1:, 1:] == 0).all()


@pytest.mark.parametrize("slice_axis", [0, 1])
def test_coronal_and_sagittal_slices_have_superior_on_top(slice_axis):
    volume = np.zeros((5, 6, 7))
    volume[:, :, -1] = 1
    assert (slices_first(volume, slice_axis)[:, 0] == 1).all()


def test_in_plane_size_and_spacing_are_those_of_the_slices():
    plane = in_plane((4, 5, 6), (1.0, 2.0, 3.0), 0)
    assert plane == InPlane((6, 5), (3.0, 2.0))
    assert slices_first(np.zeros((4, 5, 6)), 0).shape[1:] == plane.shape
