"""(p) How long a way to choose takes: ten of 250 and of 1,000 subjects with 32 features, some of them labelled."""

from __future__ import annotations

import statistics
import time

import numpy as np

from lemis import plugins
from lemis.promises import suggesters

TITLE = "(p) ten subjects chosen of many with 32 features, 20 of them labelled: core-seconds"
ROUNDS = 3
FEW, MANY = 250, 1000


def rows() -> list[dict[str, object]]:
    """One row a way to choose; medians over interleaved rounds."""
    ways = plugins.names(suggesters.FOLDER)
    took: dict[tuple[str, int], list[float]] = {(way, size): [] for way in ways for size in (FEW, MANY)}
    for number in range(ROUNDS):
        for (way, size), seconds in took.items():
            seconds.append(_core_seconds(suggesters.Subject(way), size, number))
    return [
        {
            "way": way,
            **{f"of {size:,}": f"{statistics.median(took[way, size]):.3f}" for size in (FEW, MANY)},
            "most of the rounds": f"{max(took[way, MANY]):.3f}",
        }
        for way in ways
    ]


def _core_seconds(subject: suggesters.Subject, size: int, seed: int) -> float:
    features = np.random.default_rng(seed).normal(size=(size, 32))
    given = suggesters.pool(size, 20)._replace(embedding=features)
    begin = time.process_time()
    subject.suggest(given, 10)
    return time.process_time() - begin
