"""Resampling: against scipy and slow versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from how_many import examples
from lemis.preparation.resampling import resample_in_plane, resample_label, resample_slices, resampled_shape

sizes = st.integers(1, 40)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(41, 17), (20, 30), (31, 30), (8, 9)])
def test_resampling_equals_scipy_on_the_whole_array(order, shape):
    image = np.random.default_rng(0).normal(size=(2, 3, 31, 25))
    factors = (1, 1, shape[0] / 31, shape[1] / 25)
    slow = ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    fast = resample_in_plane(image, shape, order=order)
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, slow, atol=2e-5)


def test_resampling_to_the_same_shape_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    np.testing.assert_array_equal(resample_in_plane(image, (9, 8)), image)


@given(sizes, sizes, sizes, sizes)
@examples(40)
def test_a_constant_stays_constant_at_any_size(rows, cols, new_rows, new_cols):
    image = np.full((1, rows, cols), 7.0)
    out = resample_in_plane(image, (new_rows, new_cols))
    np.testing.assert_allclose(out, np.full((1, new_rows, new_cols), 7.0), rtol=1e-5)


def test_a_ramp_in_millimetres_stays_where_it_is():
    # Pixel centres at (i + 0.5) * mm from the edge: the grids share their edges, not their first centres.
    ramp = (np.arange(40) + 0.5) * 1.5
    out = resample_in_plane(np.tile(ramp, (1, 2, 1)), (2, 48), order=1)[0, 0]
    np.testing.assert_allclose(out[2:-2], ((np.arange(48) + 0.5) * 1.25)[2:-2], rtol=1e-5)


def test_antialias_damps_what_the_new_grid_cannot_hold():
    stripes = np.tile(np.arange(64) % 2, (1, 64, 1)).astype(np.float32)
    plain = resample_in_plane(stripes, (64, 20))
    smooth = resample_in_plane(stripes, (64, 20), antialias=True)
    assert smooth.std() < 0.5 * plain.std()
    np.testing.assert_array_equal(
        resample_in_plane(stripes, (64, 90), antialias=True),
        resample_in_plane(stripes, (64, 90)),
    )


def test_new_shape_is_the_papers():
    assert resampled_shape((216, 256), (1.5625, 1.5625), 1.25) == (270, 320)
    assert resampled_shape((1, 1), (0.1, 0.1), 10.0) == (1, 1)


def slow_label(label, shape):
    values = np.unique(label)
    factors = (1, shape[0] / label.shape[1], shape[1] / label.shape[2])
    shares = [
        ndimage.zoom((label == value).astype(float), factors, order=1, mode="nearest", grid_mode=True)
        for value in values
    ]
    return values[np.argmax(np.round(shares, 5), axis=0)]


@given(st.integers(0, 10**6), st.tuples(sizes, sizes), st.tuples(sizes, sizes))
@examples(60)
def test_label_resampling_equals_one_hot_linear_argmax(seed, old, new):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (2, *old)).astype(np.uint8)
    label[:, : old[0] // 2] = 0
    out = resample_label(label, new)
    assert out.dtype == label.dtype
    np.testing.assert_array_equal(out, slow_label(label, new))


def test_nearest_label_equals_scipy():
    label = np.random.default_rng(0).integers(0, 5, (2, 21, 16)).astype(np.uint8)
    out = resample_label(label, (33, 11), interpolation="nearest")
    slow = ndimage.zoom(label, (1, 33 / 21, 11 / 16), order=0, mode="nearest", grid_mode=True)
    np.testing.assert_array_equal(out, slow)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("slices", [5, 9, 20])
def test_resampling_through_plane_equals_scipy_on_the_whole_array(order, slices):
    image = np.random.default_rng(0).normal(size=(9, 2, 12, 10))
    slow = ndimage.zoom(image, (slices / 9, 1, 1.5, 0.5), order=order, mode="nearest", grid_mode=True)
    plane = resample_in_plane(image, (18, 5), order=order)
    fast = resample_slices(plane, slices, order=order)
    assert fast.dtype == np.float32
    np.testing.assert_allclose(fast, slow, atol=2e-5)


def test_slices_share_their_outer_edges():
    ramp = (np.arange(20) + 0.5) * 5.0
    out = resample_slices(np.tile(ramp[:, None, None], (1, 2, 2)), 50, order=1)[:, 0, 0]
    np.testing.assert_allclose(out[3:-3], ((np.arange(50) + 0.5) * 2.0)[3:-3], rtol=1e-5)


def test_antialias_works_through_plane_too():
    stripes = np.tile((np.arange(64) % 2)[:, None, None], (1, 3, 3)).astype(np.float32)
    plain = resample_slices(stripes, 20)
    assert resample_slices(stripes, 20, antialias=True).std() < 0.5 * plain.std()


@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 16)] * 3), st.tuples(*[st.integers(1, 16)] * 3))
@examples(60)
def test_resampling_a_label_volume_equals_one_hot_linear_argmax(seed, old, new):
    label = np.random.default_rng(seed).integers(0, 4, old).astype(np.uint8)
    label[: old[0] // 2] = 0
    factors = [after / before for before, after in zip(old, new, strict=True)]
    shares = [
        ndimage.zoom((label == value).astype(float), factors, order=1, mode="nearest", grid_mode=True)
        for value in range(4)
    ]
    order = np.sort(shares, axis=0)
    clear = order[-1] - order[-2] > 1e-5  # a tie in exact numbers is not one in float32
    out = resample_label(label, new)
    assert out.shape == new
    np.testing.assert_array_equal(out[clear], np.argmax(shares, axis=0)[clear])


def test_nearest_label_volume_equals_scipy():
    label = np.random.default_rng(0).integers(0, 5, (7, 21, 16)).astype(np.uint8)
    out = resample_label(label, (12, 33, 11), interpolation="nearest")
    slow = ndimage.zoom(label, (12 / 7, 33 / 21, 11 / 16), order=0, mode="nearest", grid_mode=True)
    np.testing.assert_array_equal(out, slow)
