"""Windowed alignment against loops, and its limits: one cell, the whole map, nested windows, masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.layers.basic import unit
from lemis.parts.alignment import alignment_loss


def slow(
    x: Tensor, pairs: Tensor, window: int | None, valid: Tensor | None = None, target: Tensor | None = None
) -> float:
    """Cell by cell."""
    slices, _, height, width = x.shape
    rows, cols = (height, width) if window is None else (window, window)
    target = x if target is None else target
    losses = []
    for i in range(slices):
        for j in range(slices):
            if not pairs[i, j]:
                continue
            for top in range(0, height, rows):
                for left in range(0, width, cols):
                    cells = [
                        (r, c)
                        for r in range(top, min(top + rows, height))
                        for c in range(left, min(left + cols, width))
                    ]
                    mine = [cell for cell in cells if valid is None or valid[i][cell]]
                    theirs = [cell for cell in cells if valid is None or valid[j][cell]]
                    if theirs:
                        losses += [
                            abs(1 - max(float(x[i, :, r, c] @ target[j, :, s, t]) for s, t in theirs)) for r, c in mine
                        ]
    return sum(losses) / len(losses) if losses else 0.0


def features(slices: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(slices, channels, height, width, generator=generator, dtype=torch.float64))


def others(slices: int) -> Tensor:
    return ~torch.eye(slices, dtype=torch.bool)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 6, 9, None])
def test_equals_loops(window: int | None) -> None:
    x = features(3, 4, 6, 5)  # 4 divides neither side, 9 is larger than the map
    generator = torch.Generator().manual_seed(1)
    pairs = torch.rand(3, 3, generator=generator) < 0.6
    valid = torch.rand(3, 6, 5, generator=generator) < 0.7
    target = features(3, 4, 6, 5, seed=2)
    assert float(alignment_loss(x, pairs, window)) == pytest.approx(slow(x, pairs, window), abs=1e-12)
    assert float(alignment_loss(x, pairs, window, valid)) == pytest.approx(slow(x, pairs, window, valid), abs=1e-12)
    expected = slow(x, pairs, window, valid, target)
    assert float(alignment_loss(x, pairs, window, valid, target)) == pytest.approx(expected, abs=1e-12)


@examples(60)
@given(
    slices=st.integers(1, 4),
    channels=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    window=st.none() | st.integers(1, 7),
    seed=st.integers(0, 1000),
    masked=st.booleans(),
)
def test_equals_loops_anywhere(
    slices: int, channels: int, height: int, width: int, window: int | None, seed: int, masked: bool
) -> None:
    x = features(slices, channels, height, width, seed)
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(slices, slices, generator=generator) < 0.5
    valid = torch.rand(slices, height, width, generator=generator) < 0.5 if masked else None
    loss = float(alignment_loss(x, pairs, window, valid))
    assert loss == pytest.approx(slow(x, pairs, window, valid), abs=1e-12)
    assert 0 <= loss <= 2


def test_equal_maps_cost_nothing() -> None:
    x = features(1, 8, 6, 6).expand(3, -1, -1, -1)
    for window in (1, 2, 4, None):
        assert float(alignment_loss(x, others(3), window)) < 1e-12
        assert float(alignment_loss(x.float(), others(3), window)) < 1e-6


def test_a_window_of_one_is_the_cosine_at_the_same_place() -> None:
    x = features(2, 8, 6, 6)
    expected = (1 - (x[0] * x[1]).sum(0)).mean()
    torch.testing.assert_close(alignment_loss(x, others(2), 1), expected)


def test_one_window_is_the_full_alignment_loss() -> None:
    x = features(2, 8, 6, 5)
    pairs = torch.tensor([[False, True], [False, False]])
    matrix = x[0].flatten(1).T @ x[1].flatten(1)  # A = X_i^T X_j
    expected = (1 - matrix.amax(1)).abs().mean()
    torch.testing.assert_close(alignment_loss(x, pairs, None), expected)
    torch.testing.assert_close(alignment_loss(x, pairs, 6), expected)
    torch.testing.assert_close(alignment_loss(x, pairs, 50), expected)


@pytest.mark.parametrize("seed", range(5))
def test_larger_nested_windows_match_at_least_as_well(seed: int) -> None:
    x = features(3, 4, 8, 8, seed)
    losses = [float(alignment_loss(x, others(3), window)) for window in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.1


def test_opposite_maps_reach_two() -> None:
    x = features(1, 4, 1, 1).expand(-1, -1, 6, 6)
    assert float(alignment_loss(torch.cat([x, -x]), others(2), 3)) == pytest.approx(2)


def test_directions_count_apart() -> None:
    x = features(2, 4, 4, 4)
    there, back = torch.tensor([[0, 1], [0, 0]]).bool(), torch.tensor([[0, 0], [1, 0]]).bool()
    a, b = (float(alignment_loss(x, pairs, 2)) for pairs in (there, back))
    assert a != pytest.approx(b, abs=1e-4)
    assert float(alignment_loss(x, others(2), 2)) == pytest.approx((a + b) / 2)


def test_what_is_not_valid_has_no_say() -> None:
    x = features(3, 4, 6, 6)
    valid = torch.ones(3, 6, 6, dtype=torch.bool)
    valid[:, 2:4, 1] = False
    changed = torch.where(valid[:, None], x, features(3, 4, 6, 6, seed=5))
    torch.testing.assert_close(
        alignment_loss(changed, others(3), 3, valid), alignment_loss(x, others(3), 3, valid), rtol=0, atol=0
    )


def test_nothing_to_align_is_zero_with_a_gradient() -> None:
    x = features(3, 4, 4, 4).requires_grad_()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    nowhere = torch.zeros(3, 4, 4, dtype=torch.bool)
    disjoint = nowhere.clone()
    disjoint[0, :2], disjoint[1, 2:] = True, True  # never in one window of 2
    for pairs, valid in ((nothing, None), (others(3), nowhere), (others(3), disjoint)):
        loss = alignment_loss(x, pairs, 2, valid)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 0
        assert gradient.abs().max() == 0


def test_a_zero_vector_matches_nothing() -> None:
    x = features(2, 4, 4, 4)
    x[1] = 0
    assert float(alignment_loss(x, others(2), 2)) == pytest.approx(1)


def test_a_detached_target_gets_no_gradient() -> None:
    x = features(2, 4, 4, 4).requires_grad_()
    there = torch.tensor([[False, True], [False, False]])
    both = alignment_loss(x, there, 2)
    one_sided = alignment_loss(x, there, 2, target=x.detach())
    assert torch.equal(both, one_sided)
    (gradient,) = torch.autograd.grad(one_sided, x)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0
    (gradient,) = torch.autograd.grad(both, x)
    assert gradient[1].abs().max() > 0


@pytest.mark.parametrize("window", [2, 3, None])
def test_gradient(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(3, 4, 4, generator=generator) < 0.8
    assert torch.autograd.gradcheck(lambda y: alignment_loss(unit(y), others(3), window, valid), (x,))


def test_autocast_does_not_reach_it() -> None:
    x = features(2, 8, 4, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = alignment_loss(x, others(2), 2)
    assert float(inside) == float(alignment_loss(x, others(2), 2))
