"""Attention U-Net in 3D (Oktay et al. 2018): its parameters, the gate as written, and what it does to the U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lemis.backbones import attention_unet3d, unet3d
from lemis.errors import UsageError
from lemis.settings import resolve


def network(num_classes: int = 3, **settings: Any) -> attention_unet3d.Backbone:
    torch.manual_seed(0)
    chosen = resolve(attention_unet3d.Settings, settings)
    return attention_unet3d.Backbone(chosen, in_channels=1, num_classes=num_classes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_size() -> None:
    with torch.device("meta"):
        gated = network(num_classes=9)
        plain = unet3d.Backbone(unet3d.Settings(), in_channels=1, num_classes=9)
    assert count(gated) == 16_836_146  # 16.836 million are printed
    assert count(gated) == count(plain) + sum(count(up.gate) for up in gated.decoder)
    assert set(plain.state_dict()) < set(gated.state_dict()), "weights of the U-Net can be carried over"
    assert (gated.channels, gated.strides) == (plain.channels, plain.strides)
    assert (gated.decoder_channels, gated.decoder_strides) == (plain.decoder_channels, plain.decoder_strides)


def test_maps_of_a_published_volume() -> None:
    with torch.device("meta"):
        built = network(num_classes=9)
        maps = built.encode(torch.zeros(1, 1, 128, 128, 64))
        assert [tuple(features.shape[1:]) for features in maps] == [
            (64, 128, 128, 64), (128, 64, 64, 32), (256, 32, 32, 16), (512, 16, 16, 8),
        ]  # fmt: skip
        assert built(torch.zeros(1, 1, 128, 128, 64)).shape == (1, 9, 128, 128, 64)


@pytest.mark.parametrize("training", [True, False])
def test_the_gate_is_the_formula_at_the_size_of_the_skip(training: bool) -> None:
    torch.manual_seed(0)
    gate = attention_unet3d._Gate(4, 3).double()
    steps = {}
    for name, (convolution, norm) in (("g", gate.of_gating), ("x", gate.of_skip), ("psi", gate.psi)):
        nn.init.normal_(convolution.bias)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        steps[name] = (convolution, norm, norm.running_mean.clone(), norm.running_var.clone())
    gate.train(training)

    def applied(name: str, x: torch.Tensor) -> torch.Tensor:
        convolution, norm, mean, var = steps[name]
        weight = convolution.weight[:, :, 0, 0, 0]
        x = torch.einsum("oi,binhw->bonhw", weight, x) + convolution.bias.view(1, -1, 1, 1, 1)
        if training:
            mean, var = x.detach().mean((0, 2, 3, 4)), x.detach().var((0, 2, 3, 4), correction=0)
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)

    g, x = torch.randn(2, 4, 2, 3, 4).double(), torch.randn(2, 3, 4, 6, 8).double()
    large = g.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    expected = applied("psi", F.relu(applied("g", large) + applied("x", x))).sigmoid()
    alpha = gate(g, x)
    assert alpha.shape == (2, 1, 4, 6, 8)
    torch.testing.assert_close(alpha, expected)


def test_open_gates_give_the_unet_and_closed_ones_no_skips() -> None:
    plain = unet3d.Backbone(unet3d.Settings(base_width=4), in_channels=1, num_classes=3).double().eval()
    gated = network(base_width=4).double().eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    x, other = torch.randn(2, 2, 1, 8, 16, 24, dtype=torch.float64)
    assert not torch.allclose(gated(x), plain(x), atol=1e-3)
    for up in gated.decoder:
        nn.init.constant_(up.gate.psi[1].bias, 100.0)
    torch.testing.assert_close(gated(x), plain(x))
    for up in gated.decoder:
        nn.init.constant_(up.gate.psi[1].bias, -1000.0)
    maps, others = gated.encode(x), gated.encode(other)
    torch.testing.assert_close(gated.decode([*others[:-1], maps[-1]]), gated.decode(maps))


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize(("levels", "width", "cells"), [(2, 2, (1, 2, 3)), (5, 2, (2, 1, 1))])
def test_other_sizes_keep_the_promises(levels: int, width: int, cells: tuple[int, ...], norm: str) -> None:
    built = network(levels=levels, base_width=width, norm=norm)
    x = torch.randn(1, 1, *(cell * 2 ** (levels - 1) for cell in cells))
    for features, channels, side in zip(built.encode(x), built.channels, built.strides, strict=True):
        assert features.shape == (1, channels, *(length // side for length in x.shape[2:]))
    assert built(x).shape == (1, 3, *x.shape[2:])


def test_one_cell_is_refused_where_it_has_no_variance() -> None:
    assert network(base_width=4, norm="batch")(torch.randn(1, 1, 8, 8, 8)).isfinite().all()
    with pytest.raises(UsageError, match="8 x 8 x 16"):
        network(base_width=4)(torch.randn(1, 1, 8, 8, 8))
