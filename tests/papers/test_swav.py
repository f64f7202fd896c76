"""SwAV (Caron et al., NeurIPS 2020): codes and swapped prediction by loops, their limits, and no collapse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis.methods import pcl
from lemis.methods.swav import Method, Settings, codes, swapped
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "hidden": 12, "prototypes": 5}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_codes(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """The paper's algorithm on Q of N rows and K columns: columns to 1/K, rows to 1/N, and rows to 1 at the end."""
    n, k = scores.shape
    q = [[math.exp(float(scores[i, j]) / epsilon) for j in range(k)] for i in range(n)]
    whole = sum(map(sum, q))
    q = [[value / whole for value in row] for row in q]
    for _ in range(iterations):
        columns = [sum(row[j] for row in q) for j in range(k)]
        q = [[row[j] / columns[j] / k for j in range(k)] for row in q]
        q = [[value / sum(row) / n for value in row] for row in q]
    return [[value * n for value in row] for row in q]


def slow_loss(scores: Tensor, full: int, tau: float, epsilon: float) -> float:
    """The mean over full views v, other views w and slices of l(z_w, q_v), one logarithm at a time."""
    views, n, k = scores.shape
    terms = []
    for v in range(full):
        q = slow_codes(scores[v], epsilon, 3)
        for w in set(range(views)) - {v}:
            for i in range(n):
                below = sum(math.exp(float(scores[w, i, j]) / tau) for j in range(k))
                terms.append(-sum(q[i][j] * math.log(math.exp(float(scores[w, i, j]) / tau) / below) for j in range(k)))
    return sum(terms) / len(terms)


# ------------------------------------------------------------------------------------------------------ codes


@pytest.mark.parametrize(("n", "k"), [(4, 6), (6, 4), (5, 5), (8, 2)])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_by_loops(n: int, k: int, iterations: int) -> None:
    scores = random(n, k).tanh()
    found = codes(scores, 0.05, iterations)
    torch.testing.assert_close(found, torch.tensor(slow_codes(scores, 0.05, iterations)), rtol=1e-4, atol=1e-6)


def test_codes_spread_the_batch_evenly() -> None:
    found = codes(random(32, 8).tanh() * 0.3, 0.05, 100)
    torch.testing.assert_close(found.sum(1), torch.ones(32))
    torch.testing.assert_close(found.sum(0), torch.full((8,), 4.0), rtol=1e-2, atol=0)


def test_equal_scores_have_even_codes() -> None:
    torch.testing.assert_close(codes(torch.full((4, 6), 0.7), 0.05, 3), torch.full((4, 6), 1 / 6))


def test_clear_clusters_are_found() -> None:
    scores = torch.eye(3).repeat(2, 1)  # six slices, three prototypes, two slices each
    torch.testing.assert_close(codes(scores, 0.01, 3), scores)


def test_codes_of_any_scale_are_finite() -> None:
    found = codes(random(4, 6) * 1e4, 0.05, 3)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(1), torch.ones(4))


def test_one_prototype_cannot_take_all() -> None:
    scores = torch.zeros(6, 3)
    scores[:, 0] = 1  # all slices prefer the first one
    torch.testing.assert_close(codes(scores, 0.05, 3), torch.full((6, 3), 1 / 3), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("views", [2, 3, 5])
def test_the_loss_by_loops(views: int) -> None:
    scores = random(views, 4, 6).tanh()
    loss = swapped(scores / 0.1, codes(scores[:2], 0.05, 3))
    assert loss.item() == pytest.approx(slow_loss(scores, 2, 0.1, 0.05), rel=1e-4)


def test_each_view_predicts_the_other(make_unet: Any) -> None:
    logits, assigned = random(2, 4, 6), random(2, 4, 6, seed=1).softmax(-1)
    changed = torch.stack([assigned[0], assigned[1].flip(0)])
    terms = [-(assigned[v] * logits[1 - v].log_softmax(-1)).sum(-1).mean() for v in range(2)]
    torch.testing.assert_close(swapped(logits, assigned), (terms[0] + terms[1]) / 2)
    assert not torch.isclose(swapped(logits, changed), swapped(logits, assigned))


@pytest.mark.parametrize("crops", [0, 2])
def test_the_method_from_images_to_loss(crops: int, make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL, crops=crops, crop_px=16))
    batch = make_batch({0: [0, 1, 2, 4]}, of={0: 6})
    images = [view.image for view in method.views(batch, Rows(*RNG)).values()]
    assert [image.shape[-1] for image in images] == [32, 32] + [16] * crops
    pooled = [method.backbone.encode(torch.cat(part))[-1].mean((2, 3)) for part in (images[:2], images[2:]) if part]
    z = torch.nn.functional.normalize(method.project(torch.cat(pooled)), dim=1)
    prototypes = torch.nn.functional.normalize(method.prototypes.detach(), dim=1)
    expected = slow_loss((z.detach() @ prototypes.T).unflatten(0, (2 + crops, 4)), 2, 0.1, 0.05)
    outcome = method(batch, Rows(*RNG))
    assert outcome.losses["swap"].item() == pytest.approx(expected, rel=1e-3)
    assert outcome.uninformed["swap"] == pytest.approx(math.log(5))
    assert outcome.embeddings["global"].shape == (8, 6)


