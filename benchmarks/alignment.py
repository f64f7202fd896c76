"""(c) Windowed against full alignment loss: time and peak memory of forward and backward, in fresh processes."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time

from benchmarks.fresh import alive, measured

TITLE = "(c) windowed over full alignment loss, forward and backward, 64 channels"
ROUNDS = 5
SLICES = 4
SIZES = (24, 44)  # cells along each side; 44 is the paper's map on ACDC
WINDOW = 4


def rows() -> list[dict[str, object]]:
    """One row a map size: medians of alternating fresh processes."""
    table = []
    for side in SIZES:
        full, windowed = [], []
        for _ in range(ROUNDS):
            full.append(measured("alignment", side, 0))
            windowed.append(measured("alignment", side, WINDOW))
        speed = [f["seconds"] / w["seconds"] for f, w in zip(full, windowed, strict=True)]
        memory = [f["bytes"] / w["bytes"] for f, w in zip(full, windowed, strict=True)]
        windows = (-(-side // WINDOW)) ** 2
        table.append(
            {
                "map": f"{side} x {side}", "windows": windows, "full": _cell(full), "windowed": _cell(windowed),
                "times faster": f"{statistics.median(speed):.1f}",
                "times less memory": f"{statistics.median(memory):.1f} ({min(memory):.1f} to {max(memory):.1f})",
                "wanted (windows / 4)": f"{windows / 4:.1f}",
            }
        )  # fmt: skip
    return table


def _cell(runs: list[dict[str, float]]) -> str:
    seconds, size = statistics.median(r["seconds"] for r in runs), statistics.median(r["bytes"] for r in runs)
    return f"{seconds * 1e3:.0f} ms, {size / 2**20:.1f} MiB"


def _one(side: int, window: int) -> dict[str, float]:
    import torch

    from lemis.layers.basic import unit
    from lemis.parts.alignment import alignment_loss

    torch.manual_seed(0)
    features = torch.randn(SLICES, 64, side, side, requires_grad=True)
    pairs = ~torch.eye(SLICES, dtype=torch.bool)

    def step() -> None:
        alignment_loss(unit(features), pairs, window or None).backward()

    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    _, most = alive(profile)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return {
        "seconds": min(times),
        "bytes": most,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(_one(int(sys.argv[1]), int(sys.argv[2]))))
