"""Draws: a function of (seed, step), cut into shares for processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemis.sampling.draw import Rows


def numbers(rows: Rows, count: int) -> list[torch.Tensor]:
    return [rows.uniform(count, 3), rows.normal(count, 2, 5), rows.uniform(count, low=-2.0, high=7.0)]


@given(seed=st.integers(-(2**70), 2**70), step=st.integers(0, 2**40), world=st.sampled_from([2, 4]))
def test_processes_hold_shares_of_one_draw(seed: int, step: int, world: int) -> None:
    whole = numbers(Rows(seed, step, "cpu"), 8)
    shares = [numbers(Rows(seed, step, "cpu", rank, world), 8 // world) for rank in range(world)]
    for k, expected in enumerate(whole):
        assert torch.equal(torch.cat([share[k] for share in shares]), expected)


def test_same_seed_and_step_give_same_numbers() -> None:
    for one, two in zip(numbers(Rows(1, 2, "cpu"), 4), numbers(Rows(1, 2, "cpu"), 4), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("other", [(1, 3), (2, 2), (2, 1), (1, 2 + 2**32)])
def test_other_seed_or_step_gives_other_numbers(other: tuple[int, int]) -> None:
    one, two = Rows(1, 2, "cpu").uniform(64), Rows(*other, "cpu").uniform(64)
    assert not torch.isclose(one, two, atol=1e-6).any()


def test_steps_are_uncorrelated() -> None:
    first = torch.stack([Rows(0, step, "cpu").uniform(8) for step in range(500)])
    assert (torch.corrcoef(first.T) - torch.eye(8)).abs().max() < 0.2
    assert (first.mean(0) - 0.5).abs().max() < 0.06
    assert len(first.unique()) > 3990


def test_ranges_and_moments() -> None:
    rows = Rows(0, 0, "cpu")
    uniform = rows.uniform(20000, low=-1.0, high=3.0)
    assert uniform.dtype == torch.float32
    assert uniform.min() >= -1
    assert uniform.max() < 3
    assert uniform.mean().item() == pytest.approx(1.0, abs=0.05)
    normal = rows.normal(200, 100)
    assert normal.shape == (200, 100)
    assert normal.mean().item() == pytest.approx(0.0, abs=0.05)
    assert normal.std().item() == pytest.approx(1.0, abs=0.05)
