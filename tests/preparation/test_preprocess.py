"""Preparation of arrays: against slow versions, and every way there against the way back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lemis.errors import DataFault, UsageError
from lemis.preparation import preprocess
from lemis.preparation.classes import from_classes, to_classes
from lemis.preparation.crops import FieldOfView, crop_field, extent_mm, field_of_view, uncrop_field
from lemis.preparation.facts import inside_field
from lemis.preparation.intensities import normalise
from lemis.preparation.resampling import resample_in_plane, resample_label, resample_slices, resampled_shape
from lemis.preparation.settings import Settings, as_stored, settle
from lemis.preparation.slices import InPlane, in_plane, slices_first, slices_last
from lemis.settings import plain, resolve

sizes = st.integers(1, 40)


def settled(**changes):
    return settle(resolve(Settings, changes), [InPlane((30, 20), (1.0, 1.0))])


def described(shape, scan_mm=(1.0, 1.0, 1.0), slice_axis=2, label="label.nii", **changes):
    return preprocess.describe(
        id="a_ED",
        subject="a",
        images=("image.nii",),
        label=label,
        shape=shape,
        spacing_mm=scan_mm,
        slice_axis=slice_axis,
        settings=settled(**changes),
    )


# slices and volumes


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


# resampling


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
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


# resampling through-plane


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
@settings(max_examples=60, deadline=None)
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


# intensity


def test_z_score_is_per_channel_over_the_whole_volume():
    image = np.random.default_rng(0).normal([[[[3.0]], [[-50.0]]]], [[[[2.0]], [[9.0]]]], (6, 2, 20, 20))
    out, facts = normalise(image.astype(np.float32))
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(0, 2, 3)), 1, atol=1e-5)
    assert abs(out[0].mean(axis=(1, 2))).max() > 0  # not per slice
    assert facts[1].mean == pytest.approx(image[:, 1].mean(), rel=1e-5)
    assert facts[1].std == pytest.approx(image[:, 1].std(), rel=1e-5)
    assert facts[0].low is None


def test_clipping_comes_before_the_z_score():
    image = np.random.default_rng(0).normal(size=(4, 1, 30, 30)).astype(np.float32)
    image[0, 0, 0, 0] = 1000
    out, (facts,) = normalise(image, (1.0, 99.0))
    low, high = np.percentile(image, (1, 99))
    assert (facts.low, facts.high) == (pytest.approx(low), pytest.approx(high))
    clipped = np.clip(image, low, high)
    np.testing.assert_allclose(out, (clipped - clipped.mean()) / clipped.std(), atol=1e-5)


def test_clipping_by_value_is_in_stored_units():
    image = np.random.default_rng(0).normal(100, 400, size=(3, 2, 9, 9)).astype(np.float32)
    out, facts = normalise(image, clip_values=(-200.0, 250.0))
    clipped = np.clip(image, -200, 250)
    mean, std = clipped.mean(axis=(0, 2, 3), keepdims=True), clipped.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, (clipped - mean) / std, atol=1e-5)
    assert [(one.low, one.high) for one in facts] == [(-200, 250)] * 2


def test_a_constant_channel_is_refused():
    with pytest.raises(DataFault, match=r"channel 1 is constant \(4\)"):
        normalise(np.stack([np.random.default_rng(0).normal(size=(2, 3, 3)), np.full((2, 3, 3), 4)], 1))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataFault, match="channel 0 holds values that are not finite"):
        normalise(np.full((1, 1, 2, 2), np.nan))


# field of view


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
@settings(max_examples=100, deadline=None)
def test_field_of_view_is_central_and_undone(shape, size):
    array = np.arange(1, shape[0] * shape[1] + 1).reshape(1, *shape)
    field = field_of_view(shape, size)
    crop = crop_field(array, field)
    assert crop.shape == (1, *size)
    back = uncrop_field(crop, field, shape)
    kept = uncrop_field(np.ones((1, *size), bool), field, shape)
    np.testing.assert_array_equal(back, np.where(kept, array, 0))
    for axis in (0, 1):
        before = np.array([field.row0, field.col0])[axis]
        after = shape[axis] - before - size[axis]
        assert abs(before - after) <= 1
    assert kept.sum() == min(shape[0], size[0]) * min(shape[1], size[1])


def test_no_field_is_the_whole_slice():
    assert field_of_view((5, 6), None) == FieldOfView(row0=0, col0=0, height=5, width=6)


def test_extent_reaches_the_outermost_labelled_pixel():
    label = np.zeros((20, 30, 4), int)
    label[9:12, 25, 1] = 3  # y: its outer edge is 26 - 15 = 11 pixels from the middle, x: 2
    assert extent_mm(label, (1.0, 2.0, 8.0), 2) == 22.0
    assert extent_mm(np.zeros((4, 4, 4)), (1.0, 1.0, 1.0), 2) == 0.0


@given(st.integers(0, 29), st.integers(0, 19), st.floats(0.5, 3))
@settings(max_examples=60, deadline=None)
def test_auto_field_holds_every_structure_and_is_a_multiple_of_sixteen(row, col, target):
    label = np.zeros((20, 30, 2), int)
    label[col, row, 1] = 1
    extent = extent_mm(label, (1.5, 1.5, 9.0), 2)
    asked = Settings(spacing_mm=target, field_of_view_mm="auto")
    chosen = settle(asked, [in_plane(label.shape, (1.5, 1.5, 9.0), 2)], [extent])
    facts = preprocess.describe(
        id="a", subject="a", images=("a",), label="a", shape=label.shape, spacing_mm=(1.5, 1.5, 9.0),
        slice_axis=2, settings=chosen,
    )  # fmt: skip
    assert facts.prepared_shape[0] == facts.prepared_shape[1]
    assert facts.prepared_shape[0] % 16 == 0
    whole = resample_label((slices_first(label, 2) > 0).astype(np.uint8), facts.resampled_shape)
    assert crop_field(whole, facts.field).sum() == whole.sum()


def test_auto_field_is_not_larger_than_it_need_be():
    planes = [InPlane((256, 256), (1.0, 1.0))]
    auto = Settings(spacing_mm=1.0, field_of_view_mm="auto")
    assert settle(auto, planes, [40.0, 20.0]).field_of_view_mm == 96  # 2 * 40 * 1.1 = 88
    assert settle(auto, planes, [125.0]).field_of_view_mm == 256  # 275 would be more than the slice


def test_auto_field_without_labels_is_the_whole_slice():
    asked = Settings(field_of_view_mm="auto")
    assert settle(asked, [InPlane((8, 8), (1.0, 1.0))]).field_of_view_mm is None


# settings


def test_spacing_is_the_median_of_the_data_set():
    planes = [InPlane((9, 9), (1.0, 1.0)), InPlane((9, 9), (2.0, 2.0)), InPlane((9, 9), (1.5, 1.5))]
    assert settle(Settings(), planes).spacing_mm == 1.5


@pytest.mark.parametrize("asked", [{}, {"spacing_mm": "native"}, {"clip_percentiles": [1, 99], "field_of_view_mm": 90}])
def test_settled_settings_survive_storing(asked):
    chosen = settled(**asked)
    assert resolve(Settings, json.loads(json.dumps(plain(chosen)))) == chosen


def test_what_volumes_added_is_stored_where_it_is_used_only():
    assert as_stored(settled()) == {
        "spacing_mm": 1.0,
        "field_of_view_mm": None,
        "normalise": "zscore",
        "clip_percentiles": None,
        "image_order": 3,
        "label_interpolation": "linear",
        "antialias": False,
    }
    volumes = settled(whole_px=[4, 5, 6], clip_values=[-1, 2])
    stored = as_stored(volumes)
    assert (stored["whole_px"], stored["clip_values"]) == ([4, 5, 6], [-1.0, 2.0])
    assert "slice_spacing_mm" not in stored
    assert resolve(Settings, json.loads(json.dumps(stored))) == volumes


@pytest.mark.parametrize(
    ("asked", "message", "next"),
    [
        (
            {"whole_px": [64, 128, 128], "spacing_mm": 2.0, "field_of_view_mm": "auto"},
            r"whole_px=\[64,128,128\] and spacing_mm=2.0 and field_of_view_mm=auto",
            "spacing_mm=null field_of_view_mm=null, or whole_px=null",
        ),
        (
            {"whole_px": [64, 128, 128], "slice_spacing_mm": 3},
            "and slice_spacing_mm=3.0",
            "slice_spacing_mm=null, or whole_px=null",
        ),
        ({"whole_px": [64, 128, 128], "spacing_mm": "native"}, "and spacing_mm=native", "spacing_mm=null, or"),
        (
            {"clip_values": [-200, 250], "clip_percentiles": [1, 99]},
            r"clip_values=\[-200.0,250.0\] and clip_percentiles=\[1.0,99.0\]",
            "clip_percentiles=null, or clip_values=null",
        ),
        ({"clip_values": [250, -200]}, r"clip_values=\[250.0, -200.0\]", "clip_values=[-200,250]"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(asked, message, next):
    with pytest.raises(UsageError, match=message) as caught:
        settled(**asked)
    assert next in caught.value.next


def test_percentiles_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match=r"clip_percentiles=\[99.0, 1.0\]"):
        settle(resolve(Settings, {"clip_percentiles": [99, 1]}), [InPlane((9, 9), (1.0, 1.0))])


@pytest.mark.parametrize(
    "bad",
    [
        {"spacing_mm": -1},
        {"image_order": 2},
        {"clip_percentiles": [0, 101]},
        {"whole_px": [0, 1, 1]},
        {"whole_px": [64, 128]},
        {"slice_spacing_mm": 0},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match="allowed"):
        resolve(Settings, bad)


# labels


@given(st.lists(st.integers(-50, 70000), unique=True, max_size=8), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_integers_become_classes_and_come_back(values, seed):
    values = [0, *sorted(value for value in values if value != 0)]
    label = np.random.default_rng(seed).choice(values, (3, 4, 5))
    classes = to_classes(label, values)
    assert classes.dtype == np.uint8
    assert classes.max() < len(values)
    np.testing.assert_array_equal(from_classes(classes, values), label)
    assert ((classes == 0) == (label == 0)).all()


def test_an_unknown_label_value_is_refused():
    with pytest.raises(DataFault, match="label values 2, 7"):
        to_classes(np.array([0, 1, 2, 7]), (0, 1, 5))


def test_ignored_values_become_background():
    label = np.array([[0, 7, 1], [5, 9, 7]])
    np.testing.assert_array_equal(to_classes(label, (0, 1, 5), (7, 9)), [[0, 0, 1], [2, 0, 0]])
    with pytest.raises(DataFault, match="label values 9"):
        to_classes(label, (0, 1, 5), (7,))


# one whole scan


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_through_plane_spacing_is_that_asked_for(slice_axis):
    shape, spacing = (20, 24, 28), (1.5, 1.2, 2.0)
    array = np.random.default_rng(0).normal(9, 5, shape)
    asked = {"spacing_mm": 1.1, "slice_spacing_mm": 3.0}
    facts = described(shape, spacing, slice_axis, **asked)
    image, facts = preprocess.prepare_image(array, facts, settled(**asked))
    label = preprocess.prepare_label((array > 9).astype(int), facts, settled(**asked), (0, 1))
    slices = round(shape[slice_axis] * spacing[slice_axis] / 3)
    assert (facts.slices, facts.canonical_slices) == (slices, shape[slice_axis])
    assert image.shape == (slices, 1, *facts.prepared_shape)
    assert label.shape == (slices, *facts.prepared_shape)
    assert facts.prepared_spacing_mm[0] == pytest.approx(shape[slice_axis] * spacing[slice_axis] / slices)
    canonical = slices_first(array, slice_axis)
    factors = [new / old for new, old in zip((slices, *facts.resampled_shape), canonical.shape, strict=True)]
    slow = ndimage.zoom(canonical, factors, order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(image[:, 0], (slow - slow.mean()) / slow.std(), atol=4e-3)


def test_a_whole_volume_has_the_size_asked_for_whatever_its_spacing():
    asked = {"whole_px": (8, 16, 12), "clip_values": (-200, 250)}
    assert settled(**asked) == Settings(**asked)  # nothing depends on the data set
    for shape, spacing in (((30, 20, 9), (0.7, 0.7, 5.0)), ((12, 16, 8), (1.0, 1.0, 1.0)), ((9, 9, 1), (1, 1, 1))):
        array = np.random.default_rng(0).normal(0, 300, shape)
        facts = described(shape, spacing, **asked)
        image, facts = preprocess.prepare_image(array, facts, settled(**asked))
        assert image.shape == (8, 1, 16, 12)
        assert (facts.slices, facts.prepared_shape, facts.field) == (
            8,
            (16, 12),
            field_of_view((16, 12), None),
        )
        extent = [size * mm for size, mm in zip((8, 16, 12), facts.prepared_spacing_mm, strict=True)]
        assert extent == pytest.approx([shape[2] * spacing[2], shape[1] * spacing[1], shape[0] * spacing[0]])
        assert (facts.intensity[0].low, facts.intensity[0].high) == (-200, 250)
        label = preprocess.prepare_label((array > 0).astype(int), facts, settled(**asked), (0, 1))
        assert label.shape == (8, 16, 12)


@pytest.mark.parametrize("asked", [{"slice_spacing_mm": 1.0, "spacing_mm": 1.1}, {"whole_px": (50, 54, 58)}])
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_labels_of_resampled_slices_come_back_to_the_canonical_grid(slice_axis, asked):
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (40, 36, 32)), indexing="ij")
    label = (sum(axis**2 for axis in axes) < 0.4).astype(int) + (axes[0] > 0) * (sum(a**2 for a in axes) < 0.3)
    facts = described(label.shape, (1.5, 1.5, 1.5), slice_axis, **asked)
    back = preprocess.restore(preprocess.prepare_label(label, facts, settled(**asked), (0, 1, 2)), facts)
    assert back.shape == label.shape
    for value in (1, 2):
        overlap = ((back == value) & (label == value)).sum()
        assert 2 * overlap / ((back == value).sum() + (label == value).sum()) > 0.96


def test_slices_that_are_put_back_are_canonical_ones():
    facts = described((10, 6, 4), slice_spacing_mm=2.0)
    assert facts.slices == 2
    assert preprocess.insert_slices(np.zeros((4, 6, 10)), facts).shape == (10, 6, 4)
    with pytest.raises(AssertionError, match=r"\(2, 6, 10\) is not \(4, 6, 10\)"):
        preprocess.insert_slices(np.zeros((2, 6, 10)), facts)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_prepared_scan_has_the_facts_shape_and_the_papers_intensities(slice_axis):
    rng = np.random.default_rng(0)
    shape, spacing = (20, 24, 28), (1.5, 1.2, 2.0)
    facts = described(shape, spacing, slice_axis, spacing_mm=1.1, field_of_view_mm=30.0)
    image, facts = preprocess.prepare_image(rng.normal(9, 5, shape), facts, settled(spacing_mm=1.1))
    label = preprocess.prepare_label(rng.integers(0, 3, shape), facts, settled(), (0, 1, 2))
    assert image.dtype == np.float16
    assert image.shape == (shape[slice_axis], 1, 27, 27)
    assert label.shape == (shape[slice_axis], 27, 27)
    assert facts.prepared_spacing_mm[0] == spacing[slice_axis]
    assert facts.prepared_spacing_mm[1:] == pytest.approx((1.1, 1.1), rel=0.05)
    assert facts.intensity[0].mean == pytest.approx(9, abs=0.5)


def test_z_score_sees_the_whole_slice_not_only_the_field():
    image = np.zeros((32, 32, 2))
    image[12:20, 12:20] = 1
    prepared, _ = preprocess.prepare_image(image, described(image.shape, field_of_view_mm=8.0), settled())
    assert prepared.shape == (2, 1, 8, 8)
    assert prepared.mean() == pytest.approx((1 - 1 / 16) / image.std(), rel=1e-3)


def test_native_spacing_is_left_alone():
    facts = described((20, 24, 5), (0.7, 0.8, 3.0), spacing_mm="native", field_of_view_mm=8.0)
    assert facts.resampled_shape == facts.slice_shape == (24, 20)
    assert facts.prepared_spacing_mm == (3.0, 0.8, 0.7)
    assert facts.prepared_shape == (10, 11)


def test_a_flat_colour_image_is_one_slice_of_three_channels():
    picture = np.random.default_rng(0).integers(0, 255, (30, 20, 1, 3))
    image, facts = preprocess.prepare_image(picture, described(picture.shape), settled())
    assert image.shape == (1, 3, 20, 30)
    assert len(facts.intensity) == 3


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_labels_come_back_to_the_canonical_grid(slice_axis):
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (40, 36, 32)), indexing="ij")
    label = (sum(axis**2 for axis in axes) < 0.4).astype(int) + (axes[0] > 0.3) * (sum(a**2 for a in axes) < 0.2)
    facts = described(label.shape, (1.5, 1.5, 1.5), slice_axis, spacing_mm=1.1, field_of_view_mm=50.0)
    prepared = preprocess.prepare_label(label, facts, settled(), (0, 1, 2))
    back = preprocess.restore(uncrop_field(prepared, facts.field, facts.resampled_shape), facts)
    assert back.shape == label.shape
    for value in (1, 2):
        overlap = ((back == value) & (label == value)).sum()
        assert 2 * overlap / ((back == value).sum() + (label == value).sum()) > 0.97


def test_without_resampling_labels_come_back_exactly():
    label = np.random.default_rng(0).integers(0, 4, (9, 11, 5))
    facts = described(label.shape, slice_axis=1, field_of_view_mm=20.0)
    prepared = preprocess.prepare_label(label, facts, settled(), (0, 1, 2, 3))
    assert prepared.shape == (11, 20, 20)
    back = preprocess.restore(uncrop_field(prepared, facts.field, facts.resampled_shape), facts)
    np.testing.assert_array_equal(back, label)


def test_inside_is_false_where_the_field_leaves_the_scan():
    facts = described((10, 6, 3), field_of_view_mm=8.0)  # slices of (6, 10) pixels
    inside = inside_field(facts)
    assert inside.shape == (8, 8)
    assert not inside[[0, -1]].any()
    assert inside[1:-1].all()


def test_another_shape_than_the_index_says_is_refused():
    facts = described((10, 6, 3))
    with pytest.raises(DataFault, match=r"the image has shape \(10, 6, 4\)"):
        preprocess.prepare_image(np.zeros((10, 6, 4)), facts, settled())
    with pytest.raises(DataFault, match=r"the label has shape \(6, 10, 3\)"):
        preprocess.prepare_label(np.zeros((6, 10, 3)), facts, settled(), (0, 1))
