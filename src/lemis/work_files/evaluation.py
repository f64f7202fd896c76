"""``evaluation/``: the scores of each scan (``per_case.csv``), and what they come to (``summary.json``)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from lemis.measure.scores import Status
from lemis.preparation.exposure import Strange
from lemis.records import Count, Name, Record, each_row, find, read_table

SUMMARY, PER_CASE = "summary.json", "per_case.csv"
Positive = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Estimate(Record):
    """A mean over scans with its interval; null where there is none. All scores are 0 or more."""

    mean: Positive | None
    low: Positive | None
    high: Positive | None
    median: Positive | None
    std: Positive | None
    scans: Count
    subjects: Count


class Scores(Record):
    """Of one structure, or of the mean of them."""

    dice: Estimate
    hd95_mm: Estimate
    assd_mm: Estimate
    nsd: Estimate
    hd95_pooled_mm: Estimate
    assd_of_means_mm: Estimate
    scored: Count
    missed: Count
    invented: Count
    absent: Count


class Definitions(Record):
    """How each score is computed, in words; those that a report quotes by name."""

    hd95_mm: str
    interval: str


class Default(Record):
    """Per scan, on the reference's own grid."""

    what: str
    definitions: Definitions
    tolerance_mm: Positive
    without_millimetres: str | None
    structures: dict[str, Scores]
    overall: Scores


class ScoredStep(Record):
    """The best scored step of a run."""

    step: Count
    mean: Share


class Paper(Record):
    """The papers' pooled Dice."""

    what: str
    mean: Share
    std: Positive | None = None
    mean_of_last_steps: Share | None = None
    dice: dict[str, Share] = Field(default_factory=dict)
    runs: dict[Name, ScoredStep] = Field(default_factory=dict)


class Protocols(Record):
    """What was computed."""

    default: Default
    paper: Paper | None = None


class Intervals(Record):
    """Settings of ``measure.statistics``."""

    level: Annotated[float, Field(gt=0, lt=1)]


class Tolerance(Record):
    """Settings of ``measure.scores``."""

    tolerance_mm: Positive


class EvaluationSettings(Record):
    """With which it was computed."""

    intervals: Intervals
    scores: Tolerance


class Summary(Record):
    """``summary.json``."""

    version: Literal[1]
    scans: Count
    subjects: Count
    not_scored: dict[str, tuple[str, ...]]
    runs: tuple[Name, ...]
    transductive: bool | None
    training_not_recorded: tuple[str, ...]
    subjects_tested: tuple[str, ...]
    subjects_labelled_in_training: tuple[str, ...] | None
    subjects_in_pretraining: tuple[str, ...] | None
    of: dict[str, str | None] | None = None  # folders of label maps and of references, as seen from here
    strange: dict[str, tuple[Strange, ...]] = Field(default_factory=dict)  # scans unlike what was trained on
    settings: EvaluationSettings
    protocols: Protocols
    versions: dict[str, str]


def _number(cell: Any) -> float:
    value = float(cell) if cell != "" else math.nan
    if value < 0 or math.isinf(value):
        raise ValueError("should be 0 or more, or empty")
    return value


_Cell = Annotated[float, BeforeValidator(_number)]


class CaseScore(Record):
    """One line of ``per_case.csv``: one structure of one scan; NaN where there is no number."""

    model_config = ConfigDict(allow_inf_nan=True)

    scan: Annotated[str, Field(min_length=1)]
    subject: str
    structure: str
    dice: _Cell
    hd95_mm: _Cell
    assd_mm: _Cell
    nsd: _Cell
    reference_ml: _Cell
    predicted_ml: _Cell
    status: Status


def read_summary(scores: Path) -> Summary | None:
    """What the scores in a folder come to; None where nothing was scored.

    Raises:
        UsageError: The file is damaged.
    """
    found: Summary | None = find(scores / SUMMARY, Summary, next=f"lemis evaluate {scores.parent}")
    return found


def read_cases(scores: Path) -> list[CaseScore]:
    """The scores of each scan in a folder; none where nothing was scored.

    Raises:
        UsageError: The file is damaged.
    """
    path, again = scores / PER_CASE, f"lemis evaluate {scores.parent}"
    if not path.exists():
        return []
    rows = read_table(path, tuple(CaseScore.model_fields), next=again)
    return each_row(path, rows, CaseScore.model_validate, next=again)
