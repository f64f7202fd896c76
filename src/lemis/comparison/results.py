"""The tables of a comparison, ``results.csv`` and ``cases.csv``, collected from its finished cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lemis import files
from lemis.comparison.cells import Grid, Use
from lemis.comparison.plans import Plan, Way
from lemis.measure import slices
from lemis.measure.tables import comma_separated
from lemis.work_files import run as run_files
from lemis.work_files.comparison import MEAN, CellCase, Missing, Nothing, Result, read_cell_status, read_result
from lemis.work_files.evaluation import read_cases

RESULTS = (
    "row", "method", "backbone", "auxiliary", "labelled", "fold", "seed", "structure", "pooled_dice_best",
    "pooled_dice_last", "jaccard_best", "jaccard_last", "hd95_px_best", "hd95_px_last", "asd_px_best", "asd_px_last",
    "dice", "hd95_mm", "assd_mm", "scans", "missed", "pretraining_core_seconds",
    "finetuning_core_seconds", "pretraining_seconds", "finetuning_seconds", "peak_memory_gb", "transductive", "cell",
)  # fmt: skip
CASES = (
    "row", "labelled", "fold", "seed", "subject", "scan", "structure", "dice", "hd95_mm", "assd_mm", "status", "cell",
)  # fmt: skip
SINGLE = ("hm", "xor")  # of images without labels: distance of Hammoude, and exclusive or
_METRICS = ("dice", "hd95_mm", "assd_mm")


def of_run(run: Path, **more: Any) -> Result:
    """What a run's own files say of its cost, and why it learned nothing, where that is so; with ``more`` of it."""
    status = run_files.read_status(run)
    return Result(
        version=1, run=run.name, seconds=status.seconds, core_seconds=status.core_seconds,
        peak_memory_gb=status.peak_memory_gb, learned_nothing=status.learned_nothing, **more,
    )  # fmt: skip


def cases_of(scores: Path) -> tuple[CellCase, ...]:
    """The cases of a cell, from the folder of its scores."""
    return tuple(
        CellCase(
            subject=case.subject, scan=case.scan, structure=case.structure, dice=_text(case.dice),
            hd95_mm=_text(case.hd95_mm), assd_mm=_text(case.assd_mm), status=case.status,
        )
        for case in read_cases(scores)
    )  # fmt: skip


def _text(number: float) -> str:
    return "" if math.isnan(number) else repr(number)


def learned_nothing(folder: Path, grid: Grid) -> dict[str, Nothing]:
    """Rows with pre-trainings that learned nothing: how many, of how many that are done, and why the first one."""
    found = {}
    for row in dict.fromkeys(use.row for use in grid.uses):
        keys = dict.fromkeys(key for use in grid.uses if use.row == row for key in use.pretrainings)
        done = [result for key in keys if (result := read_result(folder, key)) is not None]
        why = [result.learned_nothing for result in done if result.learned_nothing]
        if why:
            found[row] = Nothing(runs=len(why), of=len(done), why=why[0])
    return found


def _pooled(lines: Sequence[run_files.Figures], metric: str) -> dict[str, dict[str, float]]:
    """A score of the papers on the held-out fold: after the step of the best Dice and after the last, by structure."""
    name, judge = f"held_out/{metric}", f"held_out/{slices.DICE}"
    scored = [line for line in lines if judge in line and name in line]
    if not scored:  # finetune.evaluations=0, or trained before this score was taken
        return {}
    best = max(scored, key=lambda line: line[judge])
    return {
        which: {
            MEAN: line[name],
            **{key.removeprefix(f"{name}/"): value for key, value in line.items() if key.startswith(f"{name}/")},
        }
        for which, line in (("best", best), ("last", scored[-1]))
    }


def of_papers(run: Path) -> dict[str, Any]:
    """The papers' scores of a run, as fields of a ``Result``."""
    lines = run_files.read_metrics(run)
    return {"pooled": _pooled(lines, slices.DICE), "beside": {one: _pooled(lines, one) for one in slices.BESIDE}}


