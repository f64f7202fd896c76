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
from lemis.preparation.settings import Settings


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
