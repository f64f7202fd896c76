"""Thresholds of positions against the number of slices: slowly, and what is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemis.parts.contrast import near
from lemis.training.positions import negative_neighbours, said


@given(st.floats(0.01, 1), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_neighbours_are_counted_as_the_contrast_has_them(threshold: float, slices: list[int]) -> None:
    if any(abs(1 / n - threshold) < 1e-5 for n in slices):  # a matter of rounding
        return
    far = total = 0
    for n in slices:
        position = (torch.arange(n, dtype=torch.float64) + 1) / n
        neighbours = near(position, threshold).diagonal(1)
        far, total = far + int((~neighbours).sum()), total + n - 1
    assert negative_neighbours(threshold, slices) == pytest.approx(far / total if total else 0.0)


def test_a_threshold_of_long_scans_is_named_on_short_ones() -> None:
    heart, chest = [8, 9, 9, 10, 12], [155, 250, 300]
    assert negative_neighbours(0.1, heart) == (7 + 8 + 8 + 9) / 43, "1 / 10 is not below 0.1"
    assert said(0.1, heart) == (
        "method.threshold=0.1: 74% of neighbouring slices are negatives of each other, as scans have 9 slices here "
        "(median). Try method.threshold=0.35"
    )
    assert said(0.35, heart) is None
    assert said(0.05, chest) is None
    assert said(0.1, [2, 2]) is not None
    assert "Try method.threshold=1" in str(said(0.1, [2, 2]))
    assert said(0.1, [1, 1]) is None, "without neighbours"
