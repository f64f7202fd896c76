"""V-Net (Milletari et al. 2016): its parameters, its maps, and the same network written out, residual or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lemis.backbones import vnet
from lemis.errors import UsageError
from lemis.settings import resolve


def network(in_channels: int = 1, num_classes: int = 3, **settings: Any) -> vnet.Backbone:
    torch.manual_seed(0)
    chosen = resolve(vnet.Settings, settings)
    return vnet.Backbone(chosen, in_channels=in_channels, num_classes=num_classes)


@pytest.mark.parametrize("residual", [False, True])
def test_the_published_size_and_maps(residual: bool) -> None:
    with torch.device("meta"):
        built = network(num_classes=9, residual=residual)
        maps = built.encode(torch.zeros(1, 1, 128, 128, 64))
        assert [tuple(features.shape[1:]) for features in maps] == [
            (16, 128, 128, 64), (32, 64, 64, 32), (64, 32, 32, 16), (128, 16, 16, 8), (256, 8, 8, 4),
        ]  # fmt: skip
        assert built(torch.zeros(1, 1, 128, 128, 64)).shape == (1, 9, 128, 128, 64)
    assert sum(p.numel() for p in built.parameters()) == 9_448_985  # 9.449 million are printed


@pytest.mark.parametrize("residual", [False, True])
def test_it_is_the_layout_written_out(residual: bool) -> None:
    built = network(in_channels=2, base_width=3, convolutions=[1, 2, 3], residual=residual).double()
    weights = built.state_dict()

    def normed(x: torch.Tensor, key: str) -> torch.Tensor:
        scale, shift = weights[f"{key}.1.weight"], weights[f"{key}.1.bias"]
        return F.relu(F.batch_norm(x, None, None, scale, shift, training=True))

    def level(x: torch.Tensor, key: str, count: int) -> torch.Tensor:
        y = x
        for step in range(count):
            of_step = f"{key}.{step}"
            y = F.conv3d(y, weights[f"{of_step}.0.weight"], weights[f"{of_step}.0.bias"], padding=1)
            y = normed(y, of_step)
        return y + x if residual and key != "encoder.0" else y

    x = torch.randn(2, 2, 8, 12, 16, dtype=torch.float64)
    maps = [level(x, "encoder.0", 1)]
    for k, count in ((1, 2), (2, 3)):
        down = F.conv3d(
            maps[-1], weights[f"encoder.{k}.down.0.weight"], weights[f"encoder.{k}.down.0.bias"], stride=2
        )  # fmt: skip
        maps.append(level(normed(down, f"encoder.{k}.down"), f"encoder.{k}.level", count))
    y = maps[2]
    for k, (skip, count) in enumerate(((maps[1], 2), (maps[0], 1))):
        up = F.conv_transpose3d(y, weights[f"decoder.{k}.up.0.weight"], weights[f"decoder.{k}.up.0.bias"], stride=2)
        y = level(normed(up, f"decoder.{k}.up") + skip, f"decoder.{k}.level", count)
    logits = F.conv3d(y, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(built(x), logits)
    for got, expected in zip(built.encode(x), maps, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("convolutions", "width", "cells"), [((1, 1), 1, (1, 2, 3)), ((2, 1, 3), 5, (1, 1, 2)), ((1,) * 6, 2, (2, 1, 1))]
)
def test_other_sizes_keep_the_promises(convolutions: tuple[int, ...], width: int, cells: tuple[int, ...]) -> None:
    built = network(convolutions=convolutions, base_width=width)
    x = torch.randn(1, 1, *(cell * 2 ** (len(convolutions) - 1) for cell in cells))
    for features, channels, side in zip(built.encode(x), built.channels, built.strides, strict=True):
        assert features.shape == (1, channels, *(length // side for length in x.shape[2:]))
    logits = built(x)
    assert logits.shape == (1, 3, *x.shape[2:])
    assert logits.isfinite().all()


def test_a_single_cell_trains_and_predicts() -> None:
    built = network(base_width=2)
    x = torch.randn(1, 1, 16, 16, 16)
    assert built(x).isfinite().all()
    assert built.eval()(x).isfinite().all()


def test_volumes_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="16 x 32 x 16"):
        network(base_width=2)(torch.zeros(1, 1, 16, 20, 16))
    with pytest.raises(UsageError, match="convolutions"):
        resolve(vnet.Settings, {"convolutions": [3]})
