"""``evaluation/``: the scores of each scan (``per_case.csv``), and their summary (``summary.json``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from lemis import files
from lemis.measure import tables
from lemis.measure.scores import Status
from lemis.preparation.exposure import Strange
from lemis.records import Count, Name, Record, each_row, find, read_table
from lemis.records import write as write_record

SUMMARY, PER_CASE = "summary.json", "per_case.csv"
IN_MM = ("hd95_mm", "assd_mm", "nsd", "hd95_pooled_mm", "assd_of_means_mm")
METRICS = ("dice", *IN_MM)
COUNTS = ("missed", "invented", "absent")
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
    """How each score is computed, in words; a report quotes those of the 95th percentile and of the interval."""

    dice: str = ""
    surface: str = ""
    hd95_mm: str
    assd_mm: str = ""
    hd95_pooled_mm: str = ""
    assd_of_means_mm: str = ""
    nsd: str = ""
    spacing: str = ""
    empty: str = ""
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


class Beside(Record):
    """Another score that a paper prints: the mean over structures, and each of them."""

    mean: Positive
    structures: dict[str, Positive]


class Paper(Record):
    """The papers' pooled Dice, and what one of them prints beside it."""

    what: str
    mean: Share
    std: Positive | None = None
    mean_of_last_steps: Share | None = None
    dice: dict[str, Share] = Field(default_factory=dict)
    runs: dict[Name, ScoredStep] = Field(default_factory=dict)
    beside: dict[str, Beside] = Field(default_factory=dict)  # jaccard, hd95_px and asd_px, at the best scored steps
    beside_definition: str = ""


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

    scores: Tolerance
    intervals: Intervals


class Audited(Record):
    """Of subjects that were drawn at random while they had no label."""

    drawn: Count  # so far
    labelled: Count  # of them, by now
    subjects: tuple[str, ...]  # that were tested
    overall: Scores | None  # mean of structures; None where none was tested


class Compared(Record):
    """Folders of label maps and of references, as seen from the scores."""

    predictions: str
    references: str | None = None


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
    subjects_unlabelled_in_training: tuple[str, ...] = ()  # whose images fine-tuning saw without their labels
    transductive_in: tuple[Literal["pre-training", "fine-tuning"], ...] = ()  # what saw images of test subjects
    of: Compared | None = None  # None: of before it was written down
    strange: dict[str, tuple[Strange, ...]] = Field(default_factory=dict)  # scans unlike what was trained on
    settings: EvaluationSettings
    protocols: Protocols
    versions: dict[str, str]
    audited: Audited | None = None  # None: nobody was drawn

    @property
    def exposed_in(self) -> str:
        """What saw the images of test subjects, in words; where it is not said it was pre-training."""
        return " and ".join(self.transductive_in) or "pre-training"

    @property
    def not_exposed_in(self) -> str:
        """What saw no image of a test subject, where nothing did."""
        return "pre-training and fine-tuning" if self.subjects_unlabelled_in_training else "pre-training"


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
    hd95_pooled_mm: _Cell = math.nan
    assd_of_means_mm: _Cell = math.nan
    reference_ml: _Cell
    predicted_ml: _Cell
    status: Status


def read_summary(scores: Path) -> Summary | None:
    """The summary of the scores in a folder; None where nothing was scored.

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
    columns = tuple(name for name, field in CaseScore.model_fields.items() if field.is_required())
    rows = read_table(path, columns, next=again)
    return each_row(path, rows, CaseScore.model_validate, next=again)


def write(scores: Path, summary: Summary, cases: Sequence[CaseScore]) -> None:
    """Write both files of an evaluation, the summary last; the folder is made where it is missing."""
    scores.mkdir(parents=True, exist_ok=True)
    rows = [case.model_dump() for case in cases]
    files.write(scores / PER_CASE, tables.comma_separated(rows, tuple(CaseScore.model_fields)))
    write_record(scores / SUMMARY, summary)
