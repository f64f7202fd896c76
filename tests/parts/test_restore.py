"""Restoring an image: the size that comes out, and the error of some of its pixels."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis import plugins
from lemis.contracts import Backbone
from lemis.parts.restore import Restore, error_of_nothing, spread, squared_error
from lemis.settings import resolve

FEW = examples(20)


def network(name: str, how: dict[str, Any], channels: int) -> Backbone:
    module = plugins.load("backbones", name)
    built: Backbone = module.Backbone(resolve(module.Settings, how), in_channels=channels, num_classes=3)
    return built


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("unet2d", {"base_width": 4}),
        ("fcn", {"base_width": 4, "levels": []}),
        ("swin_unet", {"embedding": 12, "window": 3}),
        ("swin_unetr", {"feature_size": 12, "window": 3}),
        ("unet3d", {"base_width": 4, "levels": 3}),
    ],
)
def test_it_gives_an_image_of_the_size_and_channels_that_came_in(name: str, how: Any, channels: int) -> None:
    torch.manual_seed(0)
    backbone = network(name, how, channels)
    x = torch.randn(2, channels, *((64, 32) if backbone.dims == 2 else (8, 12, 16)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = Restore(backbone)(backbone.decode(backbone.encode(x)))
    assert restored.shape == x.shape
    assert restored.dtype == torch.float32


def test_a_coarse_cell_gives_its_own_pixels() -> None:
    backbone = network("fcn", {"base_width": 4, "levels": []}, 1)
    restore, stride = Restore(backbone), backbone.decoder_strides[-1]
    x = torch.randn(1, backbone.decoder_channels[-1], 4, 5)
    y = x.clone()
    y[..., 1, 2] += 1
    changed = (restore(x) - restore(y)).abs()[0, 0] > 1e-6
    assert stride == 4
    assert changed[4:8, 8:12].all()
    assert changed.sum() == 16


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_spreading_is_the_pixel_shuffle(stride: int) -> None:
    x = torch.randn(2, 3 * stride**2, 4, 5)
    assert torch.equal(spread(x, stride), torch.nn.functional.pixel_shuffle(x, stride))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_spreading_in_3d_gives_each_cell_its_voxels(stride: int) -> None:
    channels, cells = 2, (2, 3, 4)
    x = torch.randn(2, channels * stride**3, *cells)
    out = spread(x, stride)
    assert out.shape == (2, channels, *(stride * n for n in cells))
    for row, c, z, y, col in product(range(2), range(channels), *(range(stride * n) for n in cells)):
        number = ((c * stride + z % stride) * stride + y % stride) * stride + col % stride
        assert out[row, c, z, y, col] == x[row, number, z // stride, y // stride, col // stride]


@FEW
@given(st.integers(1, 3), st.integers(0, 2**32))
def test_the_error_is_that_of_the_chosen_pixels(channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    guess, image = torch.randn(2, 2, channels, 3, 4, generator=generator).double()
    where = torch.rand(2, 1, 3, 4, generator=generator) < 0.5
    terms = [
        float(guess[b, c, row, col] - image[b, c, row, col]) ** 2
        for b in range(2) for c in range(channels) for row in range(3) for col in range(4) if where[b, 0, row, col]
    ]  # fmt: skip
    expected = sum(terms) / max(len(terms), 1)
    assert float(squared_error(guess, image, where)) == pytest.approx(expected, rel=1e-9)
    nothing = float(squared_error(torch.zeros_like(image), image, where))
    assert error_of_nothing(image, where) == pytest.approx(nothing, rel=1e-9)
