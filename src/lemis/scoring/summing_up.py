"""The summary of all scores: means with their intervals, who was tested, what training had seen of them."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lemis.measure import scores, slices, statistics
from lemis.measure.statistics import known_mean
from lemis.scoring.cases import Case
from lemis.scoring.one_scan import Scored
from lemis.work_files.evaluation import (
    METRICS,
    Audited,
    Beside,
    CaseScore,
    Compared,
    Default,
    Definitions,
    Estimate,
    EvaluationSettings,
    Intervals,
    Paper,
    Protocols,
    ScoredStep,
    Scores,
    Summary,
    Tolerance,
)
from lemis.work_files.predictions import Predictions
from lemis.work_files.run import Figures, read_metrics

_SHARES = ("dice", "nsd")  # 1 at most
_POOLED = f"held_out/{slices.DICE}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is scored and how it is summed up."""

    scores: scores.Settings = field(default_factory=scores.Settings)
    intervals: statistics.Settings = field(default_factory=statistics.Settings)


def summary(
    cases: Sequence[Case],
    not_scored: Mapping[str, tuple[str, ...]],
    protocols: Protocols,
    *,
    of: Compared,
    record: Predictions,
    settings: Settings,
    audited: Audited | None = None,
) -> Summary:
    """All that is known of an evaluation.

    Args:
        cases: What was scored.
        not_scored: Scans that were not, by reason.
        protocols: The means of the scores, by protocol.
        of: The folders that were compared.
        record: What ``predict`` wrote of the label maps.
        settings: With which it was computed.
        audited: The scores of subjects that were drawn at random; None: nobody was.
    """
    tested = sorted({case.subject for case in cases})
    labelled = [case.labelled for case in cases if case.labelled is not None]
    unknown = [case.scan for case in cases if case.labelled is None]
    pretraining = [case.pretraining for case in cases if case.pretraining is not None]
    exposed: dict[Literal["pre-training", "fine-tuning"], bool] = {
        "pre-training": any(not case.people.isdisjoint(case.pretraining or ()) for case in cases),
        "fine-tuning": any(not case.people.isdisjoint(case.unlabelled) for case in cases),
    }
    seen = any(exposed.values())
    strange = {case.scan: record.made(case.scan).strange for case in cases}
    return Summary(
        version=1,
        scans=len(cases),
        subjects=len(tested),
        not_scored=dict(not_scored),
        runs=tuple(sorted({run for case in cases for run in case.runs})),
        # Of a label map that nobody wrote down, nobody knows what its network had seen.
        transductive=True if seen else None if len(pretraining) < len(cases) or unknown else False,
        training_not_recorded=tuple(unknown),
        subjects_tested=tuple(tested),
        subjects_labelled_in_training=tuple(sorted(set().union(*labelled))) if labelled else None,
        subjects_in_pretraining=tuple(sorted(set().union(*pretraining))) if pretraining else None,
        subjects_unlabelled_in_training=tuple(sorted(set().union(*(case.unlabelled for case in cases)))),
        transductive_in=tuple(kind for kind, is_so in exposed.items() if is_so),
        of=of,
        strange={scan: ways for scan, ways in strange.items() if ways},
        settings=EvaluationSettings(
            scores=Tolerance(tolerance_mm=settings.scores.tolerance_mm),
            intervals=Intervals(level=settings.intervals.level),
        ),
        protocols=protocols,
        versions={"python": platform.python_version(), **{name: version(name) for name in ("lemis", "numpy", "scipy")}},
        **({} if audited is None else {"audited": audited}),
    )


# ---------------------------------------------------------------- per scan


def default(
    scored: Sequence[Scored], structures: Iterable[str], without_millimetres: str | None, settings: Settings
) -> Default:
    """Per scan, on the reference's own grid.

    Args:
        scored: Of every scan.
        structures: Their names, in the order of the tables.
        without_millimetres: Why there are no distances; None where there are.
        settings: Tolerance and intervals.
    """
    return Default(
        what="per scan, on the reference's own grid, mean over scans",
        definitions=Definitions(**scores.DEFINITIONS, interval=settings.intervals.definition),
        tolerance_mm=settings.scores.tolerance_mm,
        without_millimetres=without_millimetres,
        structures={name: _of_structure(scored, name, settings.intervals) for name in structures},
        overall=_overall(scored, settings.intervals),
    )


def audited(
    drawn: Iterable[str], labelled: Iterable[str], scored: Sequence[Scored], settings: Settings
) -> Audited | None:  # fmt: skip
    """The scores of subjects that were drawn at random alone; None where nobody was.

    Args:
        drawn: Subjects.
        labelled: All subjects with a label.
        scored: Of every scan.
        settings: Tolerance and intervals.
    """
    people = set(drawn)
    if not people:
        return None
    own = [scan for scan in scored if scan.rows and scan.rows[0].subject in people]
    return Audited(
        drawn=len(people), labelled=len(people.intersection(labelled)),
        subjects=tuple(sorted({scan.rows[0].subject for scan in own})),
        overall=_overall(own, settings.intervals) if own else None,
    )  # fmt: skip


