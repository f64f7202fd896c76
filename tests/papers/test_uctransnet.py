"""UCTransNet (Wang et al. 2022): its size, its two attentions by loops, and where its skips are mixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lemis.backbones import uctransnet
from lemis.errors import UsageError
from lemis.settings import resolve


def network(**settings: object) -> uctransnet.Backbone:
    torch.manual_seed(0)
    small = {"base_width": 2, "layers": 2, "heads": 2, "grid": 3}
    return uctransnet.Backbone(resolve(uctransnet.Settings, small, settings), in_channels=1, num_classes=3)


def test_the_published_size() -> None:
    with torch.device("meta"):
        built = uctransnet.Backbone(uctransnet.Settings(), in_channels=3, num_classes=1)
    assert sum(p.numel() for p in built.parameters()) == 66_430_657  # published as 66.43 M
    assert built.channels == (64, 128, 256, 512, 512)


def normed(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def test_attention_among_channels_by_loops() -> None:
    torch.manual_seed(0)
    widths, heads, tokens = (2, 3), 2, 4
    layer = uctransnet._Layer(widths, heads).double().eval()
    x = [torch.randn(1, tokens, c, dtype=torch.float64) for c in widths]
    together = sum(widths)
    joined = torch.stack([normed(torch.cat([one[0, p] for one in x])) for p in range(tokens)])  # tokens x C_S
    for i, c in enumerate(widths):
        own = torch.stack([normed(x[i][0, p]) for p in range(tokens)])
        attended = torch.zeros(tokens, c, dtype=torch.float64)
        for head in range(heads):
            query = own @ layer.queries[i].weight[head * c : (head + 1) * c].T
            key = joined @ layer.key.weight[head * together : (head + 1) * together].T
            value = joined @ layer.value.weight[head * together : (head + 1) * together].T
            scores = torch.empty(c, together, dtype=torch.float64)
            for a in range(c):
                for b in range(together):
                    scores[a, b] = sum(query[p, a] * key[p, b] for p in range(tokens)) / math.sqrt(together)
            scores = (scores - scores.mean()) / (scores.var(unbiased=False) + 1e-5).sqrt()
            share = scores.exp() / scores.exp().sum(1, keepdim=True)
            for p in range(tokens):
                for a in range(c):
                    attended[p, a] += sum(share[a, b] * value[p, b] for b in range(together)) / heads
        after = x[i][0] + attended @ layer.out[i].weight.T
        _, first, _, second = layer.mlps[i]
        hidden = torch.stack([normed(one) for one in after]) @ first.weight.T + first.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        torch.testing.assert_close(layer(x)[i][0], after + hidden @ second.weight.T + second.bias)


def test_channels_of_a_skip_are_weighed_by_what_the_decoder_holds() -> None:
    up = uctransnet._Up(2, 3).eval()
    joined: list[Tensor] = []
    up.block.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    x, skip = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 4, 4)
    up(x, skip)
    means = [[one[0, c].mean() for c in range(2)] for one in (skip, x)]
    for c in range(2):
        says = sum(up.of_skip.weight[c, k] * means[0][k] + up.of_deeper.weight[c, k] * means[1][k] for k in range(2))
        says = (says + up.of_skip.bias[c] + up.of_deeper.bias[c]) / 2
        torch.testing.assert_close(joined[0][0, c], (skip[0, c] / (1 + torch.exp(-says))).clamp(min=0))
    torch.testing.assert_close(joined[0][0, 2:, ::2, 1::2], x[0])  # nearest


def test_maps_and_parts() -> None:
    built = network().eval()
    maps = built.encode(torch.randn(1, 1, 48, 64))
    assert [tuple(one.shape[1:]) for one in maps] == [(2, 48, 64), (4, 24, 32), (8, 12, 16), (16, 6, 8), (16, 3, 4)]
    assert [tuple(one.shape[1:]) for one in built.decoded(maps)] == [(8, 6, 8), (4, 12, 16), (2, 24, 32), (2, 48, 64)]
    parts = {name: built.part_of(name) for name, _ in built.named_parameters()}
    assert parts["encoder.1.0.weight"] == "encoder"
    assert parts["skips.layers.0.mlps.0.0.weight"] == parts["skips.layers.1.key.weight"] == "decoder 1"
    assert parts["skips.layers.1.mlps.3.0.weight"] == parts["skips.back.3.0.weight"] == "decoder 1"
    assert parts["skips.layers.1.mlps.0.0.weight"] == parts["skips.norms.0.weight"] == "decoder 4"  # the finest skip


def test_every_skip_hears_of_every_other() -> None:
    built = network().eval()
    maps = built.encode(torch.randn(1, 1, 32, 32))[:-1]
    before = built.skips(maps)
    for changed in range(4):
        moved = list(maps)
        moved[changed] = maps[changed] + torch.randn_like(maps[changed])
        for one, other in zip(before, built.skips(moved), strict=True):
            assert not torch.equal(one, other)


def test_a_transformer_that_says_nothing_leaves_the_skips() -> None:
    built = network().eval()
    maps = built.encode(torch.randn(1, 1, 32, 32))[:-1]
    for back in built.skips.back:
        torch.nn.init.constant_(back[1].bias, -100.0)  # ReLU lets nothing through
    for one, other in zip(built.skips(maps), maps, strict=True):
        assert torch.equal(one, other)


def test_places_are_learned_on_a_grid_and_interpolated_elsewhere() -> None:
    places = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert uctransnet._resized(places, 2, 2) is places
    torch.testing.assert_close(uctransnet._resized(places, 2, 4)[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.0]))
    built = network().eval()
    x = torch.randn(1, 1, 48, 48)
    before = built(x)
    torch.nn.init.normal_(built.skips.places[0])
    assert not torch.allclose(built(x), before)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="40 x 64 pixels") as error:
        network()(torch.zeros(1, 1, 40, 64))
    assert "48 x 64" in error.value.next
