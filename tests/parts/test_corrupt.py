"""Corruptions against loops over pixels."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from how_many import examples
from lemis.errors import UsageError
from lemis.parts import corrupt
from lemis.sampling.draw import Rows
from lemis.settings import resolve

FEW = examples(20)
SPACES = st.sampled_from([(9, 7), (4, 6, 5)])


def pixels_of(first: Tensor, size: Tensor) -> list[tuple[int, ...]]:
    return list(product(*[range(int(f), int(f + s)) for f, s in zip(first, size, strict=True)]))


@FEW
@given(space=SPACES, seed=st.integers(0, 99))
def test_boxes_lie_inside_and_cover_what_they_cover(space: tuple[int, ...], seed: int) -> None:
    first, size = corrupt.draw_boxes(2, 3, space, (0.1, 0.6), Rows(seed, 0, "cpu"))
    assert (size >= 1).all()
    assert (first >= 0).all()
    assert (first + size <= torch.tensor(space)).all()
    size[0, 1] = 0
    expected = torch.zeros(2, 1, *space, dtype=torch.bool)
    for row, box in product(range(2), range(3)):
        for pixel in pixels_of(first[row, box], size[row, box]):
            expected[(row, 0, *pixel)] = True
    assert torch.equal(corrupt.covered(first, size, space), expected)


def test_every_place_and_size_of_a_box_can_be_drawn() -> None:
    first, size = corrupt.draw_boxes(1, 2000, (8, 8), (0.25, 0.5), Rows(0, 0, "cpu"))
    assert sorted(set(size[0, :, 0].tolist())) == [2, 3, 4]
    smallest = first[0, size[0, :, 0] == 2, 0]
    share = torch.bincount(smallest) / len(smallest)
    torch.testing.assert_close(share, torch.full((7,), 1 / 7), atol=0.05, rtol=0)


@FEW
@given(space=SPACES, seed=st.integers(0, 99))
def test_boxes_change_places(space: tuple[int, ...], seed: int) -> None:
    rng = Rows(seed, 0, "cpu")
    image = rng.normal(2, 3, *space)
    first, size = corrupt.draw_boxes(2, 4, space, (0.1, 0.5), rng)
    second, _ = corrupt.draw_boxes(2, 4, space, (0.5, 0.5), rng)
    expected = image.clone()
    for row, pair in product(range(2), range(4)):
        one, other = pixels_of(first[row, pair], size[row, pair]), pixels_of(second[row, pair], size[row, pair])
        for to, source in ((one, other), (other, one)):
            for a, b in zip(to, source, strict=True):
                expected[(row, slice(None), *a)] = image[(row, slice(None), *b)]
    assert torch.equal(corrupt.swap(image, first, second, size, [n // 2 + 1 for n in space]), expected)


def grey(rows: int = 64) -> Tensor:
    return Rows(1, 0, "cpu").uniform(rows, 1, 40, 40, low=0.1, high=1.0)


def only(name: str) -> corrupt.Distortion:
    return corrupt.Distortion(**{"p_cut_out": 0.0, "p_cut_around": 0.0, "p_shuffle": 0.0, name: 1.0})


def test_a_cut_out_blackens_some_boxes() -> None:
    image = grey()
    out = corrupt.distort(image, only("p_cut_out"), Rows(0, 0, "cpu"))
    black = out == 0
    assert torch.equal(out, image.masked_fill(black, 0))
    share = black.flatten(1).float().mean(1)
    assert ((share > 0) & (share < 0.9)).all()


def test_a_cut_around_leaves_a_large_part_and_blackens_the_rest() -> None:
    image = grey()
    out = corrupt.distort(image, only("p_cut_around"), Rows(0, 0, "cpu"))
    assert torch.equal(out, image.masked_fill(out == 0, 0))
    kept = (out > 0).flatten(1).float().mean(1)
    assert ((kept >= (1 - 0.3125) ** 2 - 0.05) & (kept <= 1)).all()
    assert kept.min() < 0.8


def test_a_shuffling_blackens_nothing_and_invents_nothing() -> None:
    image = grey()
    out = corrupt.distort(image, only("p_shuffle"), Rows(0, 0, "cpu"))
    assert all(torch.isin(a, b).all() for a, b in zip(out, image, strict=True))
    moved = (out != image).flatten(1).float().mean(1)
    assert ((moved > 0) & (moved < 0.1)).all()  # twenty boxes of 2 or 3 pixels a side, of 1600 pixels


def test_the_distortions_are_as_frequent_as_they_should_be() -> None:
    image = grey(2000)[:, :, :20, :20]
    out = corrupt.distort(image, corrupt.Distortion(), Rows(0, 0, "cpu"))
    black, changed = (out == 0).flatten(1).any(1), (out != image).flatten(1).any(1)
    assert black.float().mean().item() == pytest.approx(0.35, abs=0.04)
    assert changed.float().mean().item() == pytest.approx(0.65, abs=0.04)


def test_only_one_distortion_is_drawn() -> None:
    with pytest.raises(UsageError, match="at most 1"):
        resolve(corrupt.Distortion, {"p_cut_out": 0.9})
    with pytest.raises(UsageError, match="low <= high <= 1"):
        resolve(corrupt.Distortion, {"shuffle_share": [0.5, 0.2]})


def test_the_range_is_that_of_the_pixels_inside() -> None:
    image = torch.tensor([[[[-9.0, 1.0], [2.0, 4.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    inside = torch.tensor([[[[False, True], [True, True]]]]).expand(2, -1, -1, -1)
    low, span = corrupt.value_range(image, inside)
    assert low.flatten().tolist() == [1.0, 5.0]
    assert span.flatten().tolist() == pytest.approx([3.0, 1e-6])  # a constant row can still be divided by
    assert corrupt.value_range(image)[1][0].item() == 13


def test_the_first_convolution_says_how_many_channels_an_image_has() -> None:
    assert corrupt.image_channels(nn.Sequential(nn.ReLU(), nn.Conv3d(5, 2, 1), nn.Conv2d(2, 3, 1))) == 5
