"""nnU-Net's U-Net: its parameters, its maps along each axis, and the same network written out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lemis.backbones import plainconv_unet
from lemis.errors import UsageError
from lemis.settings import resolve


def network(in_channels: int = 1, num_classes: int = 3, **settings: Any) -> plainconv_unet.Backbone:
    torch.manual_seed(0)
    chosen = resolve(plainconv_unet.Settings, settings, prefix="backbone.")
    return plainconv_unet.Backbone(chosen, in_channels=in_channels, num_classes=num_classes)


def counted(widths: list[int], dims: int, classes: int) -> int:
    """Two convolutions a stage, transposed ones of side 2, all with bias; two numbers of each normalised channel."""

    def conv(i: int, o: int) -> int:
        return i * o * 3**dims + o + 2 * o

    encoder = sum(conv(i, o) + conv(o, o) for i, o in pairwise([1, *widths]))
    decoder = sum(i * o * 2**dims + o + conv(2 * o, o) + conv(o, o) for o, i in pairwise(widths))
    return encoder + decoder + widths[0] * classes + classes


@pytest.mark.parametrize(
    ("settings", "widths", "parameters"),
    [
        ({"n_stages": 6}, [32, 64, 128, 256, 512, 512], 20_617_187),
        ({"dims": 3, "n_stages": 6}, [32, 64, 128, 256, 320, 320], 31_194_083),
        ({"dims": 3, "n_stages": 4, "base_width": 16}, [16, 32, 64, 128], 1_402_003),
    ],
)
def test_it_has_as_many_parameters_as_a_plan_asks_for(
    settings: dict[str, Any], widths: list[int], parameters: int
) -> None:
    with torch.device("meta"):
        built = network(**settings)
    assert list(built.channels) == widths
    assert sum(p.numel() for p in built.parameters()) == parameters == counted(widths, settings.get("dims", 2), 3)


def test_strides_and_kernels_differ_along_the_axes() -> None:
    built = network(dims=3, base_width=4, n_stages=4, strides=[1, [1, 2, 2], [1, 2, 2], [2, 2, 2]], kernel_sizes=[
        [1, 3, 3], [1, 3, 3], 3, 3])  # fmt: skip
    assert built.axis_strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8))
    assert (built.strides, built.decoder_strides, built.divisors) == ((1, 2, 4, 8), (4, 2, 1), (2, 8, 8))
    assert built.decoder_axis_strides == ((1, 4, 4), (1, 2, 2), (1, 1, 1))
    x = torch.randn(1, 1, 6, 16, 24)
    maps = built.encode(x)
    assert [tuple(one.shape[2:]) for one in maps] == [(6, 16, 24), (6, 8, 12), (6, 4, 6), (3, 2, 3)]
    assert [tuple(one.shape[2:]) for one in built.decoded(maps)] == [(6, 4, 6), (6, 8, 12), (6, 16, 24)]
    assert built(x).shape == (1, 3, 6, 16, 24)
    with pytest.raises(UsageError, match="5 x 16 x 24 voxels") as caught:
        built(x[:, :, :5])
    assert (caught.value.next, "multiples of 2 x 8 x 8" in caught.value.allowed) == (
        "pad or crop it to 6 x 16 x 24",
        True,
    )
    with pytest.raises(UsageError, match="2 x 8 x 8 voxels") as caught:
        built(torch.zeros(1, 1, 2, 8, 8))
    assert caught.value.next == "pad or crop it to 2 x 8 x 16"


def test_it_is_the_layout_written_out() -> None:
    built = network(
        in_channels=2, base_width=4, n_stages=3, n_conv_per_stage=[1, 2, 1], strides=[1, [2, 1], 2]
    ).double()
    weights = built.state_dict()

    def block(x: Tensor, key: str, stride: Any = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{key}.conv.weight"], weights[f"{key}.conv.bias"], stride=stride, padding=1)
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{key}.norm.weight"][:, None, None] + weights[f"{key}.norm.bias"][:, None, None]
        return torch.where(x > 0, x, 0.01 * x)

    x = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    first = block(x, "encoder.stages.0.0.convs.0")
    second = block(block(first, "encoder.stages.1.0.convs.0", (2, 1)), "encoder.stages.1.0.convs.1")
    y = block(second, "encoder.stages.2.0.convs.0", 2)
    for number, (skip, stride) in enumerate(((second, 2), (first, (2, 1)))):
        up = F.conv_transpose2d(
            y, weights[f"decoder.transpconvs.{number}.weight"], weights[f"decoder.transpconvs.{number}.bias"], stride
        )
        y = torch.cat([up, skip], 1)
        for convolution in (0, 1):
            y = block(y, f"decoder.stages.{number}.convs.{convolution}")
    logits = F.conv2d(y, weights["decoder.seg_layers.1.weight"], weights["decoder.seg_layers.1.bias"])
    torch.testing.assert_close(built(x), logits)


@pytest.mark.parametrize(
    ("settings", "given", "next"),
    [
        ({"features_per_stage": [4, 8]}, "features_per_stage=[4,8]", "backbone.features_per_stage=[8,8,8,8,8]"),
        ({"strides": [2, 2, 2, 2, 2]}, "strides=[2,2,2,2,2]", "backbone.strides=[1,2,2,2,2]"),
        ({"kernel_sizes": 4}, "kernel_sizes=4", "backbone.kernel_sizes=3"),
        (
            {"n_stages": 2, "kernel_sizes": [[3, 3, 3], 3]}, "kernel_sizes=[[3,3,3],3]",
            "backbone.kernel_sizes=[[3,3],[3,3]]",
        ),
        (
            {"n_conv_per_stage_decoder": [1]}, "n_conv_per_stage_decoder=[1]",
            "backbone.n_conv_per_stage_decoder=[1,1,1,1]",
        ),
    ],
)  # fmt: skip
def test_numbers_that_do_not_go_together_are_refused(settings: dict[str, Any], given: str, next: str) -> None:
    with pytest.raises(UsageError) as caught:
        network(**settings)
    assert (caught.value.given, caught.value.next) == (f"backbone.{given}", next)
