"""MoCo v2 (He et al., CVPR 2020; Chen et al. 2020): the loss by loops, the queue, and the encoder that follows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.methods import pcl
from lemis.methods.moco import Method, Settings
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "queue": 10}


def slow(q: Tensor, k: Tensor, queue: Tensor, negatives_of: list[list[int]], tau: float) -> float:
    """Mean of -log [ exp(q k+ / tau) / (exp(q k+ / tau) + sum_n exp(q n / tau)) ], vectors of any length."""

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    terms = []
    for i, others in enumerate(negatives_of):
        positive = math.exp(cosine(q[i], k[i]) / tau)
        terms.append(-math.log(positive / (positive + sum(math.exp(cosine(q[i], queue[n]) / tau) for n in others))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("tau", [0.07, 0.2])
def test_the_loss_by_loops(tau: float, says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(1)
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    q, k, queue = torch.randn(3, 6), torch.randn(3, 6), torch.randn(10, 6)
    method = Method(make_unet(), Settings(**SMALL, temperature=tau))
    method.project, method.slow_project = says(q), says(k)
    method.queue.add(queue, torch.tensor([0, 9, 5, 9, 9, 0, 9, 9, 9, 9]))  # 0 and 5 are slices of the batch
    others = [[1, 2, 3, 4, 6, 7, 8, 9], list(range(10)), [0, 1, 3, 4, 5, 6, 7, 8, 9]]
    loss = method(batch, Rows(*RNG)).losses["contrast"].item()
    assert loss == pytest.approx(slow(q, k, queue, others, tau), rel=1e-5)


def test_known_values(says: Any, make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    same, apart = torch.ones(3, 6), torch.tensor([1.0, -1.0] * 3)
    for q, key, expected in (
        (same, same[:1], math.log(11)),  # all alike: nothing can be told
        (same, apart[None], math.log(math.exp(5) + 10) - 5),  # q is its key, and orthogonal to the queue
        (0 * same, apart[None], math.log(11)),
    ):
        method = Method(make_unet(), Settings(**SMALL))
        method.project, method.slow_project = says(q), says(same)
        method.queue.add(key.expand(10, 6), torch.full((10,), 99))
        outcome = method(batch, Rows(*RNG))
        assert outcome.losses["contrast"].item() == pytest.approx(expected, rel=1e-4)
        assert outcome.uninformed["contrast"] == pytest.approx(math.log(11))


def test_the_keys_are_the_second_views_through_the_slow_encoder_and_go_into_the_queue(
    make_unet: Any, make_batch: Any
) -> None:
    batch = make_batch({0: [1, 3], 1: [2, 4]}, of={0: 6, 1: 6})
    method = Method(make_unet(), Settings(**SMALL))
    with torch.no_grad():
        for p in method.slow_project.parameters():
            p.add_(0.1)  # so that the two can be told apart
    second = method.views(batch, Rows(*RNG))["second"].image
    keys = method.slow_project(method.slow_backbone.encode(second)[-1])
    method(batch, Rows(*RNG))
    torch.testing.assert_close(method.queue.keys[:4], keys / keys.norm(dim=1, keepdim=True))
    assert method.queue.owner.tolist() == [1, 3, 102, 104] + [-1] * 6


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_key_encoder_follows_and_has_no_gradient(momentum: float, make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, momentum=momentum))
    start = [p.clone() for p in method.slow_backbone.parameters()]
    method(make_batch({0: [1, 3, 5]}, of={0: 6}), Rows(*RNG)).losses["contrast"].backward()
    for module in (method.slow_backbone, method.slow_project):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1)
    method.after_step(0.5)
    for slow_weight, old in zip(method.slow_backbone.parameters(), start, strict=True):
        torch.testing.assert_close(slow_weight, old + 1 - momentum)


def test_a_resumed_run_is_the_run(make_unet: Any, train: Any) -> None:
    settings = Settings(**SMALL)
    whole, first = Method(make_unet(), settings), Method(make_unet(), settings)
    first.load_state_dict(whole.state_dict())
    train(whole, 3, learning_rate=0.0)
    train(first, 2, learning_rate=0.0)
    torch.manual_seed(9)
    second = Method(make_unet(), settings)
    second.load_state_dict(first.state_dict())
    train(second, 3, learning_rate=0.0, first=2)
    for (key, a), b in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.slow
def test_it_does_not_collapse_unless_the_keys_are_the_encoders_own(make_unet: Any, train: Any) -> None:
    """Without momentum training fails, as in section 4.1 of the paper; so it does on slices."""
    methods = [Method(make_unet(), Settings(size_px=32, embedding=16, queue=64, momentum=m)) for m in (0.99, 0.0)]
    with_momentum, without = (train(method, steps=100, learning_rate=0.005) for method in methods)
    assert spread(with_momentum.embeddings["global"]) > SMALLEST_SPREAD > 3 * spread(without.embeddings["global"])


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.temperature, ours.momentum, ours.embedding) == (0.2, 0.999, 128)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
