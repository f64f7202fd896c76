"""(q) How long a made-up scan takes, with its label map: the demo and the tests make hundreds of them."""

from __future__ import annotations

import statistics
import time

from lemis import phantom

TITLE = "(q) one made-up scan and its label map: core-seconds"
ROUNDS = 5
CASES = (("heart", (112, 112, 12)), ("heart", (40, 40, 5)), ("abdomen", (112, 112, 12)), ("abdomen", (256, 256, 40)))


def rows() -> list[dict[str, object]]:
    """One row a kind and size; medians over rounds, each of another subject."""
    found: list[dict[str, object]] = []
    for kind, shape in CASES:
        median = statistics.median(_core_seconds(kind, shape, subject) for subject in range(ROUNDS))
        found.append({"kind": kind, "voxels": " x ".join(map(str, shape)), "core-seconds": f"{median:.3f}"})
    return found


def _core_seconds(kind: str, shape: tuple[int, int, int], subject: int) -> float:
    begin = time.process_time()
    phantom.make(kind, subject=subject, shape=shape)
    return time.process_time() - begin
