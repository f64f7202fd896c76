"""Measuring in a process of its own, and what was alive in memory there."""

from __future__ import annotations

import json
import subprocess
import sys


def measured(module: str, *arguments: object) -> dict[str, float]:
    """The JSON that ``python -m benchmarks.MODULE ARGUMENTS`` prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures


def alive(profile: object) -> tuple[float, float]:
    """Bytes of tensors alive at the end and at most at once, from the allocator's own events."""
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):  # type: ignore[attr-defined]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return float(now), float(peak)
