"""``check.json``: what ``lemis check`` found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lemis.checking.faults import Fault
from lemis.records import Record, find, write_tree

CHECK = "check.json"


class Check(Record):
    """What a report says of it; the file has more."""

    version: Literal[1]
    faults: tuple[Fault, ...]


def read(work: Path) -> Check | None:
    """What was found in the scans of a work folder; None where they were not checked.

    Raises:
        UsageError: The file is damaged.
    """
    found: Check | None = find(work / CHECK, Check, next=f"lemis check SCANS -o {work}")
    return found


def write(work: Path, found: Mapping[str, Any]) -> None:
    """Replace ``check.json``; ``found`` is all that ``lemis check --json`` prints."""
    write_tree(work / CHECK, dict(found), Check)
