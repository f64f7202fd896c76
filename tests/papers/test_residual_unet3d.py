"""Residual 3D U-Net (Lee et al. 2017): its parameters, its maps, and the same network written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lemis.backbones import residual_unet3d
from lemis.errors import UsageError
from lemis.settings import resolve


def network(in_channels: int = 1, num_classes: int = 3, **settings: Any) -> residual_unet3d.Backbone:
    torch.manual_seed(0)
    chosen = resolve(residual_unet3d.Settings, settings)
    return residual_unet3d.Backbone(chosen, in_channels=in_channels, num_classes=num_classes)


def test_the_published_size_and_maps() -> None:
    with torch.device("meta"):
        built = network(num_classes=9)
        maps = built.encode(torch.zeros(1, 1, 128, 128, 64))
        assert [tuple(features.shape[1:]) for features in maps] == [
            (64, 128, 128, 64), (128, 64, 64, 32), (256, 32, 32, 16), (512, 16, 16, 8), (1024, 8, 8, 4),
        ]  # fmt: skip
        assert built(torch.zeros(1, 1, 128, 128, 64)).shape == (1, 9, 128, 128, 64)
    assert sum(p.numel() for p in built.parameters()) == 141_229_257  # 141.229 million are printed


def test_it_is_the_layout_written_out() -> None:
    built = network(in_channels=2, base_width=3, levels=3).double()
    weights = built.state_dict()

    def normed(x: torch.Tensor, key: str) -> torch.Tensor:
        return F.instance_norm(F.conv3d(x, weights[f"{key}.0.weight"], padding=1))

    def block(x: torch.Tensor, key: str) -> torch.Tensor:
        y = F.elu(normed(x, f"{key}.first"))
        return F.elu(normed(F.elu(normed(y, f"{key}.second")), f"{key}.third") + y)

    x = torch.randn(2, 2, 8, 12, 16, dtype=torch.float64)
    maps = [block(x, "encoder.0")]
    for level in (1, 2):
        maps.append(block(F.max_pool3d(maps[-1], 2), f"encoder.{level}"))
    y = maps[2]
    for step, skip in enumerate((maps[1], maps[0])):
        up = F.conv_transpose3d(
            y, weights[f"decoder.{step}.up.weight"], weights[f"decoder.{step}.up.bias"],
            stride=2, padding=1, output_padding=1,
        )  # fmt: skip
        y = block(up + skip, f"decoder.{step}.block")
    logits = F.conv3d(y, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(built(x), logits)
    for got, expected in zip(built.encode(x), maps, strict=True):
        torch.testing.assert_close(got, expected)


def test_decoding_leaves_the_maps_as_they_were() -> None:
    built = network(base_width=3, levels=3)
    maps = built.encode(torch.randn(1, 1, 8, 12, 16))
    before = [features.clone() for features in maps]
    built.decode(maps)
    assert all(torch.equal(features, kept) for features, kept in zip(maps, before, strict=True))


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize(("levels", "width", "cells"), [(2, 1, (1, 2, 3)), (3, 6, (1, 1, 2)), (6, 2, (2, 1, 1))])
def test_other_sizes_keep_the_promises(levels: int, width: int, cells: tuple[int, ...], norm: str) -> None:
    built = network(levels=levels, base_width=width, norm=norm)
    x = torch.randn(1, 1, *(cell * 2 ** (levels - 1) for cell in cells))
    for features, channels, side in zip(built.encode(x), built.channels, built.strides, strict=True):
        assert features.shape == (1, channels, *(length // side for length in x.shape[2:]))
    logits = built(x)
    assert logits.shape == (1, 3, *x.shape[2:])
    assert logits.isfinite().all()


def test_one_cell_is_refused_where_it_has_no_variance() -> None:
    assert network(base_width=4, norm="batch")(torch.randn(1, 1, 16, 16, 16)).isfinite().all()
    with pytest.raises(UsageError, match="16 x 16 x 32"):
        network(base_width=4)(torch.randn(1, 1, 16, 16, 16))
