"""(e) Optimal transport with bins: ours against the plain loop in logarithms, time and memory, in fresh processes."""

from __future__ import annotations

import json
import statistics
import sys
import time

from benchmarks.fresh import alive, measured
from lemis.cli import keep_freed_memory

TITLE = "(e) optimal transport against the plain loop, 16 pairs of 256 and 256 points, 100 iterations, float32"
ROUNDS = 3
PAIRS, POINTS, ITERATIONS = 16, 256, 100
SPREADS = (1.0, 10.0)  # of the scores; plans of the second are nearly permutations and have not converged
OURS = ("implicit", "unrolled")


def rows() -> list[dict[str, object]]:
    """One row a spread and a gradient: medians over rounds of one fresh process for each form."""
    return [row for spread in SPREADS for row in _rows(spread)]


def _rows(spread: float) -> list[dict[str, object]]:
    runs = {form: [] for form in ("loop", *OURS)}  # type: dict[str, list[dict[str, float]]]
    for _ in range(ROUNDS):
        for form, of in runs.items():
            of.append(measured("transport", form, spread))
    table = []
    for form in OURS:
        ratio = {key: _ratio(runs["loop"], runs[form], key) for key in ("forward", "both", "tape", "peak")}
        table.append(
            {
                "scores": f"spread {spread:g}", "gradient": form,
                "loop": _cell(runs["loop"]), "ours": _cell(runs[form]),
                "forward, times faster": ratio["forward"], "both, times faster": ratio["both"],
                "tape, times smaller": ratio["tape"], "peak, times smaller": ratio["peak"],
                "largest difference of log P": f"{max(run['difference'] for run in runs[form]):.1e}",
            }
        )  # fmt: skip
    return table


def _ratio(loop: list[dict[str, float]], ours: list[dict[str, float]], key: str) -> str:
    ratios = [a[key] / b[key] for a, b in zip(loop, ours, strict=True)]
    return f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})"


def _cell(runs: list[dict[str, float]]) -> str:
    of = {key: statistics.median(run[key] for run in runs) for key in ("forward", "both", "tape", "peak")}
    return (
        f"{of['forward'] * 1e3:.0f} ms, with backward {of['both'] * 1e3:.0f} ms, "
        f"tape {of['tape'] / 2**20:.0f} MiB, peak {of['peak'] / 2**20:.0f} MiB"
    )


def _one(form: str, spread: float) -> dict[str, float]:
    import torch
    from torch import Tensor

    from lemis.parts.transport import log_plan, with_bins

    torch.manual_seed(0)
    scores = spread * torch.randn(PAIRS, POINTS, POINTS)
    z = torch.ones((), requires_grad=True)
    points = torch.ones(PAIRS, POINTS, dtype=torch.bool)

    def loop(scores: Tensor) -> Tensor:
        C = with_bins(scores, z.to(scores.dtype))
        log_mu = (torch.tensor([1.0] * POINTS + [POINTS], dtype=C.dtype) / (2 * POINTS)).log()
        u, v = torch.zeros_like(C[:, :, 0]), torch.zeros_like(C[:, 0])
        for _ in range(ITERATIONS):
            u = log_mu - torch.logsumexp(C + v[:, None], 2)
            v = log_mu - torch.logsumexp(C + u[:, :, None], 1)
        return C + u[:, :, None] + v[:, None] + torch.log(torch.tensor(2.0 * POINTS))

    def plan(scores: Tensor) -> Tensor:
        if form == "loop":
            return loop(scores)
        return log_plan(scores, z, points, points, ITERATIONS, "implicit" if form == "implicit" else "unrolled")

    def step(given: Tensor) -> tuple[float, float]:
        begin = time.perf_counter()
        result = plan(given)
        middle = time.perf_counter()
        (-result.diagonal(dim1=1, dim2=2).mean() - result[:, :-1, -1].mean()).backward()
        return middle - begin, time.perf_counter() - begin

    scores.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        kept = plan(scores)  # alive, so that what is still held here is the tape and the plan itself
    tape = alive(profile)[0]
    with torch.no_grad():
        difference = float((kept[:1] - loop(scores[:1].double())).abs().max())
    del kept
    with torch.profiler.profile(profile_memory=True) as profile:
        step(scores)
    times = [step(scores) for _ in range(3)]
    return {
        "forward": min(forward for forward, _ in times),
        "both": min(both for _, both in times),
        "tape": tape,
        "peak": alive(profile)[1],
        "difference": difference,
    }


if __name__ == "__main__":
    keep_freed_memory()  # as the command line does
    print(json.dumps(_one(sys.argv[1], float(sys.argv[2]))))