def test_codes_have_no_gradient() -> None:
    scores = random(2, 4, 6).requires_grad_()
    swapped(scores, codes(scores.detach(), 0.05, 3)).backward()
    constant = codes(scores.detach(), 0.05, 3)
    # The gradient of a cross-entropy with constant targets: softmax minus target, over slices and views.
    expected = torch.stack([scores[w].softmax(-1) - constant[1 - w] for w in range(2)]) / 8
    torch.testing.assert_close(scores.grad, expected.detach(), rtol=1e-4, atol=1e-6)


def test_prototypes_stay_unit_vectors(make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        method.prototypes *= torch.arange(1.0, 6.0)[:, None]
    before = method.prototypes.detach().clone()
    method.after_step(0.5)
    torch.testing.assert_close(method.prototypes, before / torch.arange(1.0, 6.0)[:, None])


def test_sizes_of_the_head(make_unet: Any) -> None:
    method = Method(make_unet(base_width=8), Settings())
    assert method.prototypes.shape == (3000, 128)
    assert sum(p.numel() for p in method.project.parameters()) == 128 * 2048 + 2 * 2048 + 2048 * 128 + 128


@pytest.mark.slow
def test_it_learns_and_does_not_collapse(make_unet: Any, train: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=32, hidden=64, prototypes=64))
    outcome = train(method, steps=160, learning_rate=0.02)
    assert spread(outcome.embeddings["global"]) > 3 * SMALLEST_SPREAD
    assert outcome.losses["swap"].item() < 0.98 * math.log(64)


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.temperature, ours.epsilon, ours.iterations) == (0.1, 0.05, 3)
    assert (ours.prototypes, ours.hidden, ours.embedding, ours.crops) == (3000, 2048, 128, 0)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)


# ------------------------------------------------------------------------------------------------------ queue


QUEUED = {**SMALL, "queue": 6, "queue_from": 0}


def test_codes_are_spread_over_batch_and_queue_once_it_is_full(make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**QUEUED))
    prototypes = method.prototypes.detach()
    z = [torch.nn.functional.normalize(random(2, 4, 6, seed=seed), dim=-1) for seed in range(3)]
    alone = [codes(batch @ prototypes.T, 0.05, 3) for batch in z]
    torch.testing.assert_close(method.assign(z[0] @ prototypes.T), alone[0])  # nothing is kept yet
    method.keep(z[0])
    torch.testing.assert_close(method.assign(z[1] @ prototypes.T), alone[1])  # 4 of 6
    method.keep(z[1])
    # Full: the second batch, and of the first one those that came first.
    torch.testing.assert_close(method.kept, torch.cat([z[1], z[0][:, :2]], 1))
    found = method.assign(z[2] @ prototypes.T)
    for view in range(2):
        together = torch.cat([z[1][view], z[0][view, :2], z[2][view]]) @ prototypes.T
        expected = torch.tensor(slow_codes(together, 0.05, 3)[-4:])
        torch.testing.assert_close(found[view], expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, alone[2])


def test_a_batch_alone_of_fewer_slices_than_prototypes_is_pushed_apart_and_with_a_queue_is_not(make_unet: Any) -> None:
    """Four slices of one cluster: alone they have to be spread over five prototypes; among others they may be one."""
    method = Method(make_unet(), Settings(**QUEUED | {"queue": 16, "prototypes": 4, "embedding": 4}))
    with torch.no_grad():
        method.prototypes.copy_(torch.eye(4))
    others = torch.eye(4)[torch.arange(16) % 3 + 1].expand(2, -1, -1)  # the other three clusters
    batch = torch.eye(4)[:1].expand(2, 4, -1)  # all at the first prototype
    torch.testing.assert_close(method.assign(batch), torch.full((2, 4, 4), 0.25))
    method.keep(others)
    assert (method.assign(batch)[..., 0] > 0.9).all()


def test_the_queue_begins_in_its_epoch_and_takes_what_the_method_sees(make_unet: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(**QUEUED | {"queue_from": 2}))
    batch = make_batch({0: [0, 1, 2, 4]}, of={0: 6})
    for epoch in range(2):
        method(batch, Rows(*RNG))
        assert (int(method.epochs), int(method.filled)) == (epoch, 0)
        method.after_epoch(0.1)
    outcome = method(batch, Rows(*RNG))
    assert int(method.filled) == 4
    torch.testing.assert_close(method.kept[:, :4].flatten(0, 1), outcome.embeddings["global"])
    method(batch, Rows(*RNG))
    assert int(method.filled) == 6
    # It is part of the state, so that a resumed training has it.
    assert {"kept", "filled", "epochs"} < method.state_dict().keys()


def test_without_a_queue_nothing_is_kept(make_unet: Any) -> None:
    assert not {"kept", "filled", "epochs"} & Method(make_unet(), Settings(**SMALL)).state_dict().keys()
