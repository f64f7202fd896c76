"""How many examples a property is tried on: all of them in `make test`, a fifth in `make check`."""

from __future__ import annotations

from hypothesis import settings


def examples(most: int) -> settings:
    """So many, or as much fewer as the profile has fewer than Hypothesis's own 100 (``--hypothesis-profile=quick``)."""
    return settings(max_examples=max(5, most * settings.default.max_examples // 100))
