"""The field of view: cut out, put back, and as large as it must be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.preparation import preprocess
from lemis.preparation.crops import FieldOfView, crop_field, extent_mm, field_of_view
from lemis.preparation.resampling import resample_label
from lemis.preparation.settings import Settings, settle
from lemis.preparation.slices import InPlane, in_plane, slices_first
from way_back import uncrop_field

sizes = st.integers(1, 40)


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
@examples(100)
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
@examples(60)
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
