"""SimSiam (Chen and He, CVPR 2021): the loss by loops, the stopped gradient, the heads, and no collapse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.methods import pcl
from lemis.methods.simsiam import Method, Settings, symmetric
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 8, "hidden": 12, "bottleneck": 4}


def slow(p: Tensor, z: Tensor) -> float:
    """Mean over slices of 1/2 D(p_1, z_2) + 1/2 D(p_2, z_1), D = -cos."""
    count, total = len(p) // 2, 0.0
    for i in range(count):
        for a, b in ((i, count + i), (count + i, i)):
            total -= 0.5 * float(p[a] @ z[b] / p[a].norm() / z[b].norm())
    return total / count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_loss_by_loops(count: int, says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(count)
    p, z = torch.randn(2 * count, 8), torch.randn(2 * count, 8)
    assert symmetric(p, z).item() == pytest.approx(slow(p, z), rel=1e-5)
    method = Method(make_unet(), Settings(**SMALL))
    method.project, method.predict = says(z), says(p)
    outcome = method(make_batch({0: list(range(count))}, of={0: 6}), Rows(*RNG))
    assert outcome.losses["prediction"].item() == pytest.approx(slow(p, z), rel=1e-5)


def test_known_values() -> None:
    z = torch.eye(4)
    other = torch.cat([z[2:], z[:2]])
    for p, expected in ((other, -1), (-other, 1), (z, 0)):
        assert symmetric(p, z).item() == pytest.approx(expected, abs=1e-6)


def test_the_target_is_a_constant() -> None:
    torch.manual_seed(0)
    p, z = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    symmetric(p, z).backward()
    assert p.grad is not None
    assert z.grad is None


def test_the_gradient_reaches_the_encoder_through_the_predictor_alone(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    with torch.no_grad():
        method.predict.layers[-1].weight.zero_()  # p is then the last bias, whatever z
    method(make_batch({0: [0, 1, 2, 3]}, of={0: 6}), Rows(*RNG)).losses["prediction"].backward()
    assert method.project.layers[0].weight.grad.abs().max() == 0
    assert method.predict.layers[-1].weight.grad.abs().max() > 0


def test_sizes_of_the_heads(make_unet: Any) -> None:
    method = Method(make_unet(base_width=8), Settings())
    count = [sum(p.numel() for p in module.parameters()) for module in (method.project, method.predict)]
    assert count == [128 * 2048 + 2 * 2048 * 2048 + 4 * 2048, 2 * 2048 * 512 + 2 * 512 + 2048]


def test_the_embedding_is_normalised_over_the_batch(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    pair = method.views(make_batch({0: [0, 1, 2, 3]}, of={0: 6}), Rows(*RNG))
    z = method.project(method.backbone.encode(torch.cat([view.image for view in pair.values()]))[-1])
    torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    assert (z.std(0, correction=0) <= 1 + 1e-5).all()


def test_it_learns_and_does_not_collapse(make_unet: Any, train: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=64, hidden=64, bottleneck=16))
    outcome = train(method, learning_rate=0.1)
    assert spread(outcome.embeddings["global"]) > 3 * SMALLEST_SPREAD
    assert outcome.losses["prediction"].item() < -0.2


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.hidden, ours.embedding, ours.bottleneck) == (2048, 2048, 512)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
