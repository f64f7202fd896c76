"""Layers in one process: batch normalisation is PyTorch's, and centring takes a constant away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lemis.layers.basic import BatchNorm, centre, kaiming, pool, precise, unit

SHAPES = {2: (4, 3, 6, 5), 3: (4, 3, 2, 6, 5)}


def random(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3 + 1


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_norm_is_pytorchs(dims: int) -> None:
    ours, theirs = BatchNorm(3), (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(3)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        ours.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    theirs.load_state_dict(ours.state_dict())
    for step in range(3):
        inputs = [random(SHAPES[dims], step).requires_grad_() for _ in range(2)]
        outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
        assert torch.equal(*outputs)
        for output in outputs:
            (output * random(SHAPES[dims], 99)).sum().backward()
        assert torch.equal(*[x.grad for x in inputs])
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    x = random(SHAPES[dims], 7)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_refuses_what_has_no_channels() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, C, ...\)"):
        BatchNorm(3)(torch.zeros(3))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("scale", [False, True])
def test_centre_is_batch_norm_without_parameters(dims: int, scale: bool) -> None:
    x = random(SHAPES[dims], dtype=torch.float64)
    y = centre(x, scale=scale)
    axes = [0, *range(2, x.dim())]
    assert y.dtype == torch.float64
    assert y.mean(axes).abs().max() < 1e-12
    if scale:
        norm = BatchNorm(3, affine=False).double()
        torch.testing.assert_close(y, norm(x))
    else:
        torch.testing.assert_close(y - x, -x.mean(axes, keepdim=True).expand_as(x))


def test_centre_takes_a_constant_vector_away() -> None:
    x = random((4, 3, 6, 5), dtype=torch.float64)
    shift = torch.tensor([100.0, -3.0, 7.0], dtype=torch.float64).view(1, 3, 1, 1)
    for scale in (False, True):
        torch.testing.assert_close(centre(x + shift, scale=scale), centre(x, scale=scale))


def test_unit() -> None:
    x = random((4, 3, 2))
    torch.testing.assert_close(unit(x).norm(dim=1), torch.ones(4, 2))
    torch.testing.assert_close(unit(x, dim=2).norm(dim=2), torch.ones(4, 3))
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(unit(torch.full((1, 4), 1e-9)), torch.full((1, 4), 0.5))


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_precise(given: torch.dtype, kept: torch.dtype) -> None:
    assert precise(torch.ones(2, dtype=given)).dtype == kept
    assert unit(torch.ones(2, 2, dtype=given)).dtype == kept
    assert centre(torch.ones(2, 2, 2, dtype=given), scale=True).dtype == kept


@pytest.mark.parametrize("dims", [2, 3])
def test_pool_is_the_mean_over_space(dims: int) -> None:
    x = random(SHAPES[dims])
    torch.testing.assert_close(pool(x), x.mean(list(range(2, x.dim()))))


def test_kaiming_draws_convolutions_and_leaves_the_rest() -> None:
    layers = nn.Sequential(
        nn.Conv2d(64, 32, 3), nn.ConvTranspose2d(32, 64, 2), nn.Conv2d(8, 8, 1, bias=False), nn.Linear(4, 4)
    )
    before = layers[3].weight.clone(), layers[3].bias.clone()
    kaiming(layers, 0.01)
    for layer in layers[:2]:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.05)
        assert layer.bias.abs().max() == 0
    assert torch.equal(layers[3].weight, before[0])
    assert torch.equal(layers[3].bias, before[1])


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_of_fewer_than_two_values_uses_what_it_has_learned(rows: int) -> None:
    norm = BatchNorm(3).double()
    norm(random((50, 3), dtype=torch.float64))
    learned = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = random((rows, 3), 1, dtype=torch.float64).requires_grad_()
    y = norm(x)
    torch.testing.assert_close(y, (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt())
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in norm.parameters())
    assert all(torch.equal(buffer, learned[name]) for name, buffer in norm.named_buffers())
