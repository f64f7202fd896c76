"""The queue against a list, and the contrast with it against loops and known values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemis.parts.queue import Queue, contrast_then_add, contrast_with_queue


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_it_holds_the_last_keys_whatever_the_batches(length: int, batches: list[int]) -> None:
    queue = Queue(length, 3)
    start = queue.keys.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(length))
    assert (queue.owner == -1).all()
    seen: list[tuple[int, Tensor]] = []
    for count in batches:
        keys, owner = torch.randn(count, 3), torch.arange(count) + len(seen)
        queue.add(keys, owner)
        seen += [(int(o), k / k.norm()) for o, k in zip(owner, keys, strict=True)]
    kept = dict(seen[-length:])
    assert sorted(queue.owner[queue.owner >= 0].tolist()) == sorted(kept)
    for place, (owner, key) in enumerate(zip(queue.owner.tolist(), queue.keys, strict=True)):
        torch.testing.assert_close(key, kept[owner] if owner >= 0 else start[place])
    assert int(queue.place) == len(seen) % length


def test_the_oldest_goes_first() -> None:
    queue = Queue(4, 2)
    for first in (0, 3):
        queue.add(torch.ones(3, 2), torch.arange(3) + first)
    assert queue.owner.tolist() == [4, 5, 2, 3]


def test_keys_of_the_same_slice_are_no_negatives() -> None:
    queue = Queue(3, 2)
    queue.add(torch.ones(2, 2), torch.tensor([7, 5]))
    assert queue.of_others(torch.tensor([5, 6, 7])).tolist() == [[True, False, True], [True] * 3, [False, True, True]]


def test_it_is_a_state_that_can_be_saved_and_asks_for_no_gradient() -> None:
    queue, other = Queue(5, 2), Queue(5, 2)
    queue.add(torch.randn(3, 2, requires_grad=True), torch.arange(3))
    assert not queue.keys.requires_grad
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.add(torch.ones(4, 2), torch.arange(4))
    assert torch.equal(queue.keys, other.keys)
    assert torch.equal(queue.owner, other.owner)


def slow(q: Tensor, k: Tensor, negatives: Tensor, tau: float, allowed: Tensor) -> float:
    terms = []
    for i in range(len(q)):
        positive = math.exp(float(q[i] @ k[i] / q[i].norm() / k[i].norm()) / tau)
        below = positive
        for j in range(len(negatives)):
            if allowed[i, j]:
                below += math.exp(float(q[i] @ negatives[j] / q[i].norm()) / tau)
        terms.append(-math.log(positive / below))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("tau", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("count", [1, 4])
def test_contrast_by_loops(count: int, tau: float) -> None:
    torch.manual_seed(count)
    q, k, negatives = torch.randn(count, 5), torch.randn(count, 5), Queue(6, 5).keys
    allowed = torch.rand(count, 6) < 0.7
    every = torch.ones(count, 6, dtype=torch.bool)
    assert contrast_with_queue(q, k, negatives, tau).item() == pytest.approx(
        slow(q, k, negatives, tau, every), rel=1e-5
    )
    expected = slow(q, k, negatives, tau, allowed)
    assert contrast_with_queue(q, k, negatives, tau, allowed).item() == pytest.approx(expected, rel=1e-5)


def test_contrast_of_cells_is_that_of_their_rows() -> None:
    torch.manual_seed(0)
    q, k, negatives, allowed = torch.randn(3, 4, 5), torch.randn(3, 4, 5), Queue(6, 5).keys, torch.rand(3, 6) < 0.7
    rows = contrast_with_queue(q.flatten(0, 1), k.flatten(0, 1), negatives, 0.2, allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(contrast_with_queue(q, k, negatives, 0.2, allowed[:, None]), rows)


def test_known_values() -> None:
    q, apart = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    assert contrast_with_queue(q, 3 * q, apart, 0.2).item() == pytest.approx(math.log(math.exp(5) + 8) - 5, rel=1e-4)
    assert contrast_with_queue(q, q, q.repeat(8, 1) / 2, 0.2).item() == pytest.approx(math.log(9), rel=1e-6)
    assert contrast_with_queue(0 * q, q, apart, 0.2).item() == pytest.approx(math.log(9), rel=1e-6)
    none = torch.zeros(1, 8, dtype=torch.bool)
    assert contrast_with_queue(q, q, apart, 0.2, none).item() == 0


def test_the_queue_may_take_keys_before_the_backward_pass() -> None:
    torch.manual_seed(0)
    q, k, queue = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5), Queue(4, 5)
    contrast_with_queue(q, k, queue.keys, 0.2).backward()
    assert q.grad is not None
    expected, q.grad = q.grad.clone(), None
    loss = contrast_with_queue(q, k, queue.keys, 0.2)
    queue.add(k, torch.arange(3))
    loss.backward()
    assert torch.equal(q.grad, expected)


def test_a_step_compares_with_keys_of_others_and_then_adds_its_own() -> None:
    torch.manual_seed(0)
    q, k, queue, owner = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5), Queue(5, 5), torch.tensor([3, 8])
    queue.add(torch.randn(3, 5), torch.tensor([8, 3, 1]))
    before = queue.keys.clone()
    allowed = torch.tensor([[True, False, True, True, True], [False, True, True, True, True]])
    loss = contrast_then_add(q, k, owner, queue, 0.2)
    assert loss.item() == pytest.approx(slow(q.detach(), k, before, 0.2, allowed), rel=1e-5)
    assert queue.owner.tolist() == [8, 3, 1, 3, 8]
    torch.testing.assert_close(queue.keys[3:], k / k.norm(dim=1, keepdim=True))
    loss.backward()
    assert q.grad is not None


def test_small_temperatures_do_not_overflow() -> None:
    q = torch.eye(4, dtype=torch.bfloat16)
    loss = contrast_with_queue(q, q, torch.eye(4), 1e-3)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
