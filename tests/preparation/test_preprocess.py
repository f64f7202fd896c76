"""Preparation of arrays: against slow versions, and every way there against the way back."""

import numpy as np
import pytest
from scipy import ndimage

from lemis.errors import DataFault
from lemis.preparation import preprocess
from lemis.preparation.crops import field_of_view
from lemis.preparation.facts import inside_field
from lemis.preparation.settings import Settings, settle
from lemis.preparation.slices import InPlane, slices_first
from lemis.settings import resolve
from way_back import restore, uncrop_field


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
    back = restore(preprocess.prepare_label(label, facts, settled(**asked), (0, 1, 2)), facts)
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
    back = restore(uncrop_field(prepared, facts.field, facts.resampled_shape), facts)
    assert back.shape == label.shape
    for value in (1, 2):
        overlap = ((back == value) & (label == value)).sum()
        assert 2 * overlap / ((back == value).sum() + (label == value).sum()) > 0.97


def test_without_resampling_labels_come_back_exactly():
    label = np.random.default_rng(0).integers(0, 4, (9, 11, 5))
    facts = described(label.shape, slice_axis=1, field_of_view_mm=20.0)
    prepared = preprocess.prepare_label(label, facts, settled(), (0, 1, 2, 3))
    assert prepared.shape == (11, 20, 20)
    back = restore(uncrop_field(prepared, facts.field, facts.resampled_shape), facts)
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
