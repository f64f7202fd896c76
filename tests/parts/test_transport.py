"""Sinkhorn with bins against the plain loop, its gradients, its limits, and what padding may not do."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.parts import transport
from lemis.parts.transport import Gradient, log_plan, marginals, with_bins

GRADIENTS = get_args(Gradient)


def slow(scores: Tensor, z: Tensor, iterations: int = 100) -> Tensor:
    """The formulas for one sample without padding, (M, N) -> (M + 1, N + 1); M and N not 0."""
    rows, columns = scores.shape
    C = torch.cat([scores, z.expand(rows, 1)], 1)
    C = torch.cat([C, z.expand(1, columns + 1)], 0)
    log_mu = (torch.tensor([1.0] * rows + [columns], dtype=C.dtype) / (rows + columns)).log()
    log_nu = (torch.tensor([1.0] * columns + [rows], dtype=C.dtype) / (rows + columns)).log()
    u, v = torch.zeros_like(log_mu), torch.zeros_like(log_nu)
    for _ in range(iterations):
        u = log_mu - torch.logsumexp(C + v, 1)
        v = log_nu - torch.logsumexp(C + u[:, None], 0)
    return C + u[:, None] + v + torch.log(torch.tensor(float(rows + columns), dtype=C.dtype))


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(scores: Tensor) -> tuple[Tensor, Tensor]:
    batch, rows, columns = scores.shape
    return torch.ones(batch, rows, dtype=torch.bool), torch.ones(batch, columns, dtype=torch.bool)


Z = torch.ones((), dtype=torch.float64)
THREE = torch.tensor([[True, True, True, False, False], [True, False, True, True, False], [True] * 5])
FOUR = torch.tensor([[True, False, True, False], [True, True, True, True], [False, False, False, True]])


def test_bins() -> None:
    scores = draw(2, 3, 4)
    C = with_bins(scores, torch.tensor(7.0))
    assert C.shape == (2, 4, 5)
    assert torch.equal(C[:, :-1, :-1], scores)
    assert (C[:, -1] == 7).all()
    assert (C[:, :, -1] == 7).all()
    mu, nu = marginals(THREE[:1], FOUR[:1])
    torch.testing.assert_close(mu, torch.tensor([[1, 1, 1, 0, 0, 2]]) / 5.0, check_dtype=False)
    torch.testing.assert_close(nu, torch.tensor([[1, 0, 1, 0, 3]]) / 5.0, check_dtype=False)


def test_equal_scores() -> None:
    scores = torch.zeros(1, 2, 3)
    plan = log_plan(scores, torch.tensor(1.0), *whole(scores)).exp()[0]
    torch.testing.assert_close(plan[:2, :3], torch.full((2, 3), 0.1522), atol=5e-5, rtol=0)
    torch.testing.assert_close(plan[:2, 3], torch.full((2,), 0.5433), atol=5e-5, rtol=0)
    torch.testing.assert_close(plan[2, :3], torch.full((3,), 0.6956), atol=5e-5, rtol=0)
    assert float(plan[2, 3]) == pytest.approx(0.9133, abs=5e-5)
    torch.testing.assert_close(plan.sum(1), torch.tensor([1.0, 1, 3]))
    torch.testing.assert_close(plan.sum(0), torch.tensor([1.0, 1, 1, 2]))


def test_clear_matches() -> None:
    scores = torch.diag(torch.tensor([10.0, 10.0]))[None]
    plan = log_plan(scores, torch.tensor(1.0), *whole(scores)).exp()[0]
    torch.testing.assert_close(plan.diagonal()[:2], torch.full((2,), 0.9844), atol=5e-5, rtol=0)
    torch.testing.assert_close(plan[:2, 2], torch.full((2,), 0.0154), atol=5e-5, rtol=0)
    torch.testing.assert_close(plan[2, :2], torch.full((2,), 0.0155), atol=6e-5, rtol=0)
    assert float(plan[2, 2]) == pytest.approx(1.969, abs=5e-4)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (7, 1), (2, 3), (16, 16), (33, 20), (60, 64)])
def test_equals_the_loop(rows: int, columns: int, scale: float) -> None:
    scores = draw(2, rows, columns, scale=scale).float()
    for z in (1.0, -3.0 * scale):
        plan = log_plan(scores, torch.tensor(z), *whole(scores))
        assert plan.dtype == torch.float32
        for sample, expected in zip(plan, scores.double(), strict=True):
            wanted = slow(expected, torch.tensor(z).double())
            torch.testing.assert_close(sample.double(), wanted, atol=1e-5, rtol=2e-7)  # float32 itself, at 100s


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(("rows", "columns"), [(256, 256), (256, 3), (100, 256)])
def test_equals_the_loop_on_many_points(rows: int, columns: int, scale: float) -> None:
    test_equals_the_loop(rows, columns, scale)


@examples(60)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    scale=st.floats(0.1, 100),
    z=st.floats(-100, 100),
    iterations=st.sampled_from([1, 2, 3, 17, 100]),
    seed=st.integers(0, 1000),
)
def test_equals_the_loop_anywhere(rows: int, columns: int, scale: float, z: float, iterations: int, seed: int) -> None:
    scores = draw(1, rows, columns, seed=seed, scale=scale)
    bin_score = torch.tensor(z, dtype=torch.float64)
    plan = log_plan(scores, bin_score, *whole(scores), iterations)[0]
    torch.testing.assert_close(plan, slow(scores[0], bin_score, iterations), atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("scale", [1000.0, 1e5])
def test_scores_beyond_any_exponential(scale: float) -> None:
    scores = draw(1, 12, 9, scale=scale).requires_grad_()
    plan = log_plan(scores, Z, *whole(scores), gradient="unrolled")
    expected = slow(scores[0], Z)
    torch.testing.assert_close(plan[0], expected, atol=1e-8, rtol=1e-12)
    weights = draw(13, 10, seed=1)
    gradient, wanted = (torch.autograd.grad((p * weights).sum(), scores)[0] for p in (plan[0], expected))
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_logarithms_and_products_agree(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = draw(2, 20, 15, scale=scale).requires_grad_()
    results = []
    for far in (transport._FAR, 0.0):  # 0: every step is in logarithms
        monkeypatch.setattr(transport, "_FAR", far)
        plan = log_plan(scores, Z, *whole(scores), gradient="unrolled")
        chunks = plan.grad_fn.chunks
        assert (len(chunks) == 100) == (far == 0)
        results.append((plan, torch.autograd.grad((plan * draw(2, 21, 16, seed=1)).sum(), scores)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-11, rtol=1e-13)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-9, rtol=1e-9)


def test_steps_that_change_nothing_are_left_out() -> None:
    scores = draw(1, 20, 15).float().requires_grad_()
    plan = log_plan(scores, Z, *whole(scores), 10_000, gradient="unrolled")
    assert len(plan.grad_fn.saved_tensors[-1]) < 200
    torch.testing.assert_close(plan[0].double(), slow(scores[0].double(), Z, 2000), atol=1e-6, rtol=2e-7)


@examples(40)
@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12), scale=st.floats(0.1, 50), z=st.floats(-20, 20),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_sums(rows: int, columns: int, scale: float, z: float, seed: int) -> None:
    scores = draw(1, rows, columns, seed=seed, scale=scale)
    plan = log_plan(scores, torch.tensor(z, dtype=torch.float64), *whole(scores), 2000).exp()[0]
    one = torch.ones(max(rows, columns), dtype=torch.float64)
    exact = torch.cat([one[:columns], one[:1] * rows])
    torch.testing.assert_close(plan.sum(0), exact, atol=1e-10, rtol=1e-10)
    assert float(plan.sum()) == pytest.approx(rows + columns)
    if scale * max(rows, columns) < 20:  # others have not converged
        torch.testing.assert_close(plan.sum(1), torch.cat([one[:rows], one[:1] * columns]), atol=1e-3, rtol=1e-3)


def test_order_of_points_is_only_an_order() -> None:
    scores = draw(2, 6, 5)
    p, q = torch.randperm(6), torch.randperm(5)
    plan = log_plan(scores, Z, *whole(scores))
    moved = log_plan(scores[:, p][:, :, q], Z, *whole(scores))
    p, q = torch.cat([p, torch.tensor([6])]), torch.cat([q, torch.tensor([5])])
    torch.testing.assert_close(moved, plan[:, p][:, :, q], atol=1e-12, rtol=1e-12)


def test_both_ways_round() -> None:
    scores = draw(2, 6, 5)
    there = log_plan(scores, Z, *whole(scores), 500)
    back = log_plan(scores.mT, Z, *whole(scores.mT), 500)
    torch.testing.assert_close(back.mT, there, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("filler", [0.0, 1e4, torch.nan])
def test_padding_has_no_say(gradient: Gradient, filler: float) -> None:
    scores = draw(3, 5, 4).masked_fill(~(THREE[:, :, None] & FOUR[:, None]), filler).requires_grad_()
    z = Z.clone().requires_grad_()
    plan = log_plan(scores, z, THREE, FOUR, gradient=gradient)
    weights = draw(3, 6, 5, seed=1)
    for sample in range(3):
        a, b = THREE[sample], FOUR[sample]
        small = scores[sample, a][:, b]
        here, there = torch.cat([a, torch.tensor([True])]), torch.cat([b, torch.tensor([True])])
        real = plan[sample, here][:, there]
        torch.testing.assert_close(real, slow(small, z), atol=1e-12, rtol=1e-12)
        assert (plan[sample, ~here] == -torch.inf).all()
        assert (plan[sample, :, ~there] == -torch.inf).all()
        alone = log_plan(small[None], z, *whole(small[None]), gradient=gradient)[0]
        of = weights[sample, here][:, there]
        got, wanted = (torch.autograd.grad((p * of).sum(), (scores, z), retain_graph=True) for p in (real, alone))
        for g, w in zip(got, wanted, strict=True):
            torch.testing.assert_close(g, w, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_sets_without_points(gradient: Gradient) -> None:
    yes, no = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    rows, columns = torch.cat([no, yes, no, yes]), torch.cat([yes, no, no, yes])
    scores = draw(4, 3, 3).requires_grad_()
    z = Z.clone().requires_grad_()
    plan = log_plan(scores, z, rows, columns, gradient=gradient)
    mass = torch.zeros(4, 4, 4, dtype=torch.float64)
    mass[0, 3, :3] = 1  # no A: every point of B is in the bin
    mass[1, :3, 3] = 1  # no B
    torch.testing.assert_close(plan.exp()[:3], mass[:3], atol=1e-12, rtol=0)
    plan.masked_fill(plan == -torch.inf, 0).sum().backward()
    assert scores.grad is not None
    assert z.grad is not None
    assert scores.grad[:3].abs().max() == 0
    assert scores.grad[3].abs().max() > 0
    assert torch.isfinite(scores.grad).all()
    assert torch.isfinite(z.grad)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0), (2, 0, 0)])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_nothing_at_all(shape: tuple[int, int, int], gradient: Gradient) -> None:
    scores = draw(*shape).requires_grad_()
    plan = log_plan(scores, Z, *whole(scores), gradient=gradient)
    assert plan.shape == (shape[0], shape[1] + 1, shape[2] + 1)
    assert not plan.isnan().any()
    plan.exp().sum().backward()
    assert scores.grad is not None
    assert scores.grad.shape == shape


def test_gradient_of_the_fixed_point() -> None:
    scores, z = draw(3, 5, 4).requires_grad_(), Z.clone().requires_grad_()

    def of(scores: Tensor, z: Tensor) -> Tensor:
        plan = log_plan(scores, z, THREE, FOUR, 3000)
        return plan.masked_fill(plan == -torch.inf, 0)

    assert torch.autograd.gradcheck(of, (scores, z))


@pytest.mark.parametrize("iterations", [1, 2, 30])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_gradient_of_the_iterations(iterations: int, scale: float) -> None:
    scores, z = draw(3, 5, 4, scale=scale).requires_grad_(), Z.clone().requires_grad_()

    def of(scores: Tensor, z: Tensor) -> Tensor:
        plan = log_plan(scores, z, THREE, FOUR, iterations, "unrolled")
        return plan.masked_fill(plan == -torch.inf, 0)

    assert torch.autograd.gradcheck(of, (scores, z))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (20, 17)])
def test_gradients_equal_autograd_through_the_loop(gradient: Gradient, double: bool, rows: int, columns: int) -> None:
    scores, z = draw(1, rows, columns).requires_grad_(), Z.clone().requires_grad_()
    weights = draw(rows + 1, columns + 1, seed=1)
    wanted = torch.autograd.grad((slow(scores[0], z, 400) * weights).sum(), (scores, z))
    given = scores if double else scores.float()
    plan = log_plan(given, z, *whole(scores), 400, gradient)
    got = torch.autograd.grad((plan[0] * weights).sum(), (scores, z))
    tolerance = 1e-8 if double else 2e-5
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("scale", [5.0, 20.0, 50.0, 100.0, 1000.0])
@pytest.mark.parametrize("clear", [True, False])
def test_gradients_of_a_plan_that_is_nearly_a_permutation(gradient: Gradient, scale: float, clear: bool) -> None:
    """A point moves no more of log P elsewhere than what is asked of it: |dC| <= sum of |G|."""
    signs = 2 * torch.eye(24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))] - 1
    scores = (scale * signs if clear else draw(24, 24, scale=scale).float().clamp(-scale, scale))[None].requires_grad_()
    z = torch.ones((), requires_grad=True)
    plan = log_plan(scores, z, *whole(scores), gradient=gradient)
    asked = [(plan[0, :-1].diagonal(), 24), (plan[0, :-1, -1], 24), (plan[0, -1, :-1], 24), (plan[0, 3, -1], 1)]
    for of, count in asked:
        by_scores, by_z = torch.autograd.grad(-of.sum(), (scores, z), retain_graph=True)
        assert torch.isfinite(by_scores).all()
        assert by_scores.abs().max() <= count * 1.001
        assert by_z.abs() <= 50 * count
        assert by_scores.abs().max() > 0


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_pair_has_a_closed_form(gradient: Gradient) -> None:
    """P = [[1 - e, e], [e, 1 - e]] with e / (1 - e) = exp((z - s) / 2), so d log e / ds = (e - 1) / 2."""
    scores, z = torch.full((1, 1, 1), 10.0, dtype=torch.float64, requires_grad=True), Z.clone().requires_grad_()
    plan = log_plan(scores, z, *whole(scores), 1000, gradient)[0]
    e = torch.sigmoid((z - scores[0, 0, 0]) / 2).item()
    torch.testing.assert_close(plan.exp(), torch.tensor([[1 - e, e], [e, 1 - e]]).double(), atol=1e-7, rtol=1e-5)
    by_scores, by_z = torch.autograd.grad(plan[0, 1], (scores, z))
    assert by_scores.item() == pytest.approx((e - 1) / 2, rel=1e-5)
    assert by_z.item() == pytest.approx((1 - e) / 2, rel=1e-5)


def test_no_scores_no_plan() -> None:
    scores = draw(2, 4, 4)
    scores[0, 1, 2] = torch.nan
    for gradient in GRADIENTS:
        given = scores.clone().requires_grad_()
        plan = log_plan(given, Z, *whole(scores), gradient=gradient)
        plan.sum().backward()
        assert plan[0].isnan().any()
        torch.testing.assert_close(plan[1], slow(scores[1], Z), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_autocast_does_not_reach_it(gradient: Gradient) -> None:
    scores = draw(2, 8, 6).bfloat16().requires_grad_()
    exact = scores.detach().float().requires_grad_()
    z = torch.tensor(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_plan(scores, z, *whole(scores), gradient=gradient)
        inside.diagonal(dim1=1, dim2=2).sum().backward()
    outside = log_plan(exact, z, *whole(exact), gradient=gradient)
    outside.diagonal(dim1=1, dim2=2).sum().backward()
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert scores.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(scores.grad, exact.grad.bfloat16(), atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_on_a_gpu(gradient: Gradient) -> None:
    results = []
    for device in ("cpu", "cuda"):
        scores = draw(3, 5, 4, scale=5).float().to(device).requires_grad_()
        plan = log_plan(scores, Z.to(device), THREE.to(device), FOUR.to(device), gradient=gradient)
        plan.masked_fill(plan == -torch.inf, 0).square().sum().backward()
        assert scores.grad is not None
        results.append((plan.detach().cpu(), scores.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
