"""Heads: what they compute, in 2D and 3D, and how large they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lemis.parts.heads import PooledLinear, PooledMLP, Predictor, Projector
from lemis.training.collapse import mean_cosine


@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4), (1, 1)])
def test_mlp_by_hand(space: tuple[int, ...]) -> None:
    head, x = PooledMLP(6, 10), torch.randn(3, 6, *space)
    first, second = head.layers[0], head.layers[2]
    hidden = (x.mean(list(range(2, x.dim()))) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ second.weight.T + second.bias)


@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4)])
def test_mlp_with_batch_norm_by_hand(space: tuple[int, ...]) -> None:
    head, x = PooledMLP(6, 10, batch_norm=True), torch.randn(8, 6, *space)
    pooled = x.mean(list(range(2, x.dim())))
    pooled = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-5).sqrt()
    first, second = head.layers[0], head.layers[2]
    hidden = (pooled @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ second.weight.T + second.bias)
    assert [key for key, _ in head.named_parameters()] == [key for key, _ in PooledMLP(6, 10).named_parameters()]


def test_batch_norm_takes_away_what_pooled_maps_have_in_common() -> None:
    torch.manual_seed(0)
    x, common = torch.rand(64, 16, 3, 3), 10 * torch.rand(1, 16, 1, 1)
    plain, normed = PooledMLP(16, 8), PooledMLP(16, 8, batch_norm=True)
    assert mean_cosine(plain(x + common).detach()) > 0.99
    assert mean_cosine(normed(x + common).detach()) < 0.8
    torch.testing.assert_close(normed(x + common), normed(x), rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4)])
def test_projector_by_hand(space: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head, x = Projector(6, 10, 7), torch.randn(8, 6, *space)
    z = x.mean(list(range(2, x.dim())))
    for layer, last in ((0, False), (3, False), (6, True)):
        z = z @ head.layers[layer].weight.T
        z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
        z = z if last else z.clamp(min=0)
    torch.testing.assert_close(head(x), z)


@pytest.mark.parametrize("bias", [True, False])
def test_predictor_by_hand(bias: bool) -> None:
    torch.manual_seed(0)
    head, z = Predictor(6, 5, 7, bias=bias), torch.randn(8, 6)
    hidden = z @ head.layers[0].weight.T
    hidden = ((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()).clamp(min=0)
    expected = hidden @ head.layers[3].weight.T
    torch.testing.assert_close(head(z), expected + head.layers[3].bias if bias else expected)


def test_sizes_of_the_heads_with_normalisation() -> None:
    def count(head: nn.Module) -> int:
        return sum(p.numel() for p in head.parameters())

    assert count(Projector(512, 2048, 2048)) == 512 * 2048 + 2 * 2048 * 2048 + 4 * 2048
    assert count(Predictor(2048, 2048, 512)) == 2 * 2048 * 512 + 2 * 512 + 2048
    assert count(Predictor(512, 256, 4096, bias=False)) == 512 * 4096 + 4096 * 256 + 2 * 4096
