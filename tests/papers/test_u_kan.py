"""U-KAN (Li et al. 2025): its size, its splines by their recursion, its layer by loops, and where skips are added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lemis.backbones import u_kan
from lemis.errors import UsageError
from lemis.settings import resolve


def network(**settings: object) -> u_kan.Backbone:
    torch.manual_seed(0)
    return u_kan.Backbone(resolve(u_kan.Settings, {"base_width": 4}, settings), in_channels=1, num_classes=3)


def test_the_published_size() -> None:
    with torch.device("meta"):
        built = u_kan.Backbone(u_kan.Settings(), in_channels=3, num_classes=1)
    assert sum(p.numel() for p in built.parameters()) == 6_356_689  # published as 6.36 M
    assert built.channels == (16, 32, 128, 160, 256)


def basis(k: int, p: int, x: float, knots: list[float]) -> float:
    """B_{k, p}(x) as Cox and de Boor write it."""
    if p == 0:
        return 1.0 if knots[k] <= x < knots[k + 1] else 0.0
    rising = (x - knots[k]) / (knots[k + p] - knots[k]) * basis(k, p - 1, x, knots)
    falling = (knots[k + p + 1] - x) / (knots[k + p + 1] - knots[k + 1]) * basis(k + 1, p - 1, x, knots)
    return rising + falling


def test_splines_by_their_recursion() -> None:
    knots = u_kan._Layer(1, 1).knots.double()
    assert knots.tolist() == pytest.approx([-2.2, -1.8, -1.4, -1, -0.6, -0.2, 0.2, 0.6, 1, 1.4, 1.8, 2.2])
    places = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    expected = [[basis(k, 3, float(x), knots.tolist()) for k in range(8)] for x in places]
    torch.testing.assert_close(u_kan.splines(places, knots), torch.tensor(expected, dtype=torch.float64))


def test_splines_sum_to_one_on_the_grid_and_end_beyond_it() -> None:
    knots = u_kan._Layer(1, 1).knots.double()
    inside, outside = torch.linspace(-1, 0.999, 50, dtype=torch.float64), torch.tensor([-9.0, -2.3, 2.3, 9.0]).double()
    torch.testing.assert_close(u_kan.splines(inside, knots).sum(-1), torch.ones(50, dtype=torch.float64))
    assert not u_kan.splines(outside, knots).any()
    # In the middle of the grid, at a knot, three cubic splines meet: 1/6, 4/6, 1/6.
    at_knot = u_kan.splines(knots[5:6], knots)[0]
    assert sorted(at_knot.tolist())[-3:] == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_the_layer_by_loops() -> None:
    torch.manual_seed(0)
    layer = u_kan._Layer(3, 2).double()
    torch.nn.init.normal_(layer.coefficients)
    x = torch.tensor([[-0.7, 0.1, 3.0]], dtype=torch.float64)
    knots = layer.knots.double().tolist()
    for j in range(2):
        total = 0.0
        for i in range(3):
            value = float(x[0, i])
            curve = sum(layer.coefficients[j, i, k].item() * basis(k, 3, value, knots) for k in range(8))
            silu = value / (1 + torch.exp(torch.tensor(-value)).item())
            total += layer.base[j, i].item() * silu + layer.scale[j, i].item() * curve
        assert layer(x)[0, j].item() == pytest.approx(total, rel=1e-5)


def test_skips_are_added_and_the_last_block_has_none() -> None:
    built = network().eval()
    maps = built.encode(torch.randn(1, 1, 64, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (2, 32, 48), (4, 16, 24), (16, 8, 12), (20, 4, 6), (32, 2, 3),
    ]  # fmt: skip
    after = list(built.decoded(maps))
    added = torch.randn_like(maps[0])
    moved = list(built.decoded([maps[0] + added, *maps[1:]]))
    torch.testing.assert_close(moved[3] - after[3], added, rtol=1e-4, atol=1e-5)
    for one, other in zip(after[:3], moved[:3], strict=True):
        assert torch.equal(one, other)


def test_a_block_that_says_nothing_is_the_identity() -> None:
    block = u_kan._Block(4).eval()
    x = torch.randn(1, 4, 5, 6)
    assert not torch.allclose(block(x), x)
    torch.nn.init.constant_(block.mixed[2][1].bias, -100.0)  # ReLU lets nothing through
    torch.testing.assert_close(block(x), x)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="48 x 64 pixels") as error:
        network()(torch.zeros(1, 1, 48, 64))
    assert "64 x 64" in error.value.next
    with pytest.raises(UsageError, match="base_width"):
        network(base_width=3)


def test_it_is_the_same_in_both_directions_of_a_symmetric_image() -> None:
    built = network().eval()
    x = torch.randn(1, 1, 32, 32)

    def symmetric(layer: torch.nn.Module) -> None:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data.copy_((layer.weight + layer.weight.mT) / 2)

    built.apply(symmetric)
    out: Tensor = built(x)
    torch.testing.assert_close(built(x.mT), out.mT, rtol=1e-4, atol=1e-5)
