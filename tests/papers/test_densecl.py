"""DenseCL (Wang et al., CVPR 2021): correspondence and both losses by loops, the two queues, and what MoCo is of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.methods import moco, pcl
from lemis.methods.densecl import Method, Settings, cells, correspondence
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 48, "embedding": 6, "queue": 10}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12))


def term(q: Tensor, k: Tensor, negatives: Tensor, tau: float) -> float:
    positive = math.exp(cosine(q, k) / tau)
    return -math.log(positive / (positive + sum(math.exp(cosine(q, n) / tau) for n in negatives)))


@torch.no_grad()
def slow(method: Method, first: Tensor, second: Tensor) -> tuple[float, float]:
    """(1 - lambda) L_q and lambda L_r of queues that hold no key of the batch."""
    how, queues = method.settings, (method.queue.keys, method.queue_of_cells.keys)
    features = method.backbone.encode(first)[-1]
    far = method.slow_backbone.encode(second)[-1]
    q, k = method.project(features), method.slow_project(far)
    of_slices = [term(q[i], k[i], queues[0], how.temperature) for i in range(len(q))]
    of_cells = []
    for i in range(len(first)):
        here, there = features[i].flatten(1).T, far[i].flatten(1).T  # (S, C)
        r, t = method.project_cells(here), method.slow_project_cells(there)
        for s in range(len(here)):
            best = max(range(len(there)), key=lambda c: cosine(here[s], there[c]))
            of_cells.append(term(r[s], t[best], queues[1], how.temperature))
    return (
        (1 - how.dense_weight) * sum(of_slices) / len(of_slices),
        how.dense_weight * sum(of_cells) / len(of_cells),
    )


@pytest.mark.parametrize(("tau", "weight"), [(0.2, 0.5), (0.1, 0.7)])
def test_the_loss_by_loops(tau: float, weight: float, make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [0, 3], 1: [1]}, of={0: 6, 1: 6})
    method = Method(make_unet(), Settings(**SMALL, temperature=tau, dense_weight=weight))
    with torch.no_grad():
        for p in (*method.slow_project.parameters(), *method.slow_project_cells.parameters()):
            p.add_(0.05 * torch.randn_like(p))  # the key network is another one
    pair = method.views(batch, Rows(*RNG))
    expected = slow(method, pair["first"].image, pair["second"].image)
    losses = method(batch, Rows(*RNG)).losses
    assert (losses["contrast"].item(), losses["dense"].item()) == pytest.approx(expected, rel=1e-4)


def test_correspondence_finds_cells_that_were_moved() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 8, 3, 4)
    order = torch.stack([torch.randperm(12), torch.randperm(12)])
    scale = torch.rand(2, 1, 12) + 0.5  # a cosine does not see the length
    moved = (features.flatten(2).take_along_dim(order[:, None], 2) * scale).view_as(features)
    assert torch.equal(correspondence(features, moved), order.argsort(1))
    assert torch.equal(correspondence(features, features), torch.arange(12).expand(2, 12))


def test_known_values(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    method = Method(make_unet(), Settings(**SMALL))
    with torch.no_grad():
        for module in (method.project, method.slow_project):
            for p in module.parameters():
                p.zero_()
        for head in (method.project_cells, method.slow_project_cells):
            for p in head.parameters():
                p.zero_()
            head[-1].bias[0] = 1  # every cell says the same
        method.queue_of_cells.add(torch.eye(6)[1:2].expand(10, 6), torch.full((10,), 99))  # and the queue another thing
    outcome = method(batch, Rows(*RNG))
    assert outcome.losses["contrast"].item() == pytest.approx(0.5 * math.log(11), rel=1e-5)
    assert outcome.losses["dense"].item() == pytest.approx(0.5 * (math.log(math.exp(5) + 10) - 5), rel=1e-4)
    assert outcome.uninformed == pytest.approx({"contrast": 0.5 * math.log(11), "dense": 0.5 * math.log(11)})


def test_the_second_queue_takes_the_mean_dense_key(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [1, 3], 1: [2, 4]}, of={0: 6, 1: 6})
    method = Method(make_unet(), Settings(**SMALL))
    second = method.views(batch, Rows(*RNG))["second"].image
    keys = method.slow_project_cells(cells(method.slow_backbone.encode(second)[-1])).mean(1)
    method(batch, Rows(*RNG))
    torch.testing.assert_close(method.queue_of_cells.keys[:4], keys / keys.norm(dim=1, keepdim=True))
    assert method.queue_of_cells.owner.tolist() == method.queue.owner.tolist() == [1, 3, 102, 104] + [-1] * 6


def test_without_the_dense_term_it_is_moco(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [1, 3], 1: [2, 4]}, of={0: 6, 1: 6})
    ours = Method(make_unet(), Settings(**SMALL, dense_weight=0.0))
    theirs = moco.Method(make_unet(), moco.Settings(**SMALL))
    theirs.load_state_dict({key: value for key, value in ours.state_dict().items() if "cells" not in key})
    outcome = ours(batch, Rows(*RNG))
    assert outcome.losses["dense"].item() == 0
    assert outcome.losses["contrast"].item() == pytest.approx(theirs(batch, Rows(*RNG)).losses["contrast"].item())
    assert set(outcome.uninformed) == {"contrast"}


def test_the_key_encoder_and_both_heads_follow(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, momentum=0.9))
    pairs = [
        (method.slow_backbone, method.backbone),
        (method.slow_project, method.project),
        (method.slow_project_cells, method.project_cells),
    ]
    losses = method(make_batch({0: [1, 3, 5]}, of={0: 6}), Rows(*RNG)).losses
    (losses["contrast"] + losses["dense"]).backward()
    for slowly, leader in pairs:
        start = [p.clone() for p in slowly.parameters()]
        assert all(p.grad is None and not p.requires_grad for p in slowly.parameters())
        with torch.no_grad():
            for p in leader.parameters():
                p.add_(1)
        method.after_step(0.5)
        for weight, old in zip(slowly.parameters(), start, strict=True):
            torch.testing.assert_close(weight, old + 0.1)
        with torch.no_grad():
            for p, old in zip(leader.parameters(), slowly.parameters(), strict=True):
                p.copy_(old)


def test_it_does_not_collapse(make_unet: Any, train: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=16, queue=64, momentum=0.99))
    outcome = train(method, steps=100, learning_rate=0.005)
    assert spread(outcome.embeddings["global"]) > SMALLEST_SPREAD
    assert spread(outcome.embeddings["dense"]) > 3 * SMALLEST_SPREAD


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.temperature, ours.momentum, ours.embedding, ours.dense_weight) == (0.2, 0.999, 128, 0.5)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
