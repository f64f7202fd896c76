"""The network that follows: its weights by hand, and that it is a state without a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lemis.layers.basic import BatchNorm
from lemis.parts.momentum import follow, follower, towards_one, warmed


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), BatchNorm(3), nn.Conv2d(3, 2, 1))


def test_a_follower_is_an_equal_copy_without_a_gradient() -> None:
    leader = network()
    leader(torch.randn(4, 1, 5, 5))  # so that the running statistics are not those of the start
    slow = follower(leader)
    for (key, a), b in zip(leader.state_dict().items(), slow.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
        assert a.data_ptr() != b.data_ptr(), key
    assert not any(p.requires_grad for p in slow.parameters())
    leader.requires_grad_(True)
    assert all(p.requires_grad for p in leader.parameters())
    assert not any(p.requires_grad for p in slow.parameters()), "what is done to the leader does not reach it"


@settings(deadline=None)
@given(st.floats(0, 1))
def test_follow_by_hand(momentum: float) -> None:
    slow, leader = follower(network(0)), network(1)
    before = [p.clone() for p in slow.parameters()]
    ahead = [p.clone() for p in leader.parameters()]
    follow(slow, leader, momentum)
    for now, old, new in zip(slow.parameters(), before, ahead, strict=True):
        torch.testing.assert_close(now, momentum * old + (1 - momentum) * new)
    assert all(torch.equal(p, old) for p, old in zip(leader.parameters(), ahead, strict=True))


def test_the_ends_are_exact() -> None:
    for momentum, source in ((1.0, 0), (0.0, 1)):
        slow = follower(network(0))
        follow(slow, network(1), momentum)
        assert all(torch.equal(p, q) for p, q in zip(slow.parameters(), network(source).parameters(), strict=True))


def test_many_steps_are_a_geometric_mean_of_the_past() -> None:
    leader, slow = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(slow.weight)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(leader.weight, value)
        follow(slow, leader, 0.5)
    assert slow.weight.item() == pytest.approx(0.125 * 1 + 0.25 * 2 + 0.5 * 3)


def test_buffers_stay_its_own() -> None:
    leader, slow = network(0), follower(network(0))
    leader(torch.randn(4, 1, 5, 5) + 3)
    before = [b.clone() for b in slow.buffers()]
    follow(slow, leader, 0.0)
    assert all(torch.equal(b, old) for b, old in zip(slow.buffers(), before, strict=True))


def test_buffers_follow_where_asked_to_and_those_that_count_are_copied() -> None:
    leader, slow = network(0), follower(network(0))
    leader(torch.randn(4, 1, 5, 5) + 3)
    before, ahead = dict(slow.named_buffers()), dict(leader.named_buffers())
    expected = {
        key: 0.75 * old + 0.25 * ahead[key] if old.is_floating_point() else ahead[key] for key, old in before.items()
    }
    follow(slow, leader, 0.75, buffers=True)
    for key, now in slow.named_buffers():
        torch.testing.assert_close(now, expected[key])


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, 0), (1, 0.5), (2, 2 / 3), (9, 0.9), (98, 0.989899), (99, 0.99), (100, 0.99)]
)
def test_a_follower_warms_up(steps: int, expected: float) -> None:
    assert warmed(0.99, steps) == pytest.approx(expected, abs=1e-6)


def test_a_warm_follower_is_the_mean_and_a_cold_one_is_not() -> None:
    leader, warm, cold = (nn.Linear(1, 1, bias=False).double() for _ in range(3))
    nn.init.zeros_(cold.weight)
    for steps, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        nn.init.constant_(leader.weight, value)
        follow(warm, leader, warmed(0.99, steps))
    assert warm.weight.item() == pytest.approx(3)
    nn.init.ones_(leader.weight)
    for _ in range(100):
        follow(cold, leader, 0.99)
    assert cold.weight.item() == pytest.approx(0.633968, abs=1e-6)


def test_networks_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        follow(network(), nn.Sequential(nn.Conv2d(1, 3, 3)), 0.5)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0), (0.25, None)])
def test_momentum_of_byol(progress: float, expected: float | None) -> None:
    by_hand = 1 - 0.004 * (math.cos(math.pi * progress) + 1) / 2
    assert towards_one(0.996, progress) == pytest.approx(by_hand if expected is None else expected, abs=1e-12)
