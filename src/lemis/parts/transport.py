"""Optimal transport between two sets of points, each with a bin for what has no partner (Sinkhorn; Cuturi, 2013).

The plan P of B pairs of sets with K_A and K_B points, and its potentials u and v:

    C = scores, one row and one column more that hold z                                                    (with_bins)
    mu = [1, ..., 1, K_B] / (K_A + K_B),   nu = [1, ..., 1, K_A] / (K_A + K_B)
    v = 0;  repeat:  u = log mu - LSE_b(C + v),  v = log nu - LSE_a(C + u)
    log P = C + u + v + log(K_A + K_B)

Points that are only padding have mass 0 and no say. A set without points leaves its bin without mass: the points of the
other set then go to that bin whole (log P = 0), and the log P of everything without mass is -inf, of the whole sample
where neither set has points.

While the potentials move far, steps are those above. Then the matrix K = exp(C + u + v) is built once and a step is two
matrix-vector products, a = mu / (K b), b = nu / (K^T a), u + log a and v + log b being the potentials. A step moves no
potential further than the step before moved any, which says in advance for how many steps K will do, and how far
the steps still to come can go: where that is below the precision of the scores, they are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradient = Literal["implicit", "unrolled"]

_FAR = 200.0  # how far potentials may get from those of K; what underflows in K, exp(-708), is then at most exp(-308)
_LOOK = 10  # steps between two looks at how far they move; on a GPU a look waits for it
_RIDGE = 1e-10  # of the implicit gradient: far above the rounding of doubles, far below what 100 steps resolve


def with_bins(scores: Tensor, bin_score: Tensor) -> Tensor:
    """(B, M, N) -> (B, M + 1, N + 1): one more row and column, all equal to the scalar ``bin_score``."""
    batch, rows, columns = scores.shape
    z = bin_score.to(scores.dtype)
    scores = torch.cat([scores, z.expand(batch, rows, 1)], 2)
    return torch.cat([scores, z.expand(batch, 1, columns + 1)], 1)


def marginals(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """mu (B, M + 1) and nu (B, N + 1), double; all 0 where neither set has points.

    Args:
        rows: (B, M) bool, which points of A exist.
        columns: (B, N) bool, of B.
    """
    of_a, of_b = rows.sum(1, keepdim=True), columns.sum(1, keepdim=True)
    total = (of_a + of_b).clamp(min=1)
    return torch.cat([rows, of_b], 1).double() / total, torch.cat([columns, of_a], 1).double() / total


def log_plan(
    scores: Tensor,
    bin_score: Tensor,
    rows: Tensor,
    columns: Tensor,
    iterations: int = 100,
    gradient: Gradient = "implicit",
) -> Tensor:
    """Log of the transport plan; its rows and columns sum to 1, those of the bins to K_B and K_A.

    Args:
        scores: (B, M, N); half precision is widened to float32.
        bin_score: Scalar z.
        rows: (B, M) bool, which points of A exist.
        columns: (B, N) bool, of B.
        iterations: Of Sinkhorn, at least 1; the columns are exact, the rows as far as it has converged.
        gradient: ``implicit``: of the fixed point, whatever the iterations; one linear system. ``unrolled``: of just
            these iterations. Neither keeps a matrix per iteration.

    Returns:
        (B, M + 1, N + 1), log(P (K_A + K_B)); -inf where there is no mass.
    """
    with torch.autocast(scores.device.type, enabled=False):
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        C = with_bins(wide, bin_score)
        plan: Tensor = _LogPlan.apply(C, rows, columns, iterations, _GRADIENTS[gradient])  # type: ignore[no-untyped-call]
    return plan


class _Problem(NamedTuple):
    """One row or column per vector, so that both products of a step are (B, 1, x) @ (B, x, y)."""

    C: Tensor  # (B, m, n), -inf where a row or a column has no mass
    mu: Tensor  # (B, 1, m) double, 1 where there is no mass
    nu: Tensor  # (B, 1, n) double
    no_row: Tensor  # (B, 1, m) bool, rows without mass; their potentials stay 0
    no_column: Tensor  # (B, 1, n) bool


class _Path(NamedTuple):
    """Potentials at the start and after each step; fewer than the iterations where the last ones do not move them."""

    u: Tensor  # (1 + T, B, 1, m) double
    v: Tensor  # (1 + T, B, 1, n) double
    chunks: list[tuple[int, int]]  # from step, to step; a step alone is in logarithms, the others share one K


_Backward = Callable[[_Problem, _Path, Tensor], Tensor]


class _LogPlan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, C: Tensor, rows: Tensor, columns: Tensor, iterations: int, gradient: _Backward) -> Tensor:
        problem = _posed(C, rows, columns)
        path = _sinkhorn(problem, iterations)
        kept = (path.u, path.v) if gradient is _unrolled else (path.u[-1:].clone(), path.v[-1:].clone())
        ctx.save_for_backward(*problem, *kept)
        ctx.chunks, ctx.gradient = path.chunks, gradient
        total = (rows.sum(1) + columns.sum(1)).clamp(min=1).double()
        return (path.u[-1].mT + path.v[-1] + total.log()[:, None, None]).add_(problem.C).to(C.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        *problem, u, v = ctx.saved_tensors
        given = _Problem(*problem)
        G = G.masked_fill(given.no_row.mT | given.no_column, 0)
        return ctx.gradient(given, _Path(u, v, ctx.chunks), G), None, None, None, None


def _posed(C: Tensor, rows: Tensor, columns: Tensor) -> _Problem:
    mu, nu = (mass[:, None] for mass in marginals(rows, columns))
    no_row, no_column = mu == 0, nu == 0
    C = C.masked_fill(no_row.mT | no_column, -torch.inf)
    return _Problem(C, mu.masked_fill(no_row, 1), nu.masked_fill(no_column, 1), no_row, no_column)


def _sinkhorn(problem: _Problem, iterations: int) -> _Path:
    u, v = torch.zeros_like(problem.mu), torch.zeros_like(problem.nu)
    us, vs, chunks = [u[None]], [v[None]], []
    done, moved = 0, torch.inf
    while done < iterations:
        left = iterations - done
        steps = int(min(left, _FAR / max(moved, 1e-300)))  # NaN scores: all that are left
        if steps < 2:
            path_u, path_v = _log_step(problem, v)
            taken = 1
        else:
            path_u, path_v, converged = _scaled_steps(problem, u, v, steps, left)
            taken = left if converged else steps
        moved = _apart(path_v[-1], path_v[-2] if len(path_v) > 1 else v)
        us.append(path_u)
        vs.append(path_v)
        u, v = path_u[-1], path_v[-1]
        chunks.append((done, done + taken))
        done += taken
    return _Path(torch.cat(us), torch.cat(vs), chunks)


def _log_step(problem: _Problem, v: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the formulas as they stand -> (1, B, 1, m), (1, B, 1, n)."""
    u = problem.mu.log() - (v + problem.C).logsumexp(2)[:, None]
    u = u.masked_fill(problem.no_row, 0)
    v = problem.nu.log() - (u.mT + problem.C).logsumexp(1)[:, None]
    return u[None], v.masked_fill(problem.no_column, 0)[None]


