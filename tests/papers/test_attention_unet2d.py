"""Attention U-Net (Oktay et al. 2018): the gate as written, its parameters, and what it does to the U-Net."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lemis.backbones import attention_unet2d, unet2d


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def network(base_width: int = 4) -> attention_unet2d.Backbone:
    torch.manual_seed(0)
    settings = attention_unet2d.Settings(base_width=base_width)
    return attention_unet2d.Backbone(settings, in_channels=1, num_classes=3)


def test_gates_have_the_parameters_that_published_counts_imply() -> None:
    # 16,836,146 of an attention U-Net less 16,313,769 of the same U-Net: gating 512, 256, 128; skips half of that.
    with torch.device("meta"):
        gates = [attention_unet2d._Gate(gating, gating // 2) for gating in (512, 256, 128)]
    assert sum(count(gate) for gate in gates) == 16_836_146 - 16_313_769


@pytest.mark.parametrize("f", [4, 48])
def test_it_is_the_unet_with_four_gates(f: int) -> None:
    with torch.device("meta"):
        plain = unet2d.Backbone(unet2d.Settings(base_width=f), in_channels=1, num_classes=3)
        gated = network(f)
        gates = [attention_unet2d._Gate(f * 2**k, f * 2**k) for k in range(4)]
    assert count(gated) == count(plain) + sum(count(gate) for gate in gates)
    assert (gated.channels, gated.strides) == (plain.channels, plain.strides)
    assert (gated.decoder_channels, gated.decoder_strides) == (plain.decoder_channels, plain.decoder_strides)
    assert set(plain.state_dict()) < set(gated.state_dict()), "weights of the U-Net can be carried over"


def test_the_gate_is_the_formula() -> None:
    torch.manual_seed(0)
    gate = attention_unet2d._Gate(3, 2).double().eval()
    for norm in (gate.of_gating[1], gate.of_skip[1], gate.psi[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    g, x = torch.randn(1, 3, 4, 5).double(), torch.randn(1, 2, 4, 5).double()

    def normed(norm: Any, channel: int, value: float) -> float:
        mean, var = float(norm.running_mean[channel]), float(norm.running_var[channel])
        return (value - mean) / math.sqrt(var + norm.eps) * norm.weight[channel].item() + norm.bias[channel].item()

    def linear(conv: Any, channel: int, values: torch.Tensor) -> float:
        weights = conv.weight[channel, :, 0, 0]
        return sum(w.item() * float(v) for w, v in zip(weights, values, strict=True)) + conv.bias[channel].item()

    alpha = gate(g, x)
    assert alpha.shape == (1, 1, 4, 5)
    for row in range(4):
        for col in range(5):
            inner = []
            for k in range(3):
                from_g = normed(gate.of_gating[1], k, linear(gate.of_gating[0], k, g[0, :, row, col]))
                from_x = normed(gate.of_skip[1], k, linear(gate.of_skip[0], k, x[0, :, row, col]))
                inner.append(max(0.0, from_g + from_x))
            psi = normed(gate.psi[1], 0, linear(gate.psi[0], 0, torch.tensor(inner, dtype=torch.float64)))
            assert alpha[0, 0, row, col].item() == pytest.approx(1 / (1 + math.exp(-psi)), rel=1e-9)


def test_open_gates_give_the_unet_and_closed_ones_no_skips() -> None:
    plain = unet2d.Backbone(unet2d.Settings(base_width=4), in_channels=1, num_classes=3).eval()
    gated = network().eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    x, other = torch.randn(2, 1, 32, 48), torch.randn(2, 1, 32, 48)
    assert not torch.allclose(gated(x), plain(x), atol=1e-3)
    for up in gated.decoder:
        torch.nn.init.constant_(up.gate.psi[1].bias, 100.0)
    torch.testing.assert_close(gated(x), plain(x))
    for up in gated.decoder:
        torch.nn.init.constant_(up.gate.psi[1].bias, -1000.0)
    maps, others = gated.encode(x), gated.encode(other)
    torch.testing.assert_close(gated.decode([*others[:-1], maps[-1]]), gated.decode(maps))
