"""Largest connected parts against a flood fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from flood_fill import flooded
from lemis.parts.components import largest, parts


def slow(label: Tensor) -> Tensor:
    """One row, place by place."""
    kept = torch.zeros_like(label)
    for value in sorted(set(label.flatten().tolist()) - {0}):
        for place in max(flooded((label == value).numpy()), key=len):  # the first of the largest
            kept[place] = value
    return kept


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4)])
def test_equals_a_flood_fill_row_by_row(shape: tuple[int, ...]) -> None:
    label = (torch.rand(6, *shape, generator=torch.Generator().manual_seed(0)) * 3.2).long() % 3
    assert torch.equal(largest(label), torch.stack([slow(row) for row in label]))


def test_pixels_that_share_a_corner_are_connected() -> None:
    label = torch.zeros(1, 5, 5, dtype=torch.long)
    for place in ((0, 0), (0, 1), (1, 2), (2, 4), (3, 4)):
        label[0][place] = 1
    found = largest(label)
    assert {tuple(place) for place in found[0].nonzero().tolist()} == {(0, 0), (0, 1), (1, 2)}


def test_of_equals_the_first_is_kept_and_nothing_stays_nothing() -> None:
    label = torch.tensor([[[2, 0, 2, 0, 1]], [[0, 0, 0, 0, 0]]])
    assert largest(label).tolist() == [[[2, 0, 0, 0, 1]], [[0, 0, 0, 0, 0]]]


def test_parts_are_counted_and_measured() -> None:
    mask = np.zeros((5, 4, 6), bool)
    mask[0, 0, 0], mask[1, 1, 1], mask[4, :, 5] = True, True, True
    found = parts(mask)
    assert (found.number, found.voxels.tolist()) == (2, [0, 2, 4])
    assert found.of[mask].tolist() == [1, 1, 2, 2, 2, 2]
    assert parts(np.zeros((3, 3), bool)).number == 0
