"""CAiD (Hosseinzadeh Taher et al., MIDL 2022): both losses by loops, and what is restored from what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lemis.methods import pcl
from lemis.methods.caid import TRAINS, Method, Settings, Views
from lemis.parts.corrupt import Distortion
from lemis.sampling import views
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "queue": 10}
INTACT = Distortion(p_cut_out=0.0, p_cut_around=0.0, p_shuffle=0.0)


@pytest.mark.parametrize(("weight", "tau"), [(10.0, 0.2), (3.0, 0.07)])
def test_both_losses_by_loops(weight: float, tau: float, says: Any, make_unet: Any, make_batch: Any) -> None:
    torch.manual_seed(1)
    batch = make_batch({0: [0, 3, 5]}, of={0: 6})
    q, k, logits = torch.randn(3, 6), torch.randn(3, 6), torch.randn(3, 1, 32, 32)
    method = Method(make_unet(), Settings(**SMALL, restoration_weight=weight, temperature=tau))
    method.project, method.slow_project, method.restore = says(q), says(k), says(logits)
    queue = method.queue.keys.clone()
    target = method.views(batch, Rows(*RNG))["target"].image
    losses = method(batch, Rows(*RNG)).losses
    contrast, squares = 0.0, []
    for i in range(3):
        e = [math.exp(float(torch.cosine_similarity(q[i], key, 0)) / tau) for key in (k[i], *queue)]
        contrast -= math.log(e[0] / sum(e)) / 3
        for said, wanted in zip(logits[i].flatten().tolist(), target[i].flatten().tolist(), strict=True):
            squares.append((1 / (1 + math.exp(-said)) - wanted) ** 2)
    assert losses["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    assert losses["restoration"].item() == pytest.approx(weight * sum(squares) / len(squares), rel=1e-5)


def test_a_perfect_restoration_costs_nothing_and_grey_costs_its_distance(
    says: Any, make_unet: Any, make_batch: Any
) -> None:
    batch = make_batch({0: [0, 3]}, of={0: 6})
    method = Method(make_unet(), Settings(**SMALL))
    target = method.views(batch, Rows(*RNG))["target"].image
    for logits, expected in ((target.logit(1e-6), 0.0), (0 * target, 10 * (target - 0.5).square().mean().item())):
        method.restore = says(logits)
        assert method(batch, Rows(*RNG)).losses["restoration"].item() == pytest.approx(expected, abs=1e-6)


def test_the_target_is_the_query_before_it_was_changed(make_batch: Any) -> None:
    batch = make_batch({0: [0, 2, 3, 5], 1: [1, 4]}, of={0: 6, 1: 6})
    low, high = batch.image.amin((1, 2, 3), True), batch.image.amax((1, 2, 3), True)
    intact = Views(Settings(size_px=32, photometric="identity", distortion=INTACT))(batch, Rows(*RNG))
    seen = views.two_views(Spatial(), batch, 32, Rows(*RNG))
    for name, view in (("query", "first"), ("key", "second")):
        torch.testing.assert_close(intact[name].image, seen[view].image.clamp(low, high), atol=1e-5, rtol=0)
    torch.testing.assert_close(intact["target"].image, (intact["query"].image - low) / (high - low), atol=1e-5, rtol=0)
    assert torch.equal(intact["target"].geometry.to_source, intact["query"].geometry.to_source)
    cut = Views(Settings(size_px=32, distortion=Distortion(p_cut_out=1.0, p_cut_around=0.0, p_shuffle=0.0)))
    drawn = cut(batch, Rows(*RNG))
    assert torch.equal(drawn["target"].image, intact["target"].image)
    for name in ("query", "key"):
        black = (drawn[name].image - low).abs() < 1e-5  # where something was cut out, the slice's least value
        assert black.flatten(1).any(1).all()
        assert ((drawn[name].image >= low - 1e-5) & (drawn[name].image <= high + 1e-5)).all()


def test_keys_are_those_of_the_slow_encoder_and_it_follows(make_unet: Any, make_batch: Any) -> None:
    batch = make_batch({0: [1, 3, 5]}, of={0: 6})
    method = Method(make_unet(), Settings(**SMALL, momentum=0.75))
    with torch.no_grad():
        for p in method.slow_project.parameters():
            p.add_(0.1)  # so that the two can be told apart
    key = method.slow_project(method.slow_backbone.encode(method.views(batch, Rows(*RNG))["key"].image)[-1])
    torch.stack(list(method(batch, Rows(*RNG)).losses.values())).sum().backward()
    torch.testing.assert_close(method.queue.keys[:3], key / key.norm(dim=1, keepdim=True))
    assert all(p.grad is None for p in method.slow_backbone.parameters())
    start = [p.clone() for p in method.slow_backbone.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1)
    method.after_step(0.5)
    for slow, old in zip(method.slow_backbone.parameters(), start, strict=True):
        torch.testing.assert_close(slow, old + 0.25)


@pytest.mark.slow
def test_it_restores_and_does_not_collapse(make_unet: Any, train: Any, make_batch: Any) -> None:
    method = Method(make_unet(), Settings(size_px=32, embedding=16, queue=64, momentum=0.99, photometric="identity"))
    batch = make_batch({0: list(range(16))}, of={0: 16}, side=40)
    before = method(batch, Rows(9, 0, "cpu")).losses["restoration"].item()
    outcome = train(method, steps=100, learning_rate=0.005)
    assert spread(outcome.embeddings["global"]) > SMALLEST_SPREAD
    assert method(batch, Rows(9, 0, "cpu")).losses["restoration"].item() < 0.5 * before


def test_the_defaults_are_the_papers_and_the_protocols(make_unet: Any) -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.restoration_weight, ours.temperature, ours.momentum, ours.embedding) == (10.0, 0.2, 0.999, 128)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
    assert Method(make_unet(), Settings(**SMALL)).trains == TRAINS
