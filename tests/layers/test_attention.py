"""Attention among points: the formula point by point, and nothing that depends on padding or on other images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lemis.backbones import fcn, kaf_unet
from lemis.errors import UsageError
from lemis.layers.attention import (
    PlaceEncoding,
    PointAttention,
    PointMLP,
    compact,
    mean_of_points,
    pack,
    points_of,
    unpack,
)
from lemis.settings import resolve

WIDTH, HEADS = 16, 4


def keypoints(counts: list[int], most: int, seed: int = 0) -> Tensor:
    places = torch.rand(len(counts), most, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 40
    for row, count in zip(places, counts, strict=True):
        row[count:] = torch.nan
    return places


def layer(seed: int = 0) -> PointAttention:
    torch.manual_seed(seed)
    built = PointAttention(WIDTH, HEADS).double()
    for norm in (module for module in built.modules() if hasattr(module, "running_mean")):
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return built.eval()


def slow(built: PointAttention, d: list[Tensor], sources: list[Tensor]) -> list[Tensor]:
    """The formula for one image after the other, one head and one point after the other."""
    out = []
    for own, other in zip(d, sources, strict=True):
        rows = []
        for point in own:
            heads = []
            size = WIDTH // HEADS
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                query = built.query(point)[part]
                weights = torch.stack([query @ built.key(one)[part] / math.sqrt(size) for one in other]).softmax(0)
                heads.append(sum(w * built.value(one)[part] for w, one in zip(weights, other, strict=True)))
            message = built.join(torch.cat(heads))  # type: ignore[arg-type]
            rows.append(point + built.mlp(torch.cat([point, message])[None])[0])
        out.append(torch.stack(rows))
    return out


def test_equals_the_formula() -> None:
    built, counts = layer(), [3, 5, 1]
    points = points_of(keypoints(counts, 6))
    d = torch.randn(9, WIDTH, dtype=torch.float64)
    parts = list(d.split(counts))
    torch.testing.assert_close(built(d, points), torch.cat(slow(built, parts, parts)))
    partner = torch.tensor([1, 2, 0])
    crossed = slow(built, parts, [parts[1], parts[2], parts[0]])
    torch.testing.assert_close(built(d, points, partner), torch.cat(crossed))


def test_an_image_without_points_says_nothing() -> None:
    built = layer()
    points = points_of(keypoints([2, 0], 4))
    d = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    out = built(d, points, torch.tensor([1, 0]))
    silent = d + built.mlp(torch.cat([d, built.join.bias.expand(2, -1)], 1))
    torch.testing.assert_close(out, silent)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in built.parameters())
    assert d.grad is not None
    assert torch.isfinite(d.grad).all()


def test_more_padding_and_other_images_change_nothing() -> None:
    built = layer()
    d = torch.randn(7, WIDTH, dtype=torch.float64)
    expected = built(d, points_of(keypoints([3, 4], 4)))
    torch.testing.assert_close(built(d, points_of(keypoints([3, 4], 9))), expected, rtol=0, atol=1e-12)
    alone = built(d[:3], points_of(keypoints([3], 4)))
    torch.testing.assert_close(alone, expected[:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [1]])
def test_no_point_and_one_train(counts: list[int]) -> None:
    built = layer().train()
    points = points_of(keypoints(counts, 3))
    out = built(torch.randn(sum(counts), WIDTH, dtype=torch.float64), points)
    out.sum().backward()
    assert out.shape == (sum(counts), WIDTH)
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("width", "heads", "fits"), [(16, 3, 24), (256, 7, 280), (40, 12, 48)])
def test_heads_that_do_not_divide_are_refused_with_a_width_that_they_do(width: int, heads: int, fits: int) -> None:
    with pytest.raises(UsageError, match=f"{heads} heads") as error:
        PointAttention(width, heads)
    assert error.value.next.startswith(f"backbone.keypoint_width={fits},")
    for module in (kaf_unet, fcn):
        how = {"base_width": 2, "levels": [1], "pairs": 1, "heads": heads, "keypoint_width": width}
        with torch.device("meta"):
            with pytest.raises(UsageError, match=f"{heads} heads"):
                module.Backbone(resolve(module.Settings, how), in_channels=1, num_classes=2)
            module.Backbone(resolve(module.Settings, how, {"keypoint_width": fits}), in_channels=1, num_classes=2)


def test_pack_and_unpack() -> None:
    points = points_of(keypoints([2, 0, 3], 4))
    x = torch.randn(5, 2)
    padded = unpack(x, points)
    assert padded.shape == (3, 4, 2)
    assert torch.equal(pack(padded, points), x)
    assert padded[~points.valid].abs().max() == 0
    torch.testing.assert_close(mean_of_points(x, points), torch.stack([x[:2].mean(0), torch.zeros(2), x[2:].mean(0)]))


def test_compact_puts_points_first_and_keeps_what_is_packed() -> None:
    places = keypoints([4, 4], 4)
    places[0, 0] = places[1, 1] = places[1, 3] = torch.nan
    other = torch.arange(8.0).view(2, 4, 1)
    dense, moved = compact(places, other)
    assert dense.shape == (2, 3, 2)
    assert moved[..., 0].tolist() == [[1, 2, 3], [4, 6, 5]]
    assert torch.equal(pack(dense, points_of(dense)), pack(places, points_of(places)))
    nothing = torch.full((2, 5, 2), torch.nan)
    assert compact(nothing)[0].shape == (2, 1, 2), "one row, so that nothing has length 0"


def test_parameter_counts_of_the_notes() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(PointAttention(256, 4)) == 658_176
    assert count(PlaceEncoding(256)) == 110_304


def test_last_bias_begins_at_zero() -> None:
    assert PointMLP((4, 8, 3)).layers[-1].bias.abs().max() == 0  # type: ignore[union-attr,operator]


def test_places_are_centred_and_scaled() -> None:
    encode = PlaceEncoding(16).double().eval()
    place = torch.tensor([[10.0, 20.0], [0.0, 0.0]], dtype=torch.float64)
    units = torch.tensor([[0.0, 0.0], [-10 / 28, -20 / 28]], dtype=torch.float64)
    torch.testing.assert_close(encode(place, (20, 40)), encode.mlp(units))