def _of_structure(scored: Sequence[Scored], structure: str, settings: statistics.Settings) -> Scores:
    own = [(row, scan.farthest_mm) for scan in scored for row in scan.rows if row.structure == structure]
    rows = [row for row, _ in own]
    values = {name: [getattr(row, name) for row in rows] for name in METRICS}
    farthest = max((farthest_mm for _, farthest_mm in own), default=math.inf)
    return _statistics(values, [row.subject for row in rows], rows, farthest, settings)


def _overall(scored: Sequence[Scored], settings: statistics.Settings) -> Scores:
    """Each scan's mean over its structures first (absent ones left out), then the mean over scans."""
    there = [scan for scan in scored if scan.rows]
    values = {name: [known_mean(getattr(row, name) for row in scan.rows) for scan in there] for name in METRICS}
    farthest = max((scan.farthest_mm for scan in there), default=math.inf)
    rows = [row for scan in scored for row in scan.rows]
    return _statistics(values, [scan.rows[0].subject for scan in there], rows, farthest, settings)


def _statistics(
    values: Mapping[str, Sequence[float]],
    subjects: Sequence[str],
    rows: Sequence[CaseScore],
    farthest_mm: float,
    settings: statistics.Settings,
) -> Scores:
    """Means of ``values`` over scans of ``subjects``, and how many structures were scored, of all ``rows``."""
    status = Counter(row.status for row in rows)

    def mean(name: str) -> Estimate:
        within = (0, 1 if name in _SHARES else farthest_mm)
        return _estimate(statistics.estimate(values[name], subjects, settings, within=within))

    return Scores(
        dice=mean("dice"),
        hd95_mm=mean("hd95_mm"),
        assd_mm=mean("assd_mm"),
        nsd=mean("nsd"),
        hd95_pooled_mm=mean("hd95_pooled_mm"),
        assd_of_means_mm=mean("assd_of_means_mm"),
        scored=status["scored"],
        missed=status["missed"],
        invented=status["invented"],
        absent=status["absent"],
    )


def _estimate(found: statistics.Estimate) -> Estimate:
    mean, low, high, median, std = (
        None if math.isnan(value) else value  # JSON has no NaN: a number that does not exist is null
        for value in (found.mean, found.low, found.high, found.median, found.std)
    )
    return Estimate(mean=mean, low=low, high=high, median=median, std=std, scans=found.scans, subjects=found.subjects)


# ---------------------------------------------------------------- the papers' number


def paper(record: Predictions, work: Path | None, runs: Sequence[str]) -> Paper | None:
    """The papers' number: as ``predict`` wrote it, or as the runs scored their held-out fold in training."""
    if record.pooled is not None:
        return Paper(what=scores.PAPER_DEFINITION, mean=record.pooled.mean, dice=record.pooled.dice)
    if work is None:
        return None
    logs = {run: _held_out(work / "runs" / run) for run in runs}
    if not logs or not all(logs.values()):
        return None
    best = {run: max(lines, key=lambda line: line[_POOLED]) for run, lines in logs.items()}
    keys = dict.fromkeys(key for line in best.values() for key in line if key.startswith(f"{_POOLED}/"))
    means = [line[_POOLED] for line in best.values()]
    return Paper(
        what=f"{scores.PAPER_DEFINITION}; best scored step of each run, chosen on the test subjects",
        mean=float(np.mean(means)),
        std=float(np.std(means)),  # population form, over runs
        mean_of_last_steps=float(np.mean([lines[-1][_POOLED] for lines in logs.values()])),
        dice={key.removeprefix(f"{_POOLED}/"): float(np.mean([line[key] for line in best.values()])) for key in keys},
        runs={run: ScoredStep(step=int(line["step"]), mean=line[_POOLED]) for run, line in best.items()},
        **_beside(list(best.values())),
    )


def _beside(best: Sequence[Figures]) -> dict[str, Any]:
    """The papers' other scores after the same steps; none where a run was trained before they were taken."""
    found = {}
    for metric in slices.BESIDE:
        name = f"held_out/{metric}"
        if all(name in line for line in best):
            keys = dict.fromkeys(key for line in best for key in line if key.startswith(f"{name}/"))
            structures = {key.removeprefix(f"{name}/"): float(np.mean([line[key] for line in best])) for key in keys}
            found[metric] = Beside(mean=float(np.mean([line[name] for line in best])), structures=structures)
    return {"beside": found, "beside_definition": slices.DEFINITION} if found else {}


def _held_out(run: Path) -> list[Figures]:
    """Lines of a run's metrics that hold its score on the held-out fold."""
    return [figures for figures in read_metrics(run) if not math.isnan(figures.get(_POOLED, math.nan))]