def collect(folder: Path, grid: Grid, plan: Plan, ways: Sequence[Way] = ()) -> tuple[Missing, ...]:
    """Write ``results.csv`` and ``cases.csv`` of what is done.

    Args:
        folder: Of the comparison.
        grid: Its cells.
        plan: Its plan.
        ways: Its rows; none of single images.

    Returns:
        What is missing, and why.
    """
    rows = {
        row.title: {
            "method": row.method,
            "backbone": row.backbone,
            "auxiliary": row.auxiliary,
            "semi": row.semi,
            "second": row.second,
        }
        for row in plan.rows
    }
    networks = {way.row.title: {"backbone": way.finetuning.backbone} for way in ways}
    results, cases, left = [], [], []
    for use in grid.uses:
        place = {"row": use.row, "labelled": use.labelled, "fold": use.fold, "seed": use.seed}
        result = read_result(folder, use.cell)
        if result is None:
            reason = _reason(folder, use)
            left.append(Missing(row=use.row, labelled=use.labelled, fold=use.fold, seed=use.seed, reason=reason))
            continue
        before = [found for key in use.pretrainings if (found := read_result(folder, key)) is not None]
        whose = {**place, **rows[use.row], **networks.get(use.row, {})}
        teacher = read_result(folder, use.teacher) if use.teacher else None
        tuned = [result] if teacher is None else [teacher, result]
        results += [{**whose, **line} for line in _lines(use, tuned, before)]
        cases += [{**place, **case.model_dump(exclude_unset=True), "cell": use.cell} for case in result.cases]
    named = tuple(key for key in ("semi", "second") if any(getattr(row, key) for row in plan.rows))
    more = SINGLE if plan.kind == "single" else named
    files.write(folder / "results.csv", comma_separated(results, (*RESULTS, *more)))
    files.write(folder / "cases.csv", comma_separated(cases, (*CASES, *more)))
    return tuple(left)


def core_seconds(folder: Path, grid: Grid) -> float:
    """What the processors worked on all cells that are done, a training that several share counted once."""
    done = {key: result for key in grid.cells if (result := read_result(folder, key))}
    trainings = {result.run or key: result.core_seconds or 0.0 for key, result in done.items()}
    return sum(trainings.values())


def _lines(use: Use, tuned: Sequence[Result], before: Sequence[Result]) -> list[dict[str, Any]]:
    """A line for each structure and one for their mean, of the last fine-tuning; an earlier one is its teacher's."""
    result = tuned[-1]
    memory = [one.peak_memory_gb for one in (*before, *tuned) if one.peak_memory_gb is not None]
    shared = {
        "pretraining_core_seconds": _added(one.core_seconds for one in before),
        "finetuning_core_seconds": _added(one.core_seconds for one in tuned),
        "pretraining_seconds": _added(one.seconds for one in before),
        "finetuning_seconds": _added(one.seconds for one in tuned),
        "peak_memory_gb": max(memory, default=None), "cell": use.cell,
        "transductive": str(use.transductive or use.semi_transductive).lower(),
    }  # fmt: skip
    structures = list(dict.fromkeys(case.structure for case in result.cases))
    papers = {slices.DICE: result.pooled, **result.beside}
    lines = []
    for name in (*structures, MEAN):
        found = [case for case in result.cases if name in (MEAN, case.structure)]
        scores = {metric: _mean_over_scans(found, metric) for metric in (*_METRICS, *SINGLE)}
        counts = {
            "scans": len({case.scan for case in found}),
            "missed": sum(case.status == "missed" for case in found),
        }
        printed = {
            f"{metric}_{which}": steps.get(which, {}).get(name)
            for metric, steps in papers.items()
            for which in ("best", "last")
        }
        lines.append({"structure": name, **printed, **scores, **counts, **shared})
    return lines


def _added(seconds: Iterable[float | None]) -> float | None:
    """Of several trainings; None where none of them says."""
    known = [one for one in seconds if one is not None]
    return sum(known) if known else None


def _mean_over_scans(cases: Sequence[CellCase], metric: str) -> float | None:
    """Each scan's mean over its structures first, then the mean over scans, as ``evaluate`` does."""
    per_scan: dict[str, list[float]] = {}
    for case in cases:
        value = float(getattr(case, metric) or "nan")
        if not math.isnan(value):
            per_scan.setdefault(case.scan, []).append(value)
    means = [statistics.fmean(values) for values in per_scan.values()]
    return statistics.fmean(means) if means else None


def _reason(folder: Path, use: Use) -> str:
    status = read_cell_status(folder, use.cell)
    return status.message or status.state or "not run"
