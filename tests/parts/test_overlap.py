"""Overlap losses against loops, and where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lemis.parts.overlap import cross_entropy, soft_dice_loss


def example(shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *shape, generator=generator)
    return logits, torch.randint(classes, (2, *shape), generator=generator)


def slow_dice(logits: Tensor, label: Tensor, smooth: float, power: int = 1, first: int = 1) -> float:
    classes = logits.shape[1]
    voxels = logits.movedim(1, -1).reshape(-1, classes).tolist()
    truth = label.flatten().tolist()
    scores = []
    for c in range(first, classes):
        overlap = predicted = 0.0
        for values, t in zip(voxels, truth, strict=True):
            p = math.exp(values[c]) / sum(math.exp(v) for v in values)
            predicted += p**power
            overlap += p * (t == c)
        scores.append((2 * overlap + smooth) / (predicted + truth.count(c) + smooth))
    return 1 - sum(scores) / len(scores)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_soft_dice_equals_a_loop(shape: tuple[int, ...], smooth: float) -> None:
    logits, label = example(shape)
    assert float(soft_dice_loss(logits, label, smooth)) == pytest.approx(slow_dice(logits, label, smooth), abs=1e-5)
    squared = soft_dice_loss(logits, label, smooth, squared=True, background=True)
    assert float(squared) == pytest.approx(slow_dice(logits, label, smooth, power=2, first=0), abs=1e-5)


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_everything() -> None:
    _, label = example((6, 6))
    right = 50 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    wrong = 50 * torch.nn.functional.one_hot((label + 1) % 3, 3).movedim(-1, 1).float()
    assert float(soft_dice_loss(right, label)) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice_loss(wrong, label)) == pytest.approx(1, abs=1e-5)


def test_a_class_that_is_nowhere_counts_as_right_and_one_pixel_of_it_as_wrong() -> None:
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    nothing = torch.zeros(1, 2, 4, 4)
    nothing[:, 0] = 100
    assert float(soft_dice_loss(nothing, label)) == pytest.approx(0, abs=1e-6)
    nothing[0, :, 0, 0] = torch.tensor([0.0, 100.0])
    assert float(soft_dice_loss(nothing, label)) == pytest.approx(1, abs=1e-4)


def test_counts_are_pooled_over_the_batch() -> None:
    logits, label = example((4, 4))
    joined = soft_dice_loss(torch.cat([logits[0], logits[1]], 1)[None], torch.cat([label[0], label[1]], 0)[None])
    torch.testing.assert_close(soft_dice_loss(logits, label), joined)


def test_the_background_is_not_scored() -> None:
    logits, label = example((4, 4), classes=2)
    expected = slow_dice(logits, label, 1e-5)
    flipped = soft_dice_loss(logits.flip(1), 1 - label)
    assert float(soft_dice_loss(logits, label)) == pytest.approx(expected, abs=1e-6)
    assert float(flipped) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)])
def test_cross_entropy_equals_a_loop(shape: tuple[int, ...]) -> None:
    logits, label = example(shape)
    voxels = logits.movedim(1, -1).reshape(-1, 3).tolist()
    terms = [
        math.log(sum(math.exp(v) for v in values)) - values[t]
        for values, t in zip(voxels, label.flatten().tolist(), strict=True)
    ]
    assert float(cross_entropy(logits, label)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_uniform_logits_give_log_classes() -> None:
    _, label = example((5, 4))
    assert float(cross_entropy(torch.zeros(2, 3, 5, 4), label)) == pytest.approx(math.log(3), rel=1e-6)


@pytest.mark.parametrize("loss", [soft_dice_loss, cross_entropy])
def test_half_precision_is_raised(loss) -> None:
    logits, label = example((5, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits.bfloat16(), label)
    assert inside.dtype == torch.float32
    assert float(inside) == pytest.approx(float(loss(logits.bfloat16().float(), label)), rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)])
@pytest.mark.parametrize("power", [1, 2])
def test_dice_over_some_pixels_equals_a_loop_over_them(shape: tuple[int, ...], power: int) -> None:
    logits, label = (x.double() if x.is_floating_point() else x for x in example(shape))
    counts = (torch.rand(label.shape, generator=torch.Generator().manual_seed(3)) < 0.6).double()
    chosen = counts.bool()
    picked = logits.movedim(1, -1)[chosen].T[None], label[chosen][None]  # (1, K, n), (1, n)
    how = {"squared": power == 2, "background": power == 2}
    found = soft_dice_loss(logits, label, counts=counts, **how)
    assert float(found) == pytest.approx(slow_dice(*picked, 1e-5, power, first=0 if power == 2 else 1), abs=1e-12)


def test_cross_entropy_over_some_pixels_is_their_mean_and_weights_weigh() -> None:
    logits, label = example((5, 4))
    per = torch.nn.functional.cross_entropy(logits.double(), label, reduction="none")
    counts = torch.rand(label.shape, generator=torch.Generator().manual_seed(3)).double()
    for weights in ((counts < 0.6).double(), counts):
        expected = (per * weights).sum() / weights.sum()
        torch.testing.assert_close(cross_entropy(logits.double(), label, weights), expected)
    torch.testing.assert_close(cross_entropy(logits, label, torch.ones(2, 5, 4)), cross_entropy(logits, label))


@pytest.mark.parametrize("loss", [soft_dice_loss, cross_entropy])
@pytest.mark.parametrize("rows", [0, 2])
def test_where_no_pixel_counts_the_loss_is_0_and_has_a_gradient(loss, rows: int) -> None:
    logits, label = example((5, 4))
    logits = logits[:rows].requires_grad_()
    found = loss(logits, label[:rows], counts=torch.zeros(rows, 5, 4))
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-7)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_uninformed_dice_at_known_shares() -> None:
    for share, expected in ((0.25, 0.6), (0.1, 0.692308), (0.05, 0.777778)):
        label = (torch.arange(400) < 400 * share).long()[None]
        uniform = torch.zeros(1, 4, 400, dtype=torch.float64)
        p, g = 0.25, share
        assert 1 - 2 * p * g / (p * p + g) == pytest.approx(expected, abs=1e-6)
        dice = soft_dice_loss(uniform, label, smooth=0.0, squared=True, background=True)
        rest = 2 * p * (1 - g) / (p * p + 1 - g)
        assert float(dice) == pytest.approx(1 - (rest + 1 - expected) / 4, abs=1e-6)  # two classes are nowhere
    assert float(cross_entropy(torch.zeros(1, 4, 5), torch.zeros(1, 5).long())) == pytest.approx(1.386294, abs=1e-6)
