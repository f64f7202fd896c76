"""What a reader had to assume of a scan, for ``check`` to say: who guessed never reports that nothing is wrong."""

from __future__ import annotations

from typing import NamedTuple


class Note(NamedTuple):
    """One thing that a file does not say, or says in a way that can be meant otherwise, and what was taken."""

    kind: str  # two or three words, as ``check`` groups them
    seen: str  # what the file says, and what was taken
    repair: str
