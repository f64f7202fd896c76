"""BYOL (Grill et al., NeurIPS 2020): the symmetric loss by loops, the target, and what keeps it from collapsing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.methods import pcl
from lemis.methods.byol import Method, Settings, symmetric
from lemis.sampling.draw import Rows
from lemis.training.collapse import SMALLEST_SPREAD, spread

RNG = (0, 0, "cpu")
SMALL = {"size_px": 32, "embedding": 6, "hidden": 12}


def slow(prediction: Tensor, target: Tensor) -> float:
    """Mean over slices of (2 - 2 cos(q_1, z'_2)) + (2 - 2 cos(q_2, z'_1))."""
    count, total = len(prediction) // 2, 0.0
    for i in range(count):
        for a, b in ((i, count + i), (count + i, i)):
            p, t = prediction[a] / prediction[a].norm(), target[b] / target[b].norm()
            total += float((p - t) @ (p - t))  # the squared distance of unit vectors is 2 - 2 cos
    return total / count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_loss_by_loops(count: int) -> None:
    torch.manual_seed(count)
    prediction, target = torch.randn(2 * count, 6), torch.randn(2 * count, 6)
    assert symmetric(prediction, target).item() == pytest.approx(slow(prediction, target), rel=1e-5)


def test_known_values() -> None:
    z = torch.eye(4)
    assert symmetric(z, torch.cat([z[2:], z[:2]])).item() == pytest.approx(0, abs=1e-6)  # each says the other view's
    assert symmetric(z, -torch.cat([z[2:], z[:2]])).item() == pytest.approx(8, abs=1e-6)
    assert symmetric(z, z).item() == pytest.approx(4, abs=1e-6)  # orthogonal to the other view's


def test_the_method_compares_predictions_with_the_target_of_the_other_view(
    says: Any, make_unet: Any, make_batch: Any
) -> None:
    torch.manual_seed(0)
    q, z, batch = torch.randn(6, 6), torch.randn(6, 6), make_batch({0: [0, 2, 4]}, of={0: 6})
    method = Method(make_unet(), Settings(**SMALL))
    method.predict, method.target_project = says(q), says(z)
    outcome = method(batch, Rows(*RNG))
    assert outcome.losses["prediction"].item() == pytest.approx(slow(q, z), rel=1e-5)
    pair = method.views(batch, Rows(*RNG))
    images = torch.cat([pair["first"].image, pair["second"].image])
    (asked,) = method.target_project.asked
    torch.testing.assert_close(asked, method.target_backbone.encode(images)[-1].mean((2, 3)))
    assert not outcome.uninformed


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_target_follows_ever_more_slowly_and_has_no_gradient(
    progress: float, make_unet: Any, make_batch: Any
) -> None:
    method = Method(make_unet(), Settings(**SMALL, momentum=0.9))
    start = [p.clone() for p in method.target_backbone.parameters()]
    method(make_batch({0: [1, 3, 5]}, of={0: 6}), Rows(*RNG)).losses["prediction"].backward()
    for module in (method.target_backbone, method.target_project):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1)
    method.after_step(progress)
    share = 0.1 * (math.cos(math.pi * progress) + 1) / 2
    for weight, old in zip(method.target_backbone.parameters(), start, strict=True):
        torch.testing.assert_close(weight, old + share)


def test_sizes_of_the_heads(make_unet: Any) -> None:
    method = Method(make_unet(base_width=8), Settings())
    count = [sum(p.numel() for p in module.parameters()) for module in (method.project, method.predict)]
    assert count == [128 * 4096 + 2 * 4096 + 4096 * 256, 256 * 4096 + 2 * 4096 + 4096 * 256]
    assert sum(p.numel() for p in method.target_project.parameters()) == count[0]


@pytest.mark.slow
def test_it_does_not_collapse_unless_it_has_neither_predictor_nor_slow_target(make_unet: Any, train: Any) -> None:
    """Table 5 of the paper: removing both leaves 0.2 % accuracy."""
    small = {"size_px": 32, "embedding": 16, "hidden": 64}
    whole = train(Method(make_unet(), Settings(**small, momentum=0.9)), learning_rate=0.05)
    without = Method(make_unet(), Settings(**small, momentum=0.0))
    without.predict = nn.Identity()
    collapsed = train(without, learning_rate=0.05)
    assert spread(whole.embeddings["global"]) > 3 * SMALLEST_SPREAD
    assert spread(collapsed.embeddings["global"]) < SMALLEST_SPREAD
    assert collapsed.losses["prediction"].item() < whole.losses["prediction"].item(), "a lower loss says nothing"


def test_the_defaults_are_the_papers_and_the_protocols() -> None:
    ours, protocol = Settings(), pcl.Settings()
    assert (ours.momentum, ours.hidden, ours.embedding) == (0.996, 4096, 256)
    for name in ("batch_size", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
