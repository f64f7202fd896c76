"""How far a scan is from the labelled ones, by vectors of a network."""

from __future__ import annotations

import numpy as np
import pytest

from lemis.measure.distance import MARGIN, Seen, among, nearest, unlike, usual

# On a line: two scans of one subject side by side, the others 1, 2 and 4 apart.
LINE = Seen(["a1", "a2", "b", "c", "d"], ["a", "a", "b", "c", "d"], np.array([[0.0], [0.1], [1.0], [3.0], [7.0]]))


def test_the_nearest_labelled_scan_is_of_another_subject() -> None:
    assert nearest(np.array([0.2]), LINE) == pytest.approx(0.1)
    assert nearest(np.array([0.2]), LINE, {"a"}) == pytest.approx(0.8)
    assert nearest(np.array([0.2]), LINE, {"a", "b", "c", "d"}) is None
    assert among(LINE) == pytest.approx({"a1": 1.0, "a2": 0.9, "b": 0.9, "c": 2.0, "d": 4.0})
    assert usual(among(LINE)) == pytest.approx(1.0)


def test_one_subject_and_scans_that_look_all_the_same_say_nothing() -> None:
    assert among(Seen(["a1", "a2"], ["a", "a"], np.array([[0.0], [1.0]]))) == {}
    assert usual({}) is None
    assert usual(among(Seen(["a", "b"], ["a", "b"], np.zeros((2, 3))))) is None


def test_only_what_is_far_is_said_and_with_numbers() -> None:
    labelled = [0.9, 1.0, 1.1, 0.8, 1.2, 1.0]
    said = unlike(2.24, labelled, 6)
    assert said is not None
    assert "2.2 times as far from the nearest as is usual among them, of which none is farther than 1.2 times" in said
    for near in (0.0, 1.0, 1.2, 0.999 * MARGIN * 1.2):
        assert unlike(near, labelled, 6) is None


def test_it_must_be_beyond_both_the_margin_and_the_interval() -> None:
    assert unlike(1.01 * MARGIN, [1.0] * 6, 6) is not None
    assert unlike(0.99 * MARGIN, [1.0] * 6, 6) is None  # beyond the interval only
    assert unlike(2.0, [0.4, 1.0, 1.5, 0.5, 1.4, 1.2], 6) is None  # beyond the margin only
    for subjects in (2, 4):  # whose nearest distances are much alike, whatever they are
        assert unlike(99.0, [1.0] * subjects, subjects) is None
    assert unlike(2.0, [1.0], 1) is None
    assert unlike(2.0, [], 0) is None
    assert unlike(float("nan"), [1.0] * 6, 6) is None
