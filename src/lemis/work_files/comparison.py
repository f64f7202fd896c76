"""Files of a comparison: what came out of each cell, how far it is, and what the tables and the page are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from lemis.records import Count, Name, Record, find, read

_AGAIN = "run the same `lemis compare` again"


def _number(text: str) -> str:
    if text and not float(text) >= 0:
        raise ValueError("should be a number of 0 or more, or empty")
    return text


_Number = Annotated[str, AfterValidator(_number)]
_Seconds = Annotated[float, Field(ge=0)] | None


class CellCase(Record):
    """One structure of one scan, as in ``per_case.csv``."""

    subject: str
    scan: str
    structure: str
    status: str
    dice: _Number
    hd95_mm: _Number
    assd_mm: _Number
    hm: _Number = ""  # of images without labels
    xor: _Number = ""


class Result(Record):
    """``result.json`` of a cell."""

    run: Name | None = None
    seconds: _Seconds = None
    core_seconds: _Seconds = None
    peak_memory_gb: _Seconds = None
    learned_nothing: str | None = None
    pooled: dict[str, dict[str, float]] = Field(default_factory=dict)  # best and last -> structure -> Dice
    cases: tuple[CellCase, ...] = ()


class CellStatus(Record):
    """``status.json`` of a cell; times are seconds since 1970."""

    started: float | None = None
    ended: float | None = None
    state: str = ""
    message: str = ""


class Missing(Record):
    """A place of the table without a result, and why."""

    row: str
    labelled: Count
    fold: int
    seed: int
    reason: str


class Nothing(Record):
    """How many pre-trainings of a row learned nothing, and why."""

    runs: Count
    of: Count
    why: str


class Facts(Record):
    """``facts.json``: what the page says beside the numbers."""

    title: str
    data: str
    scans: Count
    subjects: Count
    labelled_subjects: Count
    upstream: str | None
    command: str
    machine: str
    lemis: str
    torch: str
    date: str
    published: str | None
    missing: tuple[Missing, ...]
    core_seconds: Annotated[float, Field(ge=0)]
    transductive: bool | None
    citations: dict[str, str]
    learned_nothing: dict[str, Nothing] = Field(default_factory=dict)


def read_result(folder: Path, key: str) -> Result | None:
    """What came out of a cell; None where it is not done.

    Args:
        folder: Of the comparison.
        key: Of the cell.

    Raises:
        UsageError: The file is damaged.
    """
    own = folder / "cells" / key
    again = f"delete {own} and {_AGAIN}: it trains only what is missing"
    found: Result | None = find(own / "result.json", Result, next=again)
    return found


def read_cell_status(folder: Path, key: str) -> CellStatus:
    """How far a cell is, without any fact where it has not begun. Arguments and errors as of ``read_result``."""
    path = folder / "cells" / key / "status.json"
    found: CellStatus | None = find(path, CellStatus, next=f"delete {path} and {_AGAIN}")
    return found or CellStatus()


def find_facts(folder: Path) -> Facts | None:
    """As ``read_facts``; None where there are none yet."""
    return read_facts(folder) if (folder / "facts.json").exists() else None


def read_facts(folder: Path) -> Facts:
    """The facts of a comparison.

    Raises:
        UsageError: The file is damaged.
    """
    path = folder / "facts.json"
    facts: Facts = read(path, Facts, next=f"delete {path} and {_AGAIN}: it writes them anew")
    return facts


def read_cell(folder: Path, key: str, kind: Any) -> Any:
    """What a cell is made of, as ``kind``; None where there is no such cell. Errors as of ``read_result``."""
    own = folder / "cells" / key
    return find(own / "cell.json", kind, next=f"delete {own} and {_AGAIN}")
