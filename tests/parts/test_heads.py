"""Heads: what they compute, in 2D and 3D, and how large they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lemis.parts.heads import PooledLinear, PooledMLP


@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4), (1, 1)])
def test_mlp_by_hand(space: tuple[int, ...]) -> None:
    head, x = PooledMLP(6, 10), torch.randn(3, 6, *space)
    first, second = head.layers[0], head.layers[2]
    hidden = (x.mean(list(range(2, x.dim()))) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ second.weight.T + second.bias)


@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4)])
def test_linear_by_hand(space: tuple[int, ...]) -> None:
    head, x = PooledLinear(6, 10), torch.randn(3, 6, *space)
    torch.testing.assert_close(head(x), x.mean(list(range(2, x.dim()))) @ head.layer.weight.T + head.layer.bias)


@pytest.mark.parametrize("head", [PooledMLP, PooledLinear])
def test_a_gradient_reaches_every_parameter_and_every_place(head: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = head(8, 5), torch.randn(4, 8, 3, 3, requires_grad=True)
    module(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert x.grad is not None
    assert (x.grad[0, 0] == x.grad[0, 0, 0, 0]).all()  # a mean treats all places alike
    assert x.grad.abs().max() > 0


def test_sizes() -> None:
    assert sum(p.numel() for p in PooledMLP(16, 5).parameters()) == 16 * 16 + 16 + 16 * 5 + 5
    assert sum(p.numel() for p in PooledLinear(16, 5).parameters()) == 16 * 5 + 5
