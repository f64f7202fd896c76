"""Deformable convolution against loops, ``grid_sample``, and ordinary convolutions where nothing is deformed."""

from __future__ import annotations

from math import floor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.layers.deform import deform_conv


def parts(
    n: int = 2, channels: int = 3, out: int = 4, height: int = 6, width: int = 5, size: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, offset, mask, weight; offsets reach outside."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    taps = size * size
    offset, mask = 2 * normal(n, 2 * taps, height, width), normal(n, taps, height, width).sigmoid()
    return normal(n, channels, height, width), offset, mask, normal(n, out, channels, size, size)


def slow(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """The formula, one image: x (C, H, W)."""
    _, height, width = x.shape
    size = weight.shape[-1]
    y = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for row in range(height):
        for column in range(width):
            for k in range(size * size):
                at_row = row + k // size - size // 2 + float(offset[2 * k, row, column])
                at_column = column + k % size - size // 2 + float(offset[2 * k + 1, row, column])
                read = torch.zeros(len(x), dtype=x.dtype)
                for i in (floor(at_row), floor(at_row) + 1):
                    for j in (floor(at_column), floor(at_column) + 1):
                        if 0 <= i < height and 0 <= j < width:
                            read += x[:, i, j] * (1 - abs(at_row - i)) * (1 - abs(at_column - j))
                y[:, row, column] += weight[:, :, k // size, k % size] @ read * mask[k, row, column]
    return y


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_formula(size: int) -> None:
    x, offset, mask, weight = parts(size=size)
    expected = torch.stack([slow(*each) for each in zip(x, offset, mask, weight, strict=True)])
    torch.testing.assert_close(deform_conv(x, offset, mask, weight), expected)


def test_it_reads_as_grid_sample_does() -> None:
    x, offset, mask, weight = parts(n=1, height=7, width=9)
    pixel = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij"), -1)
    expected = torch.zeros(1, 4, 7, 9, dtype=torch.float64)
    for k in range(9):
        at = pixel + torch.tensor([k // 3 - 1, k % 3 - 1]) + offset[0, 2 * k : 2 * k + 2].movedim(0, -1)
        grid = ((2 * at + 1) / torch.tensor([7, 9]) - 1).flip(-1)
        read = F.grid_sample(x, grid[None], align_corners=False) * mask[:, k : k + 1]
        expected += torch.einsum("oc,nchw->nohw", weight[0, :, :, k // 3, k % 3], read)
    torch.testing.assert_close(deform_conv(x, offset, mask, weight), expected)


def test_without_offsets_it_is_a_convolution() -> None:
    x, offset, mask, weight = parts()
    own = deform_conv(x, 0 * offset, torch.ones_like(mask), weight)
    torch.testing.assert_close(own, torch.cat([F.conv2d(x[i : i + 1], weight[i], padding=1) for i in range(2)]))
    torch.testing.assert_close(deform_conv(x, 0 * offset, torch.full_like(mask, 0.25), weight), own / 4)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (3, 2), (9, 0)])
def test_whole_offsets_are_shifts(down: int, right: int) -> None:
    x, offset, mask, weight = parts()
    offset[:, 0::2], offset[:, 1::2] = down, right
    wide = F.pad(x, (12, 12, 12, 12))
    whole = torch.cat([F.conv2d(wide[i : i + 1], weight[i], padding=1) for i in range(2)])
    expected = whole[..., 12 + down : 18 + down, 12 + right : 17 + right]
    torch.testing.assert_close(deform_conv(x, offset, torch.ones_like(mask), weight), expected)


def test_gradients() -> None:
    given = [each.requires_grad_() for each in parts(n=2, channels=2, out=2, height=2, width=3)]
    assert torch.autograd.gradcheck(deform_conv, given)


def test_an_image_of_one_row_and_offsets_far_outside() -> None:
    x, offset, mask, weight = parts(height=1)
    torch.testing.assert_close(deform_conv(x, offset, mask, weight)[0], slow(x[0], offset[0], mask[0], weight[0]))
    assert deform_conv(x, offset + 1e30, mask, weight).abs().max() == 0


def test_an_image_that_diverged_leaves_the_others_alone() -> None:
    x, offset, mask, weight = parts()
    expected = deform_conv(x, offset, mask, weight)
    offset[0] = torch.nan
    own = deform_conv(x, offset, mask, weight)
    assert own[0].isnan().all()
    torch.testing.assert_close(own[1], expected[1])