def _scaled_steps(problem: _Problem, u: Tensor, v: Tensor, steps: int, left: int) -> tuple[Tensor, Tensor, bool]:
    """``steps`` steps with one K, fewer where the ``left`` steps to the end would change nothing; and whether so."""
    K, K_t = _kernel(problem, u, v)
    no_row, no_column = problem.no_row.to(K.dtype), problem.no_column.to(K.dtype)  # 1 / 1 instead of 1 / 0
    b = torch.ones_like(v)
    all_a, all_b = [], [b]
    converged = False
    for step in range(1, steps + 1):
        a = problem.mu / (b @ K_t + no_row)
        b = problem.nu / (a @ K + no_column)
        all_a.append(a)
        all_b.append(b)
        if step % _LOOK == 0:
            moved = _apart(b.log(), all_b[-2].log())
            converged = moved * (left - step) <= torch.finfo(problem.C.dtype).eps
            if converged:
                break
    return u + torch.stack(all_a).log(), v + torch.stack(all_b[1:]).log(), converged


def _apart(v: Tensor, before: Tensor) -> float:
    return float((v - before).abs().max()) if len(v) else 0.0


def _exp(C: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """exp(C + u + v), (B, m, n) double."""
    return (u.mT + v).add_(C).exp_()


def _kernel(problem: _Problem, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    # Both ways round: a row times a matrix is many times faster than a matrix times a column.
    K = _exp(problem.C, u, v)
    return K, K.mT.contiguous()


def _implicit(problem: _Problem, path: _Path, G: Tensor) -> Tensor:
    """dL/dC where the rows of P keep their sums r and the columns theirs, c.

    From [[diag r, P], [P^T, diag c]] [a; b] = [G 1; G^T 1] follows dL/dC = G - P (a + b^T). With P, a and b scaled by
    the roots of r and c, and a eliminated, (I - P^T P) b = G^T 1 - P^T G 1. The ridge stands for c added to a and taken
    from b, which changes nothing, and for groups of points that hardly exchange mass.
    """
    P = _exp(problem.C, path.u[-1], path.v[-1])
    root_r = P.sum(2, keepdim=True).clamp(min=1e-200).sqrt().masked_fill(problem.no_row.mT, 1)
    root_c = P.sum(1, keepdim=True).clamp(min=1e-200).sqrt().masked_fill(problem.no_column, 1)
    scaled = P / root_r / root_c
    of_rows = G.sum(2, keepdim=True, dtype=P.dtype) / root_r  # (B, m, 1)
    of_columns = G.sum(1, keepdim=True, dtype=P.dtype).mT / root_c.mT  # (B, n, 1)
    one = torch.eye(P.shape[2], dtype=P.dtype, device=P.device) * (1 + _RIDGE)
    factor = torch.linalg.cholesky_ex(torch.baddbmm(one, scaled.mT, scaled, alpha=-1)).L  # NaN where scores are NaN
    b = torch.cholesky_solve(of_columns - scaled.mT @ of_rows, factor)
    a = of_rows - scaled @ b
    return (G - P * (a / root_r + b.mT / root_c)).to(G.dtype)


def _unrolled(problem: _Problem, path: _Path, G: Tensor) -> Tensor:
    """dL/dC through the steps, last one first; their matrices are built again, one for all steps of a chunk.

    With the softmax matrices Q_t = exp(C + u_t + v_t) / nu and R_t = exp(C + u_t + v_(t-1)) / mu, and u' and v' the
    derivatives by u_t and v_t (u' is G 1 for the last step and else 0; v' is G^T 1 for the last step):

        u' <- u' - Q_t v',   dL/dC <- dL/dC - Q_t v'^T - u' R_t,   v' <- - R_t^T u'
    """
    by_u, by_v = (G.sum(axis, dtype=path.u.dtype)[:, None] for axis in (2, 1))
    negligible = torch.finfo(G.dtype).eps * G.abs().flatten(1).amax(1)
    total = G.to(path.u.dtype)
    for chunk in reversed(path.chunks):
        if chunk[1] - chunk[0] == 1:
            by_c, by_v = _back_through_log_step(problem, path, chunk[0], by_u, by_v)
        else:
            by_c, by_v = _back_through_scaled_steps(problem, path, chunk, by_u, by_v, negligible)
        by_u = torch.zeros_like(by_u)
        total = total + by_c
    return total.to(G.dtype)


def _back_through_log_step(
    problem: _Problem, path: _Path, step: int, by_u: Tensor, by_v: Tensor
) -> tuple[Tensor, Tensor]:
    u, before, v = path.u[step + 1], path.v[step], path.v[step + 1]
    Q = _exp(problem.C, u, v) * (by_v / problem.nu)
    by_u = by_u - Q.sum(2)[:, None]
    R = _exp(problem.C, u, before) * (by_u / problem.mu).mT
    return -Q - R, -R.sum(1)[:, None]


def _back_through_scaled_steps(
    problem: _Problem, path: _Path, chunk: tuple[int, int], by_u: Tensor, by_v: Tensor, negligible: Tensor
) -> tuple[Tensor, Tensor]:
    """Q and R of a step are K times a row and a column, so that only these are kept, and summed at the end.

    A step adds at most twice the sum of |v'| to dL/dC, and that sum never grows: all that are left add ``negligible``.
    """
    start, end = chunk
    u, v = path.u[start : end + 1], path.v[start : end + 1]
    K, K_t = _kernel(problem, u[0], v[0])
    a, b = (u - u[0]).exp(), (v - v[0]).exp()
    left, right = [], []
    for step in range(end - start, 0, -1):
        now, before = min(step, len(a) - 1), min(step - 1, len(a) - 1)  # steps left out repeat the last potentials
        y = b[now] * by_v / problem.nu
        x = a[now] * (by_u - a[now] * (y @ K_t)) / problem.mu
        by_u, by_v = torch.zeros_like(by_u), -b[before] * (x @ K)
        left += [a[now], x]
        right += [y, b[before]]
        if step % _LOOK == 0 and bool((2 * (start + step) * by_v.abs().sum((1, 2)) <= negligible).all()):
            break
    return -K * (torch.cat(left, 1).mT @ torch.cat(right, 1)), by_v


_GRADIENTS: dict[Gradient, _Backward] = {"implicit": _implicit, "unrolled": _unrolled}
