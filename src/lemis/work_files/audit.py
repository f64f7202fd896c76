"""``audit.json``: which subjects ``lemis suggest`` drew at random, so that scores on them hold for others too.

It lies beside the suggestions and not among them, as each list replaces the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lemis.records import Name, Record, find, write

FILE = "audit.json"


class Drawn(Record):
    """A subject that was drawn before it had a label."""

    subject: str
    scan: Name  # of it, that was suggested
    of: Annotated[int, Field(ge=1)]  # so many subjects had no label then


class Audit(Record):
    """All that were ever drawn in a work folder, in the order in which they were."""

    version: Literal[1] = 1
    drawn: tuple[Drawn, ...] = ()


def read(work: Path) -> Audit:
    """What was drawn in a work folder; nothing where there is no such file.

    Raises:
        UsageError: The file is damaged.
    """
    again = f"delete {work / FILE}, if nobody can mend it: which labels were drawn at random is then forgotten"
    found: Audit | None = find(work / FILE, Audit, next=again)
    return found or Audit(version=1, drawn=())


def remember(work: Path, drawn: Sequence[Drawn]) -> None:
    """Add those that are not known yet."""
    before = read(work).drawn
    known = {one.subject for one in before}
    new = tuple(one for one in drawn if one.subject not in known)
    if new:
        write(work / FILE, Audit(version=1, drawn=(*before, *new)))
