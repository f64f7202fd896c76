"""What a reader had to assume about a scan, so that ``check`` can report it."""

from __future__ import annotations

from typing import NamedTuple


class Note(NamedTuple):
    """One thing that a file does not say, or that can be understood in two ways, and what was assumed."""

    kind: str  # two or three words, as ``check`` groups them
    seen: str  # what the file says, and what was taken
    repair: str
