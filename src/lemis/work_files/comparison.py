"""Files of a comparison: its plan, the status and result of each cell, and what the page says beside the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lemis.records import Count, Name, Record, find, of_yaml, read, write

PLAN, FACTS, RESULT, STATUS = "plan.yaml", "facts.json", "result.json", "status.json"
MEAN = "mean"  # as a structure: the mean over all of them
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
    dice: _Number
    hd95_mm: _Number
    assd_mm: _Number
    status: str
    hm: _Number = ""  # of images without labels
    xor: _Number = ""


class External(Record):
    """How another program trained: what it says of its plan, and what else it took."""

    versions: dict[str, str]  # by package
    steps: Count
    epochs: Count
    spacing_mm: tuple[float, ...]
    patch_px: tuple[int, ...]
    batch_size: int
    widths: Annotated[tuple[int, ...], Field(min_length=1)]  # by level
    preparation_core_seconds: float
    prediction_core_seconds: float


class Result(Record):
    """``result.json`` of a cell."""

    version: Literal[1] = 1
    run: Name | None = None
    seconds: _Seconds = None
    core_seconds: _Seconds = None
    peak_memory_gb: _Seconds = None
    learned_nothing: str | None = None
    pooled: dict[str, dict[str, float]] = Field(default_factory=dict)  # best and last -> structure -> Dice
    beside: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)  # other scores of papers -> likewise
    cases: tuple[CellCase, ...] = ()
    external: External | None = None


class CellStatus(Record):
    """``status.json`` of a cell; times are seconds since 1970."""

    version: Literal[1] = 1
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

    version: Literal[1] = 1
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
    learned_nothing: dict[str, Nothing] = Field(default_factory=dict)
    transductive: bool | None  # whether pre-training saw test subjects; None: nothing was pre-trained
    semi_transductive: bool | None = None  # whether fine-tuning did, without their labels; None: without such scans
    citations: dict[str, str]
    external: dict[str, str] = Field(default_factory=dict)  # rows that another program trained: which, how; a sentence


class PlannedRow(Record):
    """A row of the plan; the file has its settings too."""

    title: str | None = None
    method: str | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.title or str(self.method)


class PlannedBudget(Record):
    """Of every pre-training."""

    images: Count | None = None
    minutes: float | None = None


class StoredPlan(Record):
    """``plan.yaml`` as it was resolved: what a page is made of, and the rest as it stands, in the order of the file."""

    title: str = ""
    kind: str = "comparison"
    data: str | None = None
    preset: Any = None
    protocol: str = "default"
    rows: Annotated[tuple[PlannedRow | str, ...], Field(min_length=1)]
    baseline: str
    labelled: Any = None
    folds: Any = None
    seeds: Any = None
    split: Any = None
    selection: Any = None
    inductive: Any = None
    budget: PlannedBudget | None = None


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
    found: Result | None = find(own / RESULT, Result, next=again)
    return found


def write_result(folder: Path, key: str, result: Result) -> None:
    """Written last: a cell that has a result is done."""
    write(folder / "cells" / key / RESULT, result)


def read_cell_status(folder: Path, key: str) -> CellStatus:
    """How far a cell is, without any fact where it has not begun. Arguments and errors as of ``read_result``."""
    path = folder / "cells" / key / STATUS
    found: CellStatus | None = find(path, CellStatus, next=f"delete {path} and {_AGAIN}")
    return found or CellStatus()


def write_cell_status(folder: Path, key: str, status: CellStatus) -> None:
    """Replace ``status.json`` of a cell."""
    write(folder / "cells" / key / STATUS, status)


def read_plan(folder: Path) -> StoredPlan:
    """The plan of a comparison.

    Raises:
        UsageError: The file is damaged.
    """
    again = f"{_AGAIN}: it writes them anew and trains only what is missing"
    plan: StoredPlan = of_yaml(folder / PLAN, StoredPlan, next=again)
    return plan


def find_facts(folder: Path) -> Facts | None:
    """As ``read_facts``; None where there are none yet."""
    return read_facts(folder) if (folder / FACTS).exists() else None


def read_facts(folder: Path) -> Facts:
    """The facts of a comparison.

    Raises:
        UsageError: The file is damaged.
    """
    path = folder / FACTS
    facts: Facts = read(path, Facts, next=f"delete {path} and {_AGAIN}: it writes them anew")
    return facts


def write_facts(folder: Path, facts: Facts) -> None:
    """Replace ``facts.json``."""
    write(folder / FACTS, facts)


def read_cell(folder: Path, key: str, kind: Any) -> Any:
    """What a cell is made of, as ``kind``; None where there is no such cell. Errors as of ``read_result``."""
    own = folder / "cells" / key
    return find(own / "cell.json", kind, next=f"delete {own} and {_AGAIN}")
