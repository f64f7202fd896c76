"""``check.json``: what ``lemis check`` found."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lemis.checking.faults import Fault
from lemis.records import Record, find


class Check(Record):
    """What a report says of it; the file has more."""

    version: Literal[1]
    faults: tuple[Fault, ...]


def read(work: Path) -> Check | None:
    """What was found in the scans of a work folder; None where they were not checked.

    Raises:
        UsageError: The file is damaged.
    """
    found: Check | None = find(work / "check.json", Check, next=f"lemis check SCANS -o {work}")
    return found
