"""3D U-Net (Cicek et al. 2016): its parameters, its maps, and the same network written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lemis.backbones import unet3d
from lemis.errors import UsageError
from lemis.settings import resolve


def network(in_channels: int = 1, num_classes: int = 3, **settings: Any) -> unet3d.Backbone:
    torch.manual_seed(0)
    chosen = resolve(unet3d.Settings, settings)
    return unet3d.Backbone(chosen, in_channels=in_channels, num_classes=num_classes)


@pytest.mark.parametrize(
    ("norm", "parameters"),
    [("instance", 16_313_769), ("group", 16_318_441), ("batch", 16_318_441)],  # 16.313 million are printed
)
def test_the_published_size(norm: str, parameters: int) -> None:
    with torch.device("meta"):
        built = network(num_classes=9, norm=norm)
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_maps_of_a_published_volume() -> None:
    with torch.device("meta"):
        built = network(num_classes=9)
        maps = built.encode(torch.zeros(1, 1, 128, 128, 64))
        assert [tuple(features.shape[1:]) for features in maps] == [
            (64, 128, 128, 64), (128, 64, 64, 32), (256, 32, 32, 16), (512, 16, 16, 8),
        ]  # fmt: skip
        assert built.decode(maps).shape == (1, 64, 128, 128, 64)
        assert built(torch.zeros(1, 1, 128, 128, 64)).shape == (1, 9, 128, 128, 64)


def test_it_is_the_layout_written_out() -> None:
    built = network(in_channels=2, base_width=4, levels=3).double()
    weights = built.state_dict()

    def convolved(x: torch.Tensor, key: str) -> torch.Tensor:
        return F.relu(F.instance_norm(F.conv3d(x, weights[key], padding=1)))

    x = torch.randn(2, 2, 8, 12, 16, dtype=torch.float64)
    maps = [convolved(convolved(x, "encoder.0.0.0.weight"), "encoder.0.1.0.weight")]
    for level in (1, 2):
        pooled = F.max_pool3d(maps[-1], 2)
        maps.append(convolved(convolved(pooled, f"encoder.{level}.0.0.weight"), f"encoder.{level}.1.0.weight"))
    y = maps[2]
    for block, skip in enumerate((maps[1], maps[0])):
        y = torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), skip], 1)
        y = convolved(convolved(y, f"decoder.{block}.first.weight"), f"decoder.{block}.then.2.weight")
    logits = F.conv3d(y, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(built(x), logits)
    for got, expected in zip(built.encode(x), maps, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize(("levels", "width", "cells"), [(2, 2, (1, 2, 3)), (3, 6, (1, 1, 2)), (5, 2, (2, 1, 1))])
def test_other_sizes_keep_the_promises(levels: int, width: int, cells: tuple[int, ...], norm: str) -> None:
    built = network(levels=levels, base_width=width, norm=norm)
    stride = 2 ** (levels - 1)
    x = torch.randn(1, 1, *(cell * stride for cell in cells))
    maps = built.encode(x)
    assert len(built.decoder) == levels - 1
    for features, channels, side in zip(maps, built.channels, built.strides, strict=True):
        assert features.shape == (1, channels, *(length // side for length in x.shape[2:]))
    logits = built(x)
    assert logits.shape == (1, 3, *x.shape[2:])
    assert logits.isfinite().all()


def test_one_cell_is_refused_where_it_has_no_variance() -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    assert network(base_width=4, norm="batch")(x).isfinite().all()
    for norm in ("instance", "group"):
        with pytest.raises(UsageError, match="8 x 8 x 16"):
            network(base_width=4, norm=norm)(x)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 2"):
        resolve(unet3d.Settings, {"base_width": 5})
    with pytest.raises(UsageError, match="norm='layer'"):
        resolve(unet3d.Settings, {"norm": "layer"})
