"""The facts of a work folder that its report shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lemis.checking.faults import Fault
from lemis.datasets.index import Index
from lemis.preparation.settings import Settings as Preparation
from lemis.reporting.review import Review
from lemis.reporting.viewer.scans import Viewer
from lemis.work_files.evaluation import CaseScore, Summary
from lemis.work_files.predictions import Predictions
from lemis.work_files.run import Environment, Figures, FinetunedModel, Imported, Model, PretrainedModel, Status


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What one run folder says."""

    name: str
    status: Status
    settings: Mapping[str, Any]  # ``settings.yaml``
    environment: Environment | None
    model: Model | None  # None until the run is done
    metrics: tuple[Figures, ...]

    @property
    def verb(self) -> str:
        """``pretrain`` or ``finetune``; empty where the run has not begun."""
        return self.status.verb or ""

    @property
    def method(self) -> str:
        """Name of the method, ``scratch`` for none."""
        return self.status.method or ""

    @property
    def done(self) -> bool:
        """Training reached its end."""
        return self.status.state == "done"

    @property
    def state(self) -> str:
        """How far it is, in words."""
        return self.status.state or "not begun"

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return self.status.steps if self.done and self.status.steps is not None else self.status.step

    @property
    def tuned(self) -> FinetunedModel | None:
        """What a finished fine-tuning trained."""
        return self.model if isinstance(self.model, FinetunedModel) else None

    @property
    def imported(self) -> Imported | None:
        """Where the weights are from, if they were not trained here."""
        return self.model.imported if isinstance(self.model, PretrainedModel) else None

    @property
    def pretrained_on(self) -> tuple[str, ...]:
        """Subjects whose images a finished pre-training saw."""
        return self.model.subjects if isinstance(self.model, PretrainedModel) else ()

    @property
    def labelled_subjects(self) -> Sequence[str]:
        """Whose labels it learns from."""
        return (self.model and self.model.labelled_subjects) or self.settings.get("labelled") or ()

    @property
    def pretrained(self) -> str | None:
        """The run whose weights it began with."""
        return (self.tuned and self.tuned.pretrained) or self.settings.get("pretrained")

    @property
    def second(self) -> str | None:
        """The run whose weights a second network began with, which was trained beside it."""
        return self.tuned.second if self.tuned else None

    @property
    def auxiliary(self) -> str | None:
        """The extra loss of a finished fine-tuning."""
        return self.tuned.auxiliary if self.tuned else None

    @property
    def semi(self) -> str | None:
        """How a finished fine-tuning used unlabelled scans."""
        return self.tuned.semi if self.tuned else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Runs whose label maps of unlabelled scans a finished fine-tuning learned from."""
        return self.tuned.teacher.runs if self.tuned and self.tuned.teacher else ()

    @property
    def unlabelled_subjects(self) -> tuple[str, ...]:
        """Whose images a finished fine-tuning saw without their labels."""
        return self.tuned.unlabelled_subjects if self.tuned else ()

    @property
    def learned_nothing(self) -> str | None:
        """Why a pre-training learned nothing, where that is so."""
        return self.status.learned_nothing


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One picture of an example."""

    picture: bytes  # PNG
    caption: str
    width_mm: float | None = None  # of one of three orthogonal planes, so that they are shown in one scale


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scan with a few of its slices."""

    rank: str  # best, median, worst
    scan: str
    dice: float
    slices: tuple[Slice, ...]

    @property
    def widths_mm(self) -> tuple[float, ...]:
        """Of three orthogonal planes; empty where slices of a stack are shown."""
        return tuple(slice_.width_mm for slice_ in self.slices if slice_.width_mm is not None)


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A scan without a reference, with the slice to look at first."""

    scan: str
    structure: str | None  # about which views differ most there; None: the slice with most of all structures
    slice: Slice


@dataclass(frozen=True, kw_only=True)
class VoxelFeatures:
    """The figure of voxel features, drawn, and what stands beside it."""

    layer: str  # which map of the encoder
    scans: str  # which were looked at
    most_cells: int  # of a class
    figure: str  # an <svg> element


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The self-similarity figure, drawn, and what stands beside it."""

    where: str  # row 64, column 60 of slice 5 of 10, scan NAME
    view: str  # how the two pictures were made, as sentences
    turned: str  # the slice was turned
    second: str  # the second view's name: other
    measure: str  # cosine
    stride: str  # 4 x 4 pixels
    places: str  # SVG: the slice, or a view of it, and another view
    maps: str  # SVG: of every network


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """The figure of keypoints of two neighbouring slices, drawn, and what stands beside it."""

    where: str  # slices 5 and 6 of 10, scan NAME
    mutual: bool  # both of a match must choose each other
    drawn: str  # SVG


@dataclass(frozen=True, kw_only=True)
class WorkFacts:
    """Everything a work folder holds that the report tells; None where it does not exist (yet)."""

    name: str
    index: Index | None
    prepared: Preparation | None  # of ``prepared/meta.json``
    runs: tuple[RunFacts, ...]
    # Names of those that made the label maps and scores, and that these began with; empty where nobody knows.
    used: frozenset[str] = frozenset()
    predictions: Predictions | None
    summary: Summary | None
    per_case: tuple[CaseScore, ...]
    examples: tuple[Example, ...]
    faults: tuple[Fault, ...] | None  # that ``check`` found
    review: Review | None = None  # which label maps to look at first, where that was measured
    pictured: tuple[Pictured, ...] = ()  # pictures of the first of these
    similarity: Similarity | None = None  # where it was asked for
    features: VoxelFeatures | None = None  # where it was asked for
    keypoints: Keypoints | None = None  # where they were asked for
    viewer: Viewer | None = None  # where there are label maps, and room for scans
    out_of_date: tuple[str, ...] = ()  # which run is of another state of the data, and what changed
    elsewhere: bool = False  # label maps of scans that are no part of the work folder of their runs

    @property
    def in_use(self) -> list[RunFacts]:
        """The runs that this report is about; all where that is not recorded."""
        return [run for run in self.runs if not self.used or run.name in self.used]

    @property
    def not_in_use(self) -> list[RunFacts]:
        """The others, as those of earlier rounds of labelling, which stay in the folder."""
        return [run for run in self.runs if self.used and run.name not in self.used]

    @property
    def final_runs(self) -> list[RunFacts]:
        """The finished runs whose predictions were scored; all fine-tuned ones in use where that was not recorded."""
        tuned = [run for run in self.in_use if run.verb == "finetune" and run.done]
        named = set(self.summary.runs) if self.summary else set()
        return [run for run in tuned if run.name in named] or tuned


def scan_rows(per_case: Iterable[CaseScore]) -> list[tuple[str, float, list[CaseScore]]]:
    """(scan, mean Dice, its rows), worst first; scans without any structure last."""
    rows: dict[str, list[CaseScore]] = {}
    for row in per_case:
        rows.setdefault(row.scan, []).append(row)
    scans = [(scan, mean_dice(found), found) for scan, found in rows.items()]
    return sorted(scans, key=lambda scan: (math.isnan(scan[1]), scan[1]))


def mean_dice(rows: Iterable[CaseScore]) -> float:
    """Mean over the structures that are there; NaN where none is."""
    values = [row.dice for row in rows if not math.isnan(row.dice)]
    return sum(values) / len(values) if values else math.nan
