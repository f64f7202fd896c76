"""Numbers, lists and settings as a reader sees them on a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lemis.work_files.evaluation import Estimate


def number(value: float | None, digits: int = 3) -> str:
    """``0.912``; an en dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def span(estimate: Estimate, digits: int = 3) -> str:
    """``0.880–0.940``, empty where there is no interval."""
    return "" if estimate.low is None else f"{number(estimate.low, digits)}–{number(estimate.high, digits)}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def listed(words: Iterable[str], most: int = 12) -> str:
    """``a, b and c``; long lists end in a count."""
    words = list(words)
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows
