"""Mutual information of cluster maps: by double loops, and its known values."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.parts.mutual_information import joint, loss


def maps(seed: int, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    phi, other = torch.randn(2, *shape, generator=generator, dtype=torch.float64).softmax(2)
    return phi, other, torch.rand(shape[0], *shape[2:], generator=generator) < 0.7


def slow(phi: Tensor, other: Tensor, inside: Tensor, reach: int, lamb: float, over: str) -> float:
    """The formula for one image, read aloud."""
    clusters, rows, columns = phi.shape
    joints = []
    for down in range(-min(reach, rows - 1), min(reach, rows - 1) + 1):
        for right in range(-min(reach, columns - 1), min(reach, columns - 1) + 1):
            P = torch.zeros(clusters, clusters, dtype=torch.float64)
            for y in range(rows):
                for x in range(columns):
                    there = 0 <= y + down < rows and 0 <= x + right < columns
                    if there and inside[y, x] and inside[y + down, x + right]:
                        P += torch.outer(phi[:, y, x], other[:, y + down, x + right])
            joints.append(P)
    if over == "collapsed":
        joints = [sum(joints, torch.zeros_like(joints[0]))]
    terms = []
    for P in joints:
        P = (P + P.T) / 2
        if P.sum() == 0:
            terms.append(0.0)
            continue
        P = P / P.sum()
        terms.append(
            sum(
                float(-P[i, j] * (P[i, j].log() - lamb * P[i].sum().log() - lamb * P[:, j].sum().log()))
                for i in range(clusters)
                for j in range(clusters)
            )
        )
    return sum(terms) / len(terms)


@examples(25)
@given(
    st.integers(0, 1000), st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.sampled_from([1.0, 1.5]),
    st.sampled_from(["uncollapsed", "collapsed"]), st.booleans(),
)  # fmt: skip
def test_it_is_the_formula(seed: int, rows: int, columns: int, reach: int, lamb: float, over: str, all_: bool) -> None:
    phi, other, inside = maps(seed, (2, 3, rows, columns))
    if all_:
        inside = torch.ones_like(inside)
    found = loss(phi, other, None if all_ else inside, reach_px=reach, lamb=lamb, over=over)  # type: ignore[arg-type]
    expected = [slow(*each, reach, lamb, over) for each in zip(phi, other, inside, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_agreeing_balanced_clusters_reach_the_bound(clusters: int) -> None:
    label = torch.arange(clusters * 6).view(2, -1) % clusters
    phi = torch.nn.functional.one_hot(label, clusters).movedim(-1, 0)[None].double()
    assert loss(phi, phi).item() == pytest.approx(-log(clusters), abs=1e-9)
    assert loss(phi, phi.roll(1, 1)).item() > -log(clusters), "symmetry is asked for, not any permutation"


@pytest.mark.parametrize("reach", [0, 2])
def test_maps_that_say_nothing_give_zero(reach: int) -> None:
    phi = torch.full((1, 4, 5, 6), 0.25, dtype=torch.float64)
    _, other, _ = maps(0, (1, 4, 5, 6))
    assert loss(phi, phi, reach_px=reach).item() == pytest.approx(0, abs=1e-9)
    one = torch.zeros_like(phi).index_fill(1, torch.tensor([2]), 1.0)
    assert loss(one, one, reach_px=reach).item() == pytest.approx(0, abs=1e-9)
    assert loss(phi, other).item() < 1e-9


def test_a_displaced_copy_is_found_where_it_lies() -> None:
    phi, _, _ = maps(1, (1, 3, 12, 12))
    sharp = (phi * 50).softmax(1)
    other = sharp.roll((2, -1), (2, 3))
    each = joint(sharp, other, None, 2)[:, 0]
    trace = each.diagonal(dim1=-2, dim2=-1).sum(-1) / each.sum((-1, -2))
    assert trace.argmax() == 4 * 5 + 1  # (2, -1) of -2 .. 2, row by row


def test_gradients() -> None:
    phi, other, inside = maps(2, (2, 3, 3, 4))
    phi.requires_grad_()
    other.requires_grad_()
    torch.autograd.gradcheck(lambda a, b: loss(a, b, inside, reach_px=1), (phi, other))


def test_nothing_inside_is_zero_with_a_gradient() -> None:
    phi, other, inside = maps(3, (1, 3, 4, 4))
    phi.requires_grad_()
    nothing = loss(phi, other, torch.zeros_like(inside), reach_px=1)
    nothing.sum().backward()
    assert nothing.item() == pytest.approx(0, abs=1e-6)
    assert phi.grad is not None
    assert torch.isfinite(phi.grad).all()
