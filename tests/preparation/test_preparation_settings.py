"""Settings of the preparation: settled for a data set, stored, and refused where they contradict each other."""

import json

import pytest

from lemis.errors import UsageError
from lemis.preparation.settings import Settings, as_stored, settle
from lemis.preparation.slices import InPlane
from lemis.settings import plain, resolve


def settled(**changes):
    return settle(resolve(Settings, changes), [InPlane((30, 20), (1.0, 1.0))])


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
