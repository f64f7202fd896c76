"""GCL (Chaitanya et al., NeurIPS 2020): the parts of a scan, its four forms, their losses done slowly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lemis.contracts import Batch
from lemis.methods import pcl, simclr
from lemis.methods.gcl import Method, Settings
from lemis.parts.contrast import contrast, pair_contrast, partition, same
from lemis.sampling.draw import Rows

RNG = (0, 0, "cpu")
# Parts of four: 0 0 1 3 | 0 1 2 3, and two slices of one part in scan 0.
CHOSEN, OF = {0: [0, 1, 2, 7], 1: [1, 3, 5, 9]}, {0: 8, 1: 10}
PART = [0, 0, 1, 3, 0, 1, 2, 3]
SCAN = [0, 0, 0, 0, 1, 1, 1, 1]


def cosine(z: Tensor) -> list[list[float]]:
    z = z.double() / z.double().norm(dim=1, keepdim=True)
    return (z @ z.T).tolist()  # type: ignore[no-any-return]


def slow_pcl(z: Tensor, tau: float) -> float:
    """The mean over views of L_i of form pcl, without tau_base."""
    s, part = cosine(z), PART * 2
    anchors = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        below = sum(math.exp(s[i][k] / tau) for k in others)
        terms = [-math.log(math.exp(s[i][j] / tau) / below) for j in others if part[j] == part[i]]
        anchors.append(sum(terms) / len(terms))
    return sum(anchors) / len(anchors)


def slow_pairs(z: Tensor, tau: float, form: str) -> tuple[float, float]:
    """The mean of l(a, b) of the original's forms, and of log(1 + |Neg(a)|)."""
    s, n = cosine(z), len(z) // 2
    losses, nothing = [], []
    for a in range(2 * n):
        for b in range(2 * n):
            slice_a, slice_b, view_a, view_b = a % n, b % n, a // n, b // n
            two_views = slice_a == slice_b and view_a != view_b
            same_part = PART[slice_a] == PART[slice_b] and SCAN[slice_a] != SCAN[slice_b] and view_a == view_b
            if not (two_views or (form == "domain" and same_part)):
                continue
            if form == "random":
                against = [k for k in range(2 * n) if k % n != slice_a]
            else:
                against = [k for k in range(2 * n) if PART[k % n] != PART[slice_a]]
            above = math.exp(s[a][b] / tau)
            losses.append(-math.log(above / (above + sum(math.exp(s[a][k] / tau) for k in against))))
            nothing.append(math.log(1 + len(against)))
    return sum(losses) / len(losses), sum(nothing) / len(nothing)


@pytest.fixture
def batch(make_batch: Any) -> Batch:
    made: Batch = make_batch(CHOSEN, of=OF)
    return made


# ---------------------------------------------------------------------------------------- the parts of a scan


