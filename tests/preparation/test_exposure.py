"""What a training had seen is known again by content, and scans that are far from it are named with the numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.preparation import exposure, preprocess
from lemis.preparation.facts import Facts
from lemis.preparation.intensities import Intensity
from lemis.preparation.settings import Settings, settle
from lemis.preparation.slices import in_plane


def scan(
    subject: str = "p1",
    *,
    image: str = "",
    label: str = "",
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 8.0),
    axis: int = 2,
    intensity: tuple[tuple[float, float], ...] = ((100.0, 50.0),),
) -> Facts:
    facts = preprocess.describe(
        id=f"{subject}{image}", subject=subject, images=("a.nii.gz",), label=None, shape=(20, 20, 20),
        spacing_mm=spacing_mm, slice_axis=axis, settings=Settings(spacing_mm=1.5),
    )  # fmt: skip
    found = tuple(Intensity(mean=mean, std=std) for mean, std in intensity)
    return dataclasses.replace(facts, image_digest=image, label_digest=label, intensity=found)


TRAINED = exposure.likeness([scan(), scan(spacing_mm=(1.2, 1.3, 10.0), intensity=((180.0, 70.0),))])


def test_scans_are_known_by_image_and_by_label() -> None:
    known = exposure.known([scan("p1", image="a", label="x"), scan("p2", image="b")])
    assert known.subjects("a") == known.subjects("new", "x") == {"p1"}
    assert known.subjects("b", "x") == {"p1", "p2"}
    assert known.subjects("new") == known.subjects("", "") == frozenset()


def test_a_scan_that_is_there_twice_is_both_and_a_label_nobodys() -> None:
    known = exposure.known([scan("p1", image="a", label="x"), scan("p2", image="a", label="x")])
    assert known.subjects("a", "x") == {"p1", "p2"}
    assert known.labels == {}


def test_data_sets_are_joined() -> None:
    one, other = exposure.known([scan("p1", image="a")]), exposure.known([scan("q1", image="a", label="x")])
    assert exposure.joined([one, other]).subjects("a") == {"p1", "q1"}
    assert exposure.joined([one, other]).labels == {"x": "q1"}
    assert exposure.joined([]) == exposure.Known()


def test_what_was_trained_on_is_not_strange() -> None:
    assert exposure.strange(scan(), TRAINED, ["MR"]) == []
    assert exposure.strange(scan(spacing_mm=(1.0, 1.0, 12.0), intensity=((160.0, 100.0),)), TRAINED, ["MR"]) == []


@pytest.mark.parametrize(
    ("changed", "kind", "seen"),
    [
        ({"spacing_mm": (0.4, 0.4, 8.0)}, "pixel size", "0.4 x 0.4 mm; trained on 1.2 to 1.5 mm"),
        ({"spacing_mm": (1.5, 3.0, 8.0)}, "pixel size", "1.5 x 3 mm; trained on 1.2 to 1.5 mm"),
        ({"spacing_mm": (1.5, 1.5, 1.0)}, "distance of slices", "1 mm; trained on 8 to 10 mm"),
        ({"spacing_mm": (8.0, 1.5, 1.5), "axis": 0}, "slice direction", "sagittal slices; trained on axial ones"),
        (
            {"intensity": ((-900.0, 60.0),)},
            "intensities",
            "MR has a mean of -900 and a standard deviation of 60; trained on means of 100 to 180 and standard "
            "deviations of 50 to 70",
        ),
        (
            {"intensity": ((0.4, 0.2),)},
            "intensities",
            "MR has a mean of 0.4 and a standard deviation of 0.2; trained on means of 100 to 180 and standard "
            "deviations of 50 to 70",
        ),
        (
            {"intensity": ((71464.2, 2000.0),)},
            "intensities",
            "MR has a mean of 71460 and a standard deviation of 2000; trained on means of 100 to 180 and standard "
            "deviations of 50 to 70",
        ),
    ],
)
def test_what_is_far_is_named_with_the_numbers(changed: dict[str, Any], kind: str, seen: str) -> None:
    assert exposure.strange(scan(**changed), TRAINED, ["MR"]) == [(kind, seen)]


def test_pretraining_counts_too() -> None:
    more = exposure.likeness([scan(spacing_mm=(0.4, 0.4, 1.0), intensity=((0.4, 0.2),))])
    assert exposure.strange(scan(spacing_mm=(0.4, 0.4, 1.0)), exposure.wider(TRAINED, more), ["MR"]) == []


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.floats(0.1, 9), st.floats(1, 900)), min_size=1))
def test_no_scan_is_strange_to_a_training_on_it(kinds: list[tuple[float, float, float, float]]) -> None:
    scans = [scan(spacing_mm=(x, y, z), intensity=((m, m / 2),), axis=n % 3) for n, (x, y, z, m) in enumerate(kinds)]
    like = exposure.likeness(scans)
    assert [exposure.strange(one, like, ["MR"]) for one in scans] == [[]] * len(scans)
    assert exposure.wider(like, like) == like


@pytest.mark.parametrize(
    ("names", "trained", "said"),
    [
        (["T1"], ["T2"], ["channel 0 is T1; trained on T2"]),
        (["t2"], ["T2"], []),
        (["image"], ["T2"], []),
        (["T1"], ["image"], []),
        (["channel 0", "channel 1"], ["T1", "T2"], []),
        (["T2", "T1"], ["T1", "T2"], ["channel 0 is T2; trained on T1", "channel 1 is T1; trained on T2"]),
    ],
)
def test_channels_of_another_name_are_named(names: list[str], trained: list[str], said: list[str]) -> None:
    assert [strange.seen for strange in exposure.other_channels(names, trained)] == said


def measured(subject: str, extent_mm: float | None, *, labelled: bool = True) -> Facts:
    return dataclasses.replace(scan(subject), labelled=labelled, extent_mm=extent_mm)


EXTENTS = st.lists(st.floats(0.5, 15), min_size=2, max_size=6)  # of slices that are 30 mm wide
AUTO = Settings(spacing_mm=0.5, field_of_view_mm="auto")


@given(EXTENTS, st.data())
def test_the_field_of_view_by_fewer_labels_is_that_of_a_preparation_without_the_others(
    extents: list[float], data: st.DataObject
) -> None:
    scans = [measured(f"p{n}", extent) for n, extent in enumerate(extents)] + [measured("u", None, labelled=False)]
    subjects = [f"p{n}" for n in range(len(extents))]
    training = data.draw(st.lists(st.sampled_from(subjects), unique=True, min_size=1))
    labelled = data.draw(st.lists(st.sampled_from(training), unique=True, min_size=1))
    planes = [in_plane(one.canonical_shape, one.canonical_spacing_mm, one.slice_axis) for one in scans]

    def alone(some: list[str]) -> Any:
        return settle(AUTO, planes, [extent for n, extent in enumerate(extents) if f"p{n}" in some]).field_of_view_mm

    found = exposure.measured_field(scans, AUTO, alone(subjects), training, labelled)
    assert found is not None
    assert (found.of_all_mm, found.of_training_mm, found.of_labelled_mm) == tuple(
        map(alone, (subjects, training, labelled))
    )
    assert found.of_all_mm is not None
    assert found.of_training_mm is not None
    assert found.of_labelled_mm is not None
    assert found.of_labelled_mm <= found.of_training_mm <= found.of_all_mm
    if max(extents) in [extents[int(name[1:])] for name in training]:
        assert found.leak is None, "the labels of test subjects decided nothing"
    assert (found.leak is None) == (found.of_training_mm == found.of_all_mm)


def test_a_field_of_view_that_test_subjects_decided_is_told_with_what_to_type() -> None:
    scans = [measured("p1", 2.0), measured("p2", 12.0), measured("p3", 0.0)]
    found = exposure.measured_field(scans, AUTO, 32.0, ["p1"], ["p1"])
    assert found is not None
    assert found.leak is not None
    assert "(32 mm)" in found.leak
    assert "without them it would be 8 mm (prepare.field_of_view_mm=8)" in found.leak
    empty = exposure.measured_field(scans, AUTO, 32.0, ["p3"], ["p3"])
    assert empty is not None
    assert empty.of_training_mm is None
    assert "it would be the whole slice (prepare.field_of_view_mm=null)" in str(empty.leak)


@pytest.mark.parametrize(
    ("asked", "extent_mm"), [(Settings(field_of_view_mm=20.0), 2.0), (Settings(), 2.0), (AUTO, None)]
)
def test_a_field_of_view_that_no_label_was_measured_for_says_nothing(asked: Settings, extent_mm: float | None) -> None:
    assert exposure.measured_field([measured("p1", extent_mm)], asked, 20.0, ["p1"], ["p1"]) is None
