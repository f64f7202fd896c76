"""Pieces of the 3D U-Nets: the convolution that never makes its input, normalisation, and which volumes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from how_many import examples
from lemis.errors import UsageError
from lemis.layers import unet3d

SIDES = st.tuples(*[st.integers(1, 4)] * 3)


@examples(20)
@given(sides=SIDES, deeper=st.integers(1, 3), channels=st.integers(1, 3), rows=st.integers(1, 2))
def test_it_is_the_convolution_of_the_enlarged_map_beside_the_skip(
    sides: tuple[int, int, int], deeper: int, channels: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    x, skip = random(rows, deeper, *sides), random(rows, channels, *(2 * side for side in sides))
    weight = random(2, deeper + channels, 3, 3, 3)
    joined = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], 1)
    expected = F.conv3d(joined, weight, padding=1)
    got = unet3d.convolve_joined(x, skip, weight)
    torch.testing.assert_close(got, expected)
    direction = torch.randn(got.shape, dtype=torch.float64, generator=generator)
    for ours, slow in zip(
        torch.autograd.grad((got * direction).sum(), (x, skip, weight)),
        torch.autograd.grad((expected * direction).sum(), (x, skip, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, slow)


def test_an_enlarged_kernel_is_the_kernel_turned_round_and_smeared() -> None:
    along_columns = torch.zeros(1, 1, 3, 3, 3)
    along_columns[0, 0, 1, 1] = torch.tensor([1.0, 10.0, 100.0])
    enlarged = unet3d.enlarged(along_columns)
    assert enlarged.shape == (1, 1, 4, 4, 4)
    assert enlarged[0, 0, 1, 2].tolist() == [100, 110, 11, 1]
    assert enlarged.sum() == 8 * 111


def test_a_gate_says_how_much_of_the_skip_passes() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
            assert x.shape[2:] == tuple(side // 2 for side in skip.shape[2:])
            return torch.full_like(skip[:, :1], 0.5)

    torch.manual_seed(0)
    gated, plain = unet3d.Up(4, 2, "instance", gate=Half()), unet3d.Up(4, 2, "instance")
    plain.load_state_dict(gated.state_dict())
    x, skip = torch.randn(1, 4, 2, 1, 3), torch.randn(1, 2, 4, 2, 6)
    assert torch.equal(gated(x, skip), plain(x, skip / 2))


@pytest.mark.parametrize(
    ("norm", "axes"), [("instance", (2, 3, 4)), ("batch", (0, 2, 3, 4))], ids=["instance", "batch"]
)
def test_normalisation_is_over_the_axes_of_its_name(norm: Any, axes: tuple[int, ...]) -> None:
    x = 3 + 5 * torch.randn(3, 4, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    normed = unet3d.norm_of(norm, 4)(x)
    expected = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed, expected)


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (12, 4), (64, 8), (3, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    norm = unet3d.norm_of("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


@examples(40)
@given(sides=st.tuples(*[st.integers(1, 40)] * 3), divisor=st.sampled_from([2, 8, 16]), one_cell=st.booleans())
def test_a_volume_is_taken_or_the_cure_is_and_holds_it(
    sides: tuple[int, int, int], divisor: int, one_cell: bool
) -> None:
    try:
        unet3d.check_sides(torch.zeros(1, 1, *sides), divisor, one_cell=one_cell)
    except UsageError as error:
        cure = [int(word) for word in error.next.split() if word.isdigit()]
        assert all(cured >= side for cured, side in zip(cure, sides, strict=True))
        unet3d.check_sides(torch.zeros(1, 1, *cure), divisor, one_cell=one_cell)
        return
    assert all(side % divisor == 0 for side in sides)
    assert one_cell or max(sides) > divisor


def test_the_refusal_says_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"a volume of 8 x 20 x 32 voxels\n.*multiples of 16\n.*to 16 x 32 x 32"):
        unet3d.check_sides(torch.zeros(1, 1, 8, 20, 32), 16, one_cell=True)
    with pytest.raises(UsageError, match=r"8 x 8 x 8 voxels\n.*one cell has no variance\n.*to 8 x 8 x 16"):
        unet3d.check_sides(torch.zeros(1, 1, 8, 8, 8), 8, one_cell=False)
