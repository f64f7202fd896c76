"""Rolling-Unet (Liu et al. 2024): its size, what rolling does, its block by the formula, and that skips are added."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.backbones import rolling_unet
from lemis.backbones.rolling_unet import _Lo2, rolled
from lemis.errors import UsageError
from lemis.settings import resolve


def network(**settings: object) -> rolling_unet.Backbone:
    torch.manual_seed(0)
    return rolling_unet.Backbone(
        resolve(rolling_unet.Settings, {"base_width": 4}, settings), in_channels=1, num_classes=3
    )


def test_the_published_size() -> None:
    with torch.device("meta"):
        built = rolling_unet.Backbone(rolling_unet.Settings(), in_channels=3, num_classes=1)
    # Published as 1.78 M: 1,783,185, with a LayerNorm of 2 C in each of three blocks that nothing runs through.
    assert sum(p.numel() for p in built.parameters()) == 1_783_185 - 2 * (128 + 256 + 128)
    assert built.channels == (16, 32, 64, 128, 256)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("back", [False, True])
def test_channel_k_is_rolled_by_k(axis: int, back: bool) -> None:
    x = torch.randn(2, 7, 4, 5)  # more channels than pixels: round and round
    expected = torch.stack([x[:, k].roll(-k if back else k, axis - 1) for k in range(7)], 1)
    assert torch.equal(rolled(x, axis, back=back), expected)
    assert torch.equal(rolled(rolled(x, axis), axis, back=True), x)
    assert torch.equal(rolled(x, axis)[:, 0], x[:, 0])


def slow(block: _Lo2, x: Tensor) -> Tensor:
    """The block with tokens as rows, as the code has it."""

    def layer(linear: nn.Conv2d, value: Tensor) -> Tensor:
        weights = linear.weight[:, :, 0, 0]
        return (value.movedim(1, -1) @ weights.T + linear.bias).movedim(-1, 1)

    def roll(value: Tensor, axis: int, sign: int) -> Tensor:
        return torch.cat([value[:, k : k + 1].roll(sign * k, axis) for k in range(value.shape[1])], 1)

    w1, w2 = block.rows_first
    w3, w4 = block.columns_first
    one = layer(w2, roll(F.gelu(layer(w1, roll(x, 2, 1))), 3, 1))
    other = layer(w4, roll(F.gelu(layer(w3, roll(x, 3, -1))), 2, 1))
    both = torch.cat([one + x, other + x], 1)
    mean, variance = both.mean(1, keepdim=True), both.var(1, keepdim=True, correction=0)
    long = layer(block.long, (both - mean) / (variance + 1e-5).sqrt()) + x
    depthwise, pointwise = block.local[0], block.local[1]
    local = F.relu(layer(pointwise, F.conv2d(x, depthwise.weight, depthwise.bias, padding=1, groups=x.shape[1])))
    return layer(block.both, torch.cat([long, local / (1 + 1e-5) ** 0.5], 1))


def test_the_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = _Lo2(6).double().eval()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), slow(block, x))


def test_a_pixel_sees_far_and_a_convolution_would_not() -> None:
    torch.manual_seed(0)
    block = _Lo2(8).eval()
    x = torch.zeros(1, 8, 16, 16, requires_grad=True)
    block(x + torch.randn(1, 8, 16, 16))[0, :, 8, 8].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[1, 8] or seen[15, 8] or seen[8, 1] or seen[8, 15]
    assert seen.sum() > 9 + 16


def test_skips_are_added() -> None:
    built = network().eval()
    maps = built.encode(torch.randn(1, 1, 32, 48))
    after = list(built.decoded(maps))
    added = torch.randn_like(maps[0])
    moved = list(built.decoded([maps[0] + added, *maps[1:]]))
    torch.testing.assert_close(moved[3] - after[3], added, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(after[:3], moved[:3], strict=True))


def test_the_deepest_level_alone_drops() -> None:
    rates = {name: layer.p for name, layer in network(dropout=0.3).named_modules() if isinstance(layer, nn.Dropout)}
    assert {name for name, rate in rates.items() if rate > 0} == {"encoder.4.1.drop"}
    assert len(rates) == 3


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="24 x 32 pixels"):
        network()(torch.zeros(1, 1, 24, 32))
    with pytest.raises(UsageError, match="base_width"):
        network(base_width=3)
