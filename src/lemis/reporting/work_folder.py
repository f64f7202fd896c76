"""Reading what a work folder, or a folder of label maps of scans from elsewhere, holds for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemis.datasets import index as indexing
from lemis.datasets import label_names
from lemis.datasets.scans import is_there
from lemis.errors import UsageError
from lemis.plugins import nearest
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store_files import read_meta
from lemis.reporting.examples import examples, pictured
from lemis.reporting.review import FIRST, Review, review
from lemis.reporting.viewer.scans import Viewer, viewer
from lemis.reporting.work_facts import RunFacts, WorkFacts, scan_rows
from lemis.runs import freshness
from lemis.settings import resolve
from lemis.work_files import checks, evaluation, predictions, quality
from lemis.work_files import run as run_files
from lemis.work_files.evaluation import CaseScore, Summary
from lemis.work_files.predictions import Predictions
from lemis.work_files.run import Model


def read_work(work: Path, runs: Sequence[str] = (), *, viewer_mb: float = 0) -> WorkFacts:
    """Read what is there; a part that is missing is None or empty.

    Args:
        work: The folder.
        runs: Those to read; (): all.
        viewer_mb: Room for the scans of the viewer; 0: there is none.
    """
    record = predictions.read(work)
    if record is not None and not (work / "index.json").exists():
        return _read_elsewhere(work, record, runs, viewer_mb)
    parts = ("index.json", "runs", "predictions", "evaluation", "prepared")
    if not any((work / part).exists() for part in parts):
        raise UsageError(
            f"{work} is not a work folder",
            allowed=f"a folder with at least one of {', '.join(parts)}",
            next="lemis check SCANS -o WORK",
        )
    index = indexing.load(work / "index.json") if (work / "index.json").is_file() else None
    per_case = tuple(evaluation.read_cases(work / "evaluation"))
    queue = _review(work / "predictions", index)
    meta = read_meta(work / "prepared")
    summary, found = evaluation.read_summary(work / "evaluation"), checks.read(work)
    made = predictions.read(work / "predictions")
    used = _used(work / "runs", made, summary)
    return WorkFacts(
        name=Path(index.root).name if index else work.resolve().name,
        index=index,
        prepared=_prepared(meta.settings) if meta else None,
        runs=_runs(work / "runs", runs),
        used=used,
        predictions=made,
        summary=summary,
        per_case=per_case,
        examples=examples(work / "predictions", index, per_case, _in_3d(work, summary)) if index else (),
        viewer=_viewer(work / "predictions", index, per_case, queue, viewer_mb) if index else None,
        pictured=pictured(work / "predictions", _still_there(index), queue) if index else (),
        faults=found.faults if found else None,
        out_of_date=_out_of_date(work, index, runs or sorted(used)),
        review=queue,
    )


def _out_of_date(work: Path, index: indexing.Index | None, names: Sequence[str]) -> tuple[str, ...]:
    """What changed since runs were trained, a line for each run of another state of the data; of all without names."""
    if index is None:
        return ()
    said, there = [], sorted(path.parent.name for path in (work / "runs").glob("*/settings.yaml"))
    for run in [name for name in names if name in there] or there:
        changes = freshness.since_training(work, index, run)
        said += [f"{run} was trained on another state of the data: {change}" for change in changes.trained]
        said += [f"{run} was scored on another state of the data: {change}" for change in changes.held_out]
    return tuple(said)


def _first(per_case: Sequence[CaseScore], queue: Review | None) -> list[str]:
    """Scans in the order in which they are worth looking at: the first of the scored, of the queue, then others."""
    scored = [scan for scan, _, _ in scan_rows(per_case)]
    queued = [scan for scan, _ in (*queue.first, *queue.others)] if queue else []
    return list(dict.fromkeys([*scored[:FIRST], *queued[:FIRST], *scored, *queued]))


def _viewer(
    predictions: Path, index: indexing.Index, per_case: Sequence[CaseScore], queue: Review | None, megabytes: float
) -> Viewer | None:
    look_at = queue.look_at if queue else {}
    return viewer(predictions, index, _first(per_case, queue), megabytes=megabytes, look_at=look_at)


def _read_elsewhere(folder: Path, record: Predictions, names: Sequence[str], viewer_mb: float) -> WorkFacts:
    """Of the label maps of scans from elsewhere: the scores beside them, and the runs where they still lie."""
    scores = folder / "evaluation"
    per_case = tuple(evaluation.read_cases(scores))
    summary, queue = evaluation.read_summary(scores), _review(folder, None)
    index = _elsewhere(record, _references(scores, summary, record))
    runs = _runs_elsewhere(record, names)
    tuned = [run.tuned for run in runs if run.tuned is not None]
    in_3d = any(model.patch_px is not None for model in tuned)
    return WorkFacts(
        name=folder.resolve().name,
        index=index,
        prepared=_prepared(tuned[0].prepared) if tuned else None,
        runs=runs,
        predictions=record,
        summary=summary,
        per_case=per_case,
        examples=examples(folder, _still_there(index), per_case, in_3d),
        viewer=_viewer(folder, index, per_case, queue, viewer_mb),
        pictured=pictured(folder, _still_there(index), queue),
        faults=None,
        elsewhere=True,
        review=queue,
    )


def _review(folder: Path, index: indexing.Index | None) -> Review | None:
    """Of the scans without a label, where there are any: the others are scored."""
    record, rows = quality.read(folder), quality.read_rows(folder)
    if record is None or record.basis is None:
        return None
    labelled = {scan.id for scan in index.scans if scan.label is not None} if index else set()
    return review([row for row in rows if row.scan not in labelled] or rows, record.basis)


def _references(scores: Path, summary: Summary | None, record: Predictions) -> dict[str, str] | None:
    """The label maps that were scored by, of each scan; None where those are beside the scans."""
    where = summary.of.references if summary and summary.of else None
    if where is None:
        return None
    found = label_names.references(scores.joinpath(where).resolve(), record.scans.keys())
    return {id: str(file) for id, file in found.items()}


def _elsewhere(record: Predictions, references: Mapping[str, str] | None) -> indexing.Index:
    """The scans of a record as an index lists them."""
    scans = [made.scan for made in record.scans.values() if made.scan is not None]
    if references is not None:
        scans = [replace(scan, label=references.get(scan.id)) for scan in scans]
    return indexing.Index(
        root="", layout=record.layout or "", channels=record.channels, labels={"background": 0, **record.structures},
        scans=tuple(scans), ignored=record.ignored_values, frame=record.frame,
    )  # fmt: skip


def _still_there(index: indexing.Index) -> indexing.Index:
    """Without scans whose files were moved or deleted since: there is no picture of them."""
    return replace(index, scans=tuple(scan for scan in index.scans if is_there(index, scan)))


def _runs_elsewhere(record: Predictions, names: Sequence[str]) -> tuple[RunFacts, ...]:
    """The runs that made the label maps, and what they were pre-trained by; those that are gone are left out."""
    there = {name: Path(path) for name, path in record.run_folders.items() if (Path(path) / "settings.yaml").is_file()}
    for path in list(there.values()):
        for before in _learned_from(run_files.find_model(path)):
            if (path.parent / before / "settings.yaml").is_file():
                there[before] = path.parent / before
    _refuse_unknown(names, sorted(there), "the folders that the label maps were made in")
    return _in_order(_run(path) for name, path in there.items() if not names or name in names)


def _prepared(settings: Mapping[str, Any]) -> Preparation:
    return resolve(Preparation, settings, prefix="prepared.")


def _in_3d(work: Path, summary: Summary | None) -> bool:
    """Whether a three-dimensional network made the predictions that were scored."""
    models = [run_files.find_model(work / "runs" / run) for run in (summary.runs if summary else ())]
    return any(isinstance(model, run_files.FinetunedModel) and model.patch_px is not None for model in models)


# ---------------------------------------------------------------- runs


def _used(folder: Path, record: Predictions | None, summary: Summary | None) -> frozenset[str]:
    """Names of the runs that made the label maps and what was scored, and of those that they learned from."""
    made = [record.made(scan) for scan in record.scans] if record else []
    names = [run for one in made for run in (*one.runs, one.run) if run is not None]
    names += summary.runs if summary else ()
    used: set[str] = set()
    while names:
        name = names.pop()
        if name not in used:
            used.add(name)
            names += _learned_from(run_files.find_model(folder / name))
    return frozenset(used)


def _learned_from(model: Model | None) -> list[str]:
    """Names of the runs that gave a network its first weights, or label maps of unlabelled scans."""
    if not isinstance(model, run_files.FinetunedModel):
        return []
    teachers = model.teacher.runs if model.teacher else ()
    return [run for run in (model.pretrained, model.second, *teachers) if run is not None]


def _runs(folder: Path, wanted: Sequence[str]) -> tuple[RunFacts, ...]:
    """Runs in the order they were begun, pre-training first."""
    known = sorted(path.parent.name for path in folder.glob("*/settings.yaml"))
    _refuse_unknown(wanted, known, str(folder))
    return _in_order(_run(folder / name) for name in wanted or known)


def _refuse_unknown(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in wanted:
        if name not in known:
            guess = nearest(name, known)
            raise UsageError(
                f"there is no run {name!r} in {where}",
                allowed=", ".join(known) or "no run has been begun",
                next=f"--run {guess}" if guess else "lemis pretrain WORK",
            )


def _in_order(runs: Iterable[RunFacts]) -> tuple[RunFacts, ...]:
    return tuple(
        sorted(
            runs,
            key=lambda run: (run.verb != "pretrain", run.environment.started if run.environment else "", run.name),
        )
    )


def _run(folder: Path) -> RunFacts:
    return RunFacts(
        name=folder.name,
        status=run_files.read_status(folder),
        settings=run_files.read_settings(folder),
        environment=run_files.read_environment(folder),
        model=run_files.find_model(folder),
        metrics=tuple(run_files.read_metrics(folder)),
    )
