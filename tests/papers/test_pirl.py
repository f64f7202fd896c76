"""PIRL (Misra and van der Maaten, CVPR 2020): the bank, the puzzle, and their losses done slowly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemis.contracts import Batch
from lemis.errors import UsageError
from lemis.layers.basic import unit
from lemis.methods.pirl import Method, Settings
from lemis.sampling.draw import Rows
from lemis.training.collapse import spread

RNG = (0, 0, "cpu")
SMALL: dict[str, Any] = {"size_px": 48, "embedding": 8, "bank": 32, "negatives": 6}


@pytest.fixture
def batch(make_batch: Any) -> Batch:
    made: Batch = make_batch({0: [1, 4, 7, 11, 20]}, of={0: 24})
    return made


class Recorded:
    """Random numbers that can be looked at afterwards."""

    def __init__(self) -> None:
        self.inner = Rows(*RNG)
        self.drawn: list[Tensor] = []

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        self.drawn.append(self.inner.uniform(rows, *shape, low=low, high=high))
        return self.drawn[-1]

    def normal(self, rows: int, *shape: int) -> Tensor:
        return self.inner.normal(rows, *shape)


def slow(v: Tensor, bank: Tensor, index: list[int], chosen: list[list[int]], tau: float) -> float:
    """Mean over slices of CE(v)."""
    terms = []
    for row, own, others in zip(v.double(), index, chosen, strict=True):
        row = row / row.norm()
        above = math.exp(float(row @ bank[own].double()) / tau)
        below = above + sum(math.exp(float(row @ bank[k].double()) / tau) for k in others)
        terms.append(-math.log(above / below))
    return sum(terms) / len(terms)


# ---------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(("tau", "weight"), [(0.1, 0.5), (0.07, 0.2)])
def test_the_loss(tau: float, weight: float, batch: Batch, make_unet: Any, says: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    v, puzzle = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    method = Method(make_unet(), Settings(**SMALL, temperature=tau, jigsaw_weight=weight))
    method.project, method.join = says(v), says(puzzle)
    before, rng = method.bank.clone(), Recorded()
    outcome = method(batch, rng)
    chosen = (rng.drawn[-1] * 21).long()  # slices 0 to 20 can have been seen
    assert chosen.shape == (5, 6)
    index = [1, 4, 7, 11, 20]
    for name, z, share in (("image", v, 1 - weight), ("jigsaw", puzzle, weight)):
        expected = share * slow(z, before, index, chosen.tolist(), tau)
        assert outcome.losses[name].item() == pytest.approx(expected, rel=1e-5)
        assert outcome.uninformed[name] == pytest.approx(share * math.log(7))


def test_limits(batch: Batch, make_unet: Any, says: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    alike = unit(torch.ones(32, 8))
    right = torch.zeros(32, 8)
    right[:, 0] = -1
    right[batch.index] = torch.eye(8)[1]
    for bank, v, expected in (
        (alike, torch.randn(5, 8), math.log(7)),
        (torch.zeros(32, 8), torch.randn(5, 8), math.log(7)),
        (right, torch.eye(8)[1].expand(5, 8), None),
    ):
        method.bank.copy_(bank)
        method.project, method.join = says(v), says(v)
        loss = 2 * method(batch, Rows(*RNG)).losses["image"].item()
        if expected is not None:
            assert loss == pytest.approx(expected, rel=1e-5)
        else:  # only entries of the batch, which may be drawn too, are as near as the own one
            assert loss < math.log(7) - 0.5


# ---------------------------------------------------------------------------------------------------- the bank


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_bank_learns_from_the_images_of_its_slices(
    momentum: float, batch: Batch, make_unet: Any, says: Any
) -> None:
    v = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    method = Method(make_unet(), Settings(**SMALL, bank_momentum=momentum))
    method.project = says(v)
    before = method.bank.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(32))
    method(batch, Rows(*RNG))
    for entry in range(32):
        expected = before[entry]
        if entry in batch.index:
            row = int((batch.index == entry).nonzero())
            expected = momentum * before[entry] + (1 - momentum) * v[row] / v[row].norm()
            expected = expected / expected.norm()
        torch.testing.assert_close(method.bank[entry], expected)


def test_the_backward_pass_sees_the_bank_as_the_loss_did(batch: Batch, make_unet: Any) -> None:
    # The update is in place; a loss that kept the bank itself would raise here, or give another gradient.
    method, again = (Method(make_unet(), Settings(**SMALL)) for _ in range(2))
    again.load_state_dict(method.state_dict())
    again.remember = lambda index, v: None  # type: ignore[method-assign]
    for one in (method, again):
        sum(one(batch, Rows(*RNG)).losses.values()).backward()  # type: ignore[union-attr]
    for a, b in zip(method.parameters(), again.parameters(), strict=True):
        if a.grad is not None:
            assert torch.equal(a.grad, b.grad)
    assert not torch.equal(method.bank, again.bank)


def test_entries_that_no_slice_can_have_filled_are_not_drawn(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    method.bank[21:] = torch.nan
    outcome = method(batch, Rows(*RNG))
    assert all(torch.isfinite(loss) for loss in outcome.losses.values())
    assert method.filled == 21
    method(batch._replace(index=torch.arange(5)), Rows(*RNG))
    assert method.filled == 21, "earlier slices count"


def test_a_bank_filled_by_the_network(batch: Batch, make_unet: Any, says: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    v, puzzle = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    method = Method(make_unet(), Settings(**SMALL, bank_start="network"))
    method.project, method.join = says(v), says(puzzle)
    random, rng = method.bank.clone(), Recorded()
    outcome = method(batch, rng)
    torch.testing.assert_close(method.bank[batch.index], unit(v))
    new = [k for k in range(32) if k not in batch.index]
    assert torch.equal(method.bank[new], random[new])
    chosen = batch.index[(rng.drawn[-1] * 5).long()]  # of the slices that were seen
    for name, z in (("image", v), ("jigsaw", puzzle)):
        expected = 0.5 * slow(z, method.bank, batch.index.tolist(), chosen.tolist(), 0.1)
        assert outcome.losses[name].item() == pytest.approx(expected, rel=1e-5)
    before = method.bank.clone()  # a slice that was seen is new no more
    method.project = says(-v[:2])
    method.join = says(puzzle[:2])
    method(batch._replace(**{key: getattr(batch, key)[3:] for key in ("image", "index")}), Recorded())
    assert method.seen.nonzero()[:, 0].tolist() == batch.index.tolist()
    torch.testing.assert_close(method.bank[batch.index[:3]], before[batch.index[:3]])


def test_a_bank_that_is_too_small_is_refused(batch: Batch, make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**{**SMALL, "bank": 20}))
    with pytest.raises(UsageError, match=r"(?s)slice 20 of the data set, and bank=20.*method.bank=32"):
        method(batch, Rows(*RNG))
    Method(make_unet(), Settings(**{**SMALL, "bank": 21}))(batch, Rows(*RNG))


# -------------------------------------------------------------------------------------------------- the puzzle


@pytest.mark.parametrize(("size", "patch"), [(352, 112), (512, 160), (256, 80), (96, 32), (48, 16)])
def test_the_size_of_a_patch(size: int, patch: int, make_unet: Any) -> None:
    assert Method(make_unet(), Settings(**{**SMALL, "size_px": size})).patch_px == patch


def test_a_view_too_small_for_a_puzzle_is_refused(make_unet: Any) -> None:
    with pytest.raises(UsageError, match=r"(?s)size_px=47, whose puzzle has cells of 15 px.*method.size_px=48"):
        Method(make_unet(), Settings(**{**SMALL, "size_px": 47}))


def test_one_patch_from_each_cell(make_unet: Any) -> None:
    method = Method(make_unet(), Settings(**{**SMALL, "size_px": 64}))  # cells of 21, patches of 16
    image = torch.randn(3, 2, 64, 64)
    place = torch.rand(3, 9, 2)
    place[0, 0], place[0, 8] = 0.0, 1 - 2**-24  # ends
    found = method.cut(image, place)
    assert found.shape == (3, 9, 2, 16, 16)
    for n in range(3):
        for k in range(9):
            row = k // 3 * 21 + int(place[n, k, 0] * 6)
            col = k % 3 * 21 + int(place[n, k, 1] * 6)
            assert k // 3 * 21 <= row
            assert row + 16 <= (k // 3 + 1) * 21
            assert torch.equal(found[n, k], image[n, :, row : row + 16, col : col + 16])


def test_patches_are_joined_in_random_order(batch: Batch, make_unet: Any, says: Any) -> None:
    method = Method(make_unet(), Settings(**SMALL))
    of_patch = torch.arange(45.0).view(45, 1).expand(45, 8)  # slice after slice, patch after patch
    method.project_patch, method.join = says(of_patch), says(torch.ones(5, 8))
    orders = set()
    for seed in range(3):
        method(batch, Rows(0, seed, "cpu"))
        joined = method.join.asked[-1].view(5, 9, 8)
        assert torch.equal(joined, joined[..., :1].expand(5, 9, 8)), "a patch's embedding stays in one piece"
        for n in range(5):
            order = joined[n, :, 0].long() - 9 * n
            assert order.sort().values.tolist() == list(range(9))
            orders.add(tuple(order.tolist()))
    assert len(orders) == 15, "each slice in its own order, anew at each step"


# ------------------------------------------------------------------------------------------------- the network


def test_the_heads(make_unet: Any) -> None:
    method = Method(make_unet(4), Settings(bank=8))
    for head in (method.project, method.project_patch):
        shapes = [layer.weight.shape for layer in head.layers if isinstance(layer, nn.Linear)]
        assert shapes == [(64, 64), (512, 64)]
    assert method.join.weight.shape == (512, 9 * 512)
    assert (Settings().negatives, Settings().temperature, Settings().bank_momentum) == (128, 0.1, 0.5)


@pytest.mark.slow
def test_it_learns_and_does_not_collapse(make_batch: Any, make_unet: Any) -> None:
    batch = make_batch({0: list(range(8)), 1: list(range(8))}, of={0: 8, 1: 8})
    batch = batch._replace(index=torch.arange(16))
    method = Method(make_unet(), Settings(**SMALL))
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    seen = []
    for step in range(100):
        outcome = method(batch, Rows(0, step, "cpu"))
        loss = torch.stack(list(outcome.losses.values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert sum(seen[-10:]) / 10 < 0.93 * math.log(7), "it learns"
    for name, z in outcome.embeddings.items():
        assert spread(z) > 0.2, name
