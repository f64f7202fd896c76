"""nnU-Net's U-Net with a residual encoder: its parameters, and a block and the way through the encoder written out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lemis.backbones import residual_encoder_unet
from lemis.settings import resolve


def network(in_channels: int = 1, num_classes: int = 3, **settings: Any) -> residual_encoder_unet.Backbone:
    torch.manual_seed(0)
    chosen = resolve(residual_encoder_unet.Settings, settings)
    return residual_encoder_unet.Backbone(chosen, in_channels=in_channels, num_classes=num_classes)


def counted(widths: list[int], blocks: list[int], dims: int, classes: int) -> int:
    """Blocks of two convolutions, a stem, 1x1 convolutions without bias where a stage is wider, one a decoder block."""

    def conv(i: int, o: int, side: int = 3) -> int:
        return i * o * side**dims + (3 * o if side > 1 else 2 * o)

    total = conv(1, widths[0]) + widths[0] * classes + classes
    for i, o, count in zip([widths[0], *widths], widths, blocks, strict=False):
        total += conv(i, o) + (2 * count - 1) * conv(o, o) + (conv(i, o, 1) if i != o else 0)
    return total + sum(i * o * 2**dims + o + conv(2 * o, o) for o, i in pairwise(widths))


@pytest.mark.parametrize(
    ("settings", "widths", "blocks", "parameters"),
    [
        ({"dims": 3, "n_stages": 6}, [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6], 102_348_259),  # ResEncL
        ({"n_stages": 7}, [32, 64, 128, 256, 512, 512, 512], [1, 3, 4, 6, 6, 6, 6], 105_913_891),
        ({"dims": 3, "n_stages": 4, "base_width": 16}, [16, 32, 64, 128], [1, 3, 4, 6], 6_477_875),
    ],
)
def test_it_has_as_many_parameters_as_a_plan_asks_for(
    settings: dict[str, Any], widths: list[int], blocks: list[int], parameters: int
) -> None:
    with torch.device("meta"):
        built = network(**settings)
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert parameters == counted(widths, blocks, settings.get("dims", 2), 3)


def test_it_is_the_layout_written_out() -> None:
    built = network(
        in_channels=2, dims=3, features_per_stage=[4, 4, 6], n_stages=3, n_blocks_per_stage=[1, 2, 1],
        strides=[1, [1, 2, 2], 2], begin_as_identity=False,
    ).double()  # fmt: skip
    weights = built.state_dict()

    def normed(x: Tensor, key: str) -> Tensor:
        return F.instance_norm(x, weight=weights[f"{key}.norm.weight"], bias=weights[f"{key}.norm.bias"], eps=1e-5)

    def convolved(x: Tensor, key: str, stride: Any = 1) -> Tensor:
        x = F.conv3d(x, weights[f"{key}.conv.weight"], weights[f"{key}.conv.bias"], stride=stride, padding=1)
        return normed(x, key)

    def block(x: Tensor, key: str, stride: Any = 1) -> Tensor:
        out = convolved(F.leaky_relu(convolved(x, f"{key}.conv1", stride)), f"{key}.conv2")
        if stride != 1:
            x = F.avg_pool3d(x, stride, stride)
        if out.shape[1] != x.shape[1]:
            x = normed(F.conv3d(x, weights[f"{key}.skip.1.conv.weight"]), f"{key}.skip.1")
        return F.leaky_relu(out + x)

    x = torch.randn(1, 2, 4, 8, 8, dtype=torch.float64)
    first = block(F.leaky_relu(convolved(x, "encoder.stem.convs.0")), "encoder.stages.0.blocks.0")
    second = block(block(first, "encoder.stages.1.blocks.0", (1, 2, 2)), "encoder.stages.1.blocks.1")
    third = block(second, "encoder.stages.2.blocks.0", (2, 2, 2))
    for found, expected in zip(built.encode(x), (first, second, third), strict=True):
        torch.testing.assert_close(found, expected)


def test_blocks_begin_as_their_input() -> None:
    built, other = network(base_width=4, n_stages=2), network(base_width=4, n_stages=2, begin_as_identity=False)
    key = "encoder.stages.1.blocks.1.conv2.norm.weight"
    assert torch.equal(built.state_dict()[key], torch.zeros(8))
    assert torch.equal(other.state_dict()[key], torch.ones(8))
    block = built.encoder.stages[1].blocks[1]
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x), F.leaky_relu(x))