def test_parts_of_known_scans() -> None:
    for slices, expected in ((8, [0, 0, 1, 1, 2, 2, 3, 3]), (10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (3, [1, 2, 3])):
        position = torch.arange(1, slices + 1) / slices
        assert partition(position, 4).tolist() == expected


@given(slices=st.integers(1, 600), count=st.integers(2, 9))
def test_parts_are_as_equal_as_can_be(slices: int, count: int) -> None:
    part = partition(torch.arange(1, slices + 1) / slices, count).tolist()
    assert part == [(count * (i + 1) - 1) // slices for i in range(slices)], "no rounding of float32 shows"
    sizes = [part.count(k) for k in range(count)]
    assert max(sizes) - min(sizes) <= 1
    assert part == sorted(part)


def test_where_the_pcl_code_cuts_otherwise() -> None:
    def theirs(slices: int) -> list[int]:
        quarter = math.floor(slices / 4 + 0.5)
        return [min(i // quarter, 3) for i in range(slices)]

    ours = {n: partition(torch.arange(1, n + 1) / n, 4).tolist() for n in range(4, 200)}
    assert all(ours[n] == theirs(n) for n in range(4, 200, 4))
    assert theirs(10) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    differing = [sum(a != b for a, b in zip(ours[n], theirs(n), strict=True)) / n for n in (10, 50, 190)]
    assert differing == pytest.approx([0.4, 0.08, 0.02], abs=0.01), "much in short scans, little in long ones"


# ------------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("form", ["random", "domain_minus", "domain"])
def test_the_originals_losses(form: str, tau: float, batch: Batch, says: Any, make_unet: Any) -> None:
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    method = Method(make_unet(), Settings(form=form, size_px=32, temperature=tau))
    method.project = says(z)
    outcome = method(batch, Rows(*RNG))
    loss, nothing = slow_pairs(z, tau, form)
    assert outcome.losses["contrast"].item() == pytest.approx(loss, rel=1e-5)
    assert outcome.uninformed["contrast"] == pytest.approx(nothing, rel=1e-5)


@pytest.mark.parametrize("tau_base", [0.07, None])
def test_the_loss_of_the_pcl_code(tau_base: float | None, batch: Batch, says: Any, make_unet: Any) -> None:
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    method = Method(make_unet(), Settings(size_px=32, temperature_base=tau_base))
    method.project = says(z)
    outcome = method(batch, Rows(*RNG))
    scale = 0.1 / (tau_base or 0.1)
    assert outcome.losses["contrast"].item() == pytest.approx(scale * slow_pcl(z, 0.1), rel=1e-5)
    assert outcome.uninformed["contrast"] == pytest.approx(scale * math.log(15))


def test_the_random_form_is_simclr_as_printed(batch: Batch, make_unet: Any) -> None:
    layer = {"size_px": 32, "embedding": 8}
    ours = Method(make_unet(), Settings(form="random", **layer))
    theirs = simclr.Method(make_unet(), simclr.Settings(temperature_base=None, **layer))
    theirs.load_state_dict(ours.state_dict())
    a, b = (method(batch, Rows(*RNG)).losses["contrast"].item() for method in (ours, theirs))
    assert a == pytest.approx(b, rel=1e-5)


def test_equal_embeddings(batch: Batch, says: Any, make_unet: Any) -> None:
    # Of the 16 views, 6 lie in part 0, 4 in parts 1 and 3, 2 in part 2.
    nothing = (6 * math.log(11) + 8 * math.log(13) + 2 * math.log(15)) / 16
    for form, expected in (("pcl", math.log(15) / 0.7), ("random", math.log(15)), ("domain_minus", nothing)):
        method = Method(make_unet(), Settings(form=form, size_px=32))
        method.project = says(torch.ones(16, 4))
        assert method(batch, Rows(*RNG)).losses["contrast"].item() == pytest.approx(expected, rel=1e-5)


def test_who_belongs_to_whom(batch: Batch, make_unet: Any) -> None:
    found = {}
    for form in ("random", "domain_minus", "domain"):
        positives, negatives = Method(make_unet(), Settings(form=form, size_px=32)).pairs(batch)
        assert not (positives & negatives).any()
        assert torch.equal(positives, positives.T)
        found[form] = positives.sum(1).tolist(), negatives.sum(1).tolist()
    assert found["random"] == ([1] * 16, [14] * 16)
    assert found["domain_minus"] == ([1] * 16, [10, 10, 12, 12, 10, 12, 14, 12] * 2)
    # Slices 0 and 1 are of one part of one scan: each has slice 4, of the other scan, and not the other.
    assert found["domain"][0] == [2, 2, 2, 2, 3, 2, 1, 2] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_without_negatives_cost_nothing(dtype: torch.dtype) -> None:
    z = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    none, all_pairs = torch.zeros(4, 4, dtype=torch.bool), ~torch.eye(4, dtype=torch.bool)
    for positives, negatives in ((all_pairs, none), (none, all_pairs), (none, none)):
        loss = pair_contrast(z, positives, negatives, 0.1)
        assert loss.item() == 0
        assert loss.dtype == dtype
        assert torch.autograd.grad(loss, z)[0].abs().max() == 0


def test_one_positive_against_all_others_is_the_usual_contrast() -> None:
    z = torch.randn(3, 10, 5, generator=torch.Generator().manual_seed(1))
    index = torch.arange(5).repeat(2)
    twins = same(index) & ~torch.eye(10, dtype=torch.bool)
    expected = torch.stack([contrast(one, twins, 0.2) for one in z]).mean()
    torch.testing.assert_close(pair_contrast(z, twins, ~same(index), 0.2), expected)


# ------------------------------------------------------------------------------------------------ the protocol


def test_the_defaults_are_the_protocols(make_unet: Any) -> None:
    ours, protocol = Settings(), pcl.Settings()
    for name in ("batch_size", "temperature", "temperature_base", "embedding", "size_px", "spatial"):
        assert getattr(ours, name) == getattr(protocol, name)
    assert (ours.form, ours.partitions) == ("pcl", 4)
    assert Method(make_unet(), ours).sampling == pcl.Method(make_unet(), protocol).sampling
