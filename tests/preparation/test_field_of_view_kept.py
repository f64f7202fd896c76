"""``field_of_view_mm: auto``, measured once: it stays while structures are well inside it, and is never too small."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.preparation import field_of_view
from lemis.preparation.settings import KEPT_MARGIN, Settings, as_stored, settle
from lemis.preparation.slices import InPlane
from lemis.preparation.store_files import VERSION, Meta

PLANES = [InPlane((256, 256), (1.0, 1.0))]
AUTO = Settings(spacing_mm=1.0, field_of_view_mm="auto")


def before(was_mm: float | None, asked: Settings = AUTO, planes: list[InPlane] = PLANES, **settings: Any) -> Meta:
    """What a preparation with this field of view left."""
    settled = as_stored(settle(asked, planes, [1.0])) | {"field_of_view_mm": was_mm} | settings
    return Meta(
        version=VERSION, settings=settled, asked=as_stored(asked), channels=("MR",), label_names=("background", "LV"),
        label_values=(0, 1), scans=("a",),
    )  # fmt: skip


def now(extents_mm: dict[str, float], was: Meta | None, asked: Settings = AUTO) -> tuple[Any, str | None]:
    found = field_of_view.settled(asked, PLANES, extents_mm, was)
    return found.settings.field_of_view_mm, found.note


def test_a_label_that_lies_well_inside_changes_nothing() -> None:
    assert now({"a": 40.0}, None) == (96, None)  # 2 * 40 * 1.1 = 88
    assert now({"a": 40.0, "b": 43.0}, before(96)) == (96, None)


def test_a_label_that_comes_nearer_the_edge_than_was_asked_for_at_first_keeps_it_and_says_so() -> None:
    field, note = now({"a": 40.0, "b": 45.0}, before(96))  # 2 * 45 * 1.1 = 99, * 1.05 = 94.5
    assert field == 96
    assert note == (
        "field of view: 96 mm, as before; structures reach 45 mm from the middle of a slice; measured anew it would be "
        "112 mm"
    )


def test_a_label_that_does_not_fit_widens_it_and_says_what_that_costs() -> None:
    field, note = now({"a": 40.0, "b": 46.0, "c": 47.0}, before(96))
    assert field == 112
    assert note is not None
    assert "widened from 96 mm to 112 mm" in note
    assert "structures reach 47 mm from the middle of a slice in 2 scans (b, c)" in note
    assert "every pre-training and every network that saw them is trained anew" in note


def test_it_never_becomes_narrower_by_itself() -> None:
    field, note = now({"a": 20.0}, before(96))
    assert field == 96
    assert note is not None
    assert "measured anew it would be 48 mm" in note


def test_the_first_labels_measure_it() -> None:
    assert now({}, before(None)) == (None, None)
    field, note = now({"a": 40.0}, before(None))
    assert field == 96
    assert note is not None
    assert "measured on the first labels" in note
    assert now({}, before(96))[0] is None


OTHER = Settings(spacing_mm=1.0, field_of_view_mm="auto", antialias=True)


@pytest.mark.parametrize(
    "was",
    [
        before(96, Settings(spacing_mm=1.0, field_of_view_mm=96.0)),  # a number was asked for
        before(96, OTHER),
        before(96, spacing_mm=2.0),
        before(96).model_copy(update={"asked": None}),  # of before it was written down
    ],
)
def test_what_was_prepared_otherwise_says_nothing(was: Meta) -> None:
    assert now({"a": 45.0}, was) == (112, None)


def test_a_field_that_holds_every_slice_whole_stays() -> None:
    assert now({"a": 127.9}, before(256)) == (256, None)


@given(st.lists(st.floats(0.5, 128), min_size=1, max_size=6))
def test_label_after_label_every_structure_is_inside_and_the_same_again_changes_nothing(extents: list[float]) -> None:
    was: Meta | None = None
    for known in range(1, len(extents) + 1):
        labels = {f"s{n}": extent for n, extent in enumerate(extents[:known])}
        field, _ = now(labels, was)
        assert min(2 * max(labels.values()) * (1 + KEPT_MARGIN), 256) <= field + 1e-6
        assert field % 16 == 0
        again, _ = now(labels, before(field))
        assert again == field
        was = before(field)
