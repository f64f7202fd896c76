"""Score predicted label maps against references: per scan, on the reference's own grid, in millimetres.

Refuses leakage: a scan whose subject was labelled in training is no test of anything. Says *transductive*
where pre-training saw the images of the test subjects.
"""

from __future__ import annotations

import json as json_text
import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lemis import files, terminal
from lemis.datasets import csv_list, dataset_json, layouts
from lemis.datasets import index as indexing
from lemis.datasets.identity import subject_of
from lemis.datasets.scans import image_digest
from lemis.errors import DataFault, UsageError, shown
from lemis.formats import labels as label_maps
from lemis.formats import volume
from lemis.formats.grids import corner_distance_mm
from lemis.formats.paths import is_picture, suffix_of
from lemis.measure import scores, statistics, tables
from lemis.runs import freshness, material
from lemis.work_files import run as run_files
from lemis.work_files.evaluation import read_summary
from lemis.work_files.predictions import read as read_predictions
from lemis.work_files.run import Figures, read_metrics

VERSION = 1
_IN_MM = ("hd95_mm", "assd_mm", "nsd", "hd95_pooled_mm", "assd_of_means_mm")
METRICS = ("dice", *_IN_MM)
_SHARES = ("dice", "nsd")  # 1 at most
COUNTS = ("missed", "invented", "absent")
_FARTHEST = "farthest_mm"  # the diagonal of the image, beyond which no distance lies; not written
_POOLED = "held_out/pooled_dice"
_COLUMNS = ("scan", "subject", "structure", *METRICS, "reference_ml", "predicted_ml", "status")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is scored and how it is summed up."""

    scores: scores.Settings = field(default_factory=scores.Settings)
    intervals: statistics.Settings = field(default_factory=statistics.Settings)


class Case(NamedTuple):
    """One scan to score, and what the networks that segmented it were trained on."""

    scan: str
    subject: str
    prediction: Path
    reference: Path
    runs: tuple[str, ...]
    labelled: frozenset[str] | None  # subjects; None where nobody wrote it down
    pretraining: frozenset[str] | None  # subjects whose images pre-training saw; None where nobody wrote it down
    people: frozenset[str]  # who the subject is in the data set of the runs: by content, else by name


class Told(NamedTuple):
    """What is known of scans beside their label maps."""

    subjects: Mapping[str, str]
    references: Mapping[str, Path]
    structures: Mapping[str, int]  # foreground; empty where nothing names any
    ignored: tuple[int, ...]


def evaluate(
    predictions: Path,
    references: Path | None = None,
    *,
    work: Path | None = None,
    output: Path | None = None,
    runs: Sequence[str] | None = None,
    settings: Settings | None = None,
    jobs: int | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Score the label maps of a folder and write ``per_case.csv`` and ``summary.json``.

    Args:
        predictions: Folder of label maps named ID.SUFFIX (``work/predictions``), or the work folder with it.
        references: Folder of reference label maps named alike; by default those named in ``work/index.json``, and of
            scans from elsewhere those beside the scans.
        work: The work folder; by default the parent of ``predictions`` if it has an index.
        output: Where to write; by default ``work/evaluation`` for ``work/predictions``, and of any other folder of
            label maps ``evaluation`` in it. The scores of another set are not replaced.
        runs: Score what these runs made only, by ``predictions.json``; all by default.
        settings: Tolerance and intervals.
        jobs: Threads; by default one per core.
        json: Print the summary as JSON instead of a table.

    Returns:
        The content of ``summary.json``.

    Raises:
        UsageError: Nothing to score, a scan whose subject was labelled in training, under whatever name and in
            whatever file, or the scores of another set in ``output``.
        DataFault: A prediction on another grid than its reference, or with values that no structure has.
    """
    settings = settings or Settings()
    if (predictions / "predictions").is_dir() or (predictions / "index.json").is_file():
        work, predictions = work or predictions, predictions / "predictions"
    if work is None and (predictions.parent / "index.json").is_file():
        work = predictions.parent
    if work is None:
        _refuse_no_folder(predictions)
    index = indexing.load(work / "index.json") if work is not None else None
    own = work is not None and predictions.resolve() == (work / "predictions").resolve()
    output = output or (predictions.parent if own else predictions) / "evaluation"
    of = {
        "predictions": _from(output, predictions),
        "references": None if references is None else _from(output, references),
    }
    _refuse_other_scores(output, of)
    record = _record(predictions)
    files.require_writable(output)
    told = _told(predictions, references, index, record)
    cases, not_scored = _cases(predictions, told, record, runs)
    if own and work is not None:
        cases = _with_what_all_saw(cases, work)
    _refuse_leakage(cases)
    scored_on: list[str] = []
    if own and work is not None and index is not None and references is None:
        scored_on = _scored_on(work, index, cases)
        _refuse_other_weights(work, cases, record)

    structures = told.structures or _numbered(cases)
    millimetres = _millimetres(cases, record)
    one = partial(
        _score_case,
        structures=structures,
        ignored=told.ignored,
        millimetres=millimetres is None,
        settings=settings.scores,
    )
    scored = _parallel(one, cases, jobs)
    _refuse_leakage([_by_label(case, found.label_digest, record) for case, found in zip(cases, scored, strict=True)])
    per_case = [row for found in scored for row in found.rows]

    summary = {
        **_who(cases, not_scored),
        "of": of,
        "strange": _strange(cases, record),
        "settings": asdict(settings),
        "protocols": _protocols(per_case, list(structures), millimetres, settings),
        "versions": _versions(),
    }
    paper = _paper(record, work, summary["runs"])
    if scored_on:
        left_out = "; ".join(scored_on)
        terminal.console(stderr=True).print(f"note: no paper protocol, which is of the labels before: {left_out}")
    elif paper is not None:
        summary["protocols"]["paper"] = paper
    output.mkdir(parents=True, exist_ok=True)
    files.write(output / "per_case.csv", tables.comma_separated(per_case, _COLUMNS))
    text = json_text.dumps(_no_nan(summary), indent=1, ensure_ascii=False)
    files.write(output / "summary.json", text + "\n")
    if json:
        print(text)
    else:
        _print(summary, output)
    plain: dict[str, Any] = json_text.loads(text)
    return plain


def _from(output: Path, folder: Path) -> str:
    """The path of a folder as seen from the scores, so that it holds where both are moved."""
    return Path(os.path.relpath(folder.resolve(), output.resolve())).as_posix()


def _refuse_other_scores(output: Path, of: Mapping[str, str | None]) -> None:
    try:
        before = read_summary(output)
    except UsageError:  # it is damaged, and written anew
        return
    if before is None or before.of is None or before.of == of:
        return
    was = " by ".join(os.path.normpath(output / part) for part in before.of.values() if part)
    raise UsageError(
        f"{output} holds the scores of {was}",
        allowed="one folder for the scores of one set of label maps by one set of references",
        next=f"-o {output}-2 for these scores, or delete {output}",
    )


# ---------------------------------------------------------------- what to score


def _record(folder: Path) -> dict[str, Any]:
    """What ``predict`` wrote down; empty where the label maps come from elsewhere."""
    record = read_predictions(folder)
    return record.model_dump(exclude_unset=True) if record else {}


class MadeBy(NamedTuple):
    """Runs that made a prediction, the subjects whose labels they saw, and those whose images pre-training saw."""

    runs: tuple[str, ...]
    labelled: frozenset[str] | None  # None where nobody wrote it down
    pretraining: frozenset[str] | None


def _made_by(record: Mapping[str, Any], scan: str) -> MadeBy:
    entry = record.get("scans", {}).get(scan)
    facts = {**record, **entry} if isinstance(entry, Mapping) else record
    runs = facts.get("runs") or ([facts["run"]] if facts.get("run") else [])
    labelled, pretraining = (
        None if subjects is None else frozenset(subjects)
        for subjects in (facts.get("labelled_subjects"), facts.get("pretraining_subjects"))
    )
    return MadeBy(tuple(runs), labelled, pretraining)


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by scan id."""
    _refuse_no_folder(folder)
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and suffix_of(path))
    return {path.name[: -len(suffix_of(path))].removesuffix(".seg"): path for path in files}


def _refuse_no_folder(folder: Path, *, next: str = "run `lemis predict` first, or check the path") -> None:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder",
            allowed="a folder of label maps",
            next=next,
        )


def _told(predictions: Path, references: Path | None, index: indexing.Index | None, record: Mapping[str, Any]) -> Told:
    """Subjects, references and structures: of scans from elsewhere as ``predict`` found them, else by the index."""
    entries = record.get("scans", {})
    foreign = {id: entry["scan"] for id, entry in entries.items() if entry.get("scan") and entry.get("inputs")}
    own = [scan for scan in index.scans if scan.id not in foreign] if index else []
    subjects = {scan.id: scan.subject for scan in own} | {id: scan["subject"] for id, scan in foreign.items()}
    if references is not None:
        _refuse_no_folder(
            references, next=f"--references {references.parent}" if references.is_file() else "check the path"
        )
        wanted = layouts.references(references, _label_maps(predictions).keys())
        subjects = {id: _subject(id, references, wanted[id]) for id in wanted} | subjects
    else:
        wanted = {scan.id: indexing.locate(index, scan.label) for scan in own if scan.label and index}
        wanted |= {id: Path(scan["label"]) for id, scan in foreign.items() if scan["label"]}
        if not wanted and index is None:
            raise UsageError(
                f"{predictions} has no index.json beside it, and its scans had no labels beside them",
                allowed="a work folder, or a folder of label maps and one of references named alike",
                next=f"lemis evaluate {predictions} --references LABELS",
            )
    if index is not None:
        named = {name: value for name, value in index.labels.items() if value != 0}
        return Told(subjects, wanted, named, index.ignored)
    named = record.get("structures") or _declared(predictions, references)
    return Told(subjects, wanted, named, tuple(record.get("ignored_values", ())))


def _subject(id: str, folder: Path, file: Path) -> str:
    """Of a label map from who knows where: as a ``subjects.csv`` beside it says, else by its name."""
    table = csv_list.subjects(folder)
    return table.get(id) or subject_of(id, picture=is_picture(file))


def _declared(predictions: Path, references: Path | None) -> dict[str, int]:
    """Structures as a ``dataset.json`` names them: with the references, beside their folder, or with the label maps."""
    for folder in (references, references and references.parent, predictions):
        labels = dataset_json.read(folder / "dataset.json").labels if folder is not None else {}
        if labels:
            return {name: value for name, value in labels.items() if value != 0}
    return {}


def _people(record: Mapping[str, Any], subjects: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Of each subject, who that is in the data set of the runs, by any of its scans that is known there."""
    found: dict[str, set[str]] = {}
    for id, entry in record.get("scans", {}).items():
        found.setdefault(subjects.get(id, id), set()).update(entry.get("known_as", ()))
    return {subject: frozenset(people) for subject, people in found.items() if people}


def _cases(
    predictions: Path, told: Told, record: Mapping[str, Any], runs: Sequence[str] | None
) -> tuple[list[Case], dict[str, list[str]]]:
    """Scans to score, and those that are not, by reason."""
    predicted = _label_maps(predictions)
    people = _people(record, told.subjects)
    cases, unlabelled, outside, others = [], [], [], []
    test = record.get("test_subjects")
    for scan, path in predicted.items():
        subject = told.subjects.get(scan, scan)
        who = people.get(subject, frozenset({subject}))
        case = Case(scan, subject, path, told.references.get(scan, path), *_made_by(record, scan), who)
        if scan not in told.references:
            unlabelled.append(scan)
        elif runs is not None and not set(case.runs) <= set(runs):
            others.append(scan)
        elif test and case.subject not in test and not _leaks(case):
            outside.append(scan)
        else:
            cases.append(case)
    if not cases:
        raise UsageError(
            f"none of the {len(predicted)} predictions in {predictions}{_such_as(predicted)} has a reference"
            f"{_such_as(told.references)} to score it by",
            allowed="label maps named like their scans (or like the files of the reference folder)",
            next="predict scans that have labels and were not trained on, or give a folder of references",
        )
    return cases, {
        "no reference": unlabelled,
        "subject outside the test fold": outside,
        **({"made by other runs": others} if others else {}),
    }


def _such_as(names: Iterable[str]) -> str:
    first = next(iter(names), None)
    return "" if first is None else f" (such as {shown(first, quoted=False)})"


def _with_what_all_saw(cases: Sequence[Case], work: Path) -> list[Case]:
    """Of a label map without a record, the subjects that every network here saw: whichever made it saw them too."""
    if all(case.labelled is not None for case in cases):
        return list(cases)
    models = (run_files.find_model(run) for run in sorted((work / "runs").glob("*")))
    seen = [frozenset(model.labelled_subjects) for model in models if isinstance(model, run_files.FinetunedModel)]
    by_all = frozenset.intersection(*seen) if seen else frozenset[str]()
    return [
        case._replace(labelled=by_all) if case.labelled is None and not case.people.isdisjoint(by_all) else case
        for case in cases
    ]


def _by_label(case: Case, label_digest: str, record: Mapping[str, Any]) -> Case:
    """The case with who it is by its reference too: an image may have been changed, its label is still the same."""
    known = record.get("known_labels", {}).get(label_digest)
    own = record.get("scans", {}).get(case.scan, {}).get("inputs") is None
    return case if known is None or own else case._replace(people=case.people | {known})


def _leaks(case: Case) -> bool:
    return case.labelled is not None and not case.people.isdisjoint(case.labelled)


def _scored_on(work: Path, index: indexing.Index, cases: Sequence[Case]) -> list[str]:
    """What became of the scans that the runs were scored on in training: nothing, mostly.

    Raises:
        UsageError: What a run was trained on changed since, so that its predictions are not those of the present data.
    """
    held_out: list[str] = []
    for run in sorted({run for case in cases for run in case.runs}):
        changes = freshness.since_training(work, index, run)
        if changes.trained:
            made = run_files.read_environment(work / "runs" / run)
            command = made.command if made else "nobody wrote the command down"
            raise UsageError(
                f"{work / 'runs' / run} was trained on another state of the data: {'; '.join(changes.trained)}",
                allowed="predictions of networks that were trained on the scans and labels as they are now",
                next=f"what trained it, again: {command}",
            )
        held_out += [f"{run}: {change}" for change in changes.held_out]
    return held_out


def _refuse_other_weights(work: Path, cases: Sequence[Case], record: Mapping[str, Any]) -> None:
    """Label maps of before a run was trained anew are not its own any more."""
    there = {run for case in cases for run in case.runs if (work / "runs" / run / run_files.WEIGHTS).is_file()}
    now = {run: material.digest_of_file(work / "runs" / run / run_files.WEIGHTS) for run in there}
    for case in cases:
        weights = record.get("scans", {}).get(case.scan, {}).get("weights", ())
        for run, before in zip(case.runs, weights, strict=False):  # a record of somebody else may name none
            if now.get(run, before) != before:
                raise UsageError(
                    f"{case.prediction} was predicted before {work / 'runs' / run} was trained anew",
                    allowed="predictions of the networks as they are now",
                    next=f"lemis predict {' '.join(str(work / 'runs' / one) for one in case.runs)}",
                )


def _refuse_leakage(cases: Sequence[Case]) -> None:
    leaked = [case for case in cases if _leaks(case)]
    if leaked:
        named = sorted({_named(case) for case in leaked})
        raise UsageError(
            f"{len(leaked)} of {len(cases)} predictions are of subjects that training saw with labels: "
            f"{', '.join(named[:5])}",
            allowed="scans of subjects that were held out",
            next=f"predict the held-out subjects only, or remove {leaked[0].prediction.name} and its like; name other "
            "people of the same name otherwise, in a subjects.csv (id,subject) beside the scans, and predict again",
        )


def _named(case: Case) -> str:
    """``x1, which is patient001`` where the content tells another one than the name."""
    others = sorted(case.people - {case.subject})
    return f"{case.subject}, which is {' or '.join(others)}" if others else case.subject


def _numbered(cases: Sequence[Case]) -> dict[str, int]:
    """Names and values of the structures of references, where no data set says them: their own names, or numbers."""
    found = [
        (label.source.segments, np.unique(label.array).tolist())
        for label in (label_maps.read(case.reference) for case in cases)
    ]
    named = label_maps.numbering(segments for segments, _ in found)
    moves = [label_maps.moved(segments, named) for segments, _ in found]
    values = {move.get(value, value) for move, (_, there) in zip(moves, found, strict=True) for value in there}
    return named | {f"label {value}": value for value in sorted(values - {0, *named.values()})}


def _millimetres(cases: Sequence[Case], record: Mapping[str, Any]) -> str | None:
    """Why there are no millimetres, or None where there are."""
    if record.get("nominal_spacing"):
        return "the spacing of these scans is nominal, so nothing is given in millimetres"
    if any(is_picture(case.reference) for case in cases):
        return "pictures have no spacing, so nothing is given in millimetres"
    return None


# ---------------------------------------------------------------- one scan


class Scored(NamedTuple):
    """Of one scan."""

    rows: list[dict[str, Any]]  # of ``per_case.csv``
    label_digest: str  # of the reference, as ``Facts.label_digest``


def _structured(scan: volume.Volume, ignored: Sequence[int]) -> NDArray[np.int64]:
    labels = label_maps.whole(scan.array, scan.source.path).astype(np.int64)
    return np.where(np.isin(labels, ignored), 0, labels) if ignored else labels


def _score_case(
    case: Case,
    *,
    structures: Mapping[str, int],
    ignored: Sequence[int],
    millimetres: bool,
    settings: scores.Settings,
) -> Scored:
    reference = label_maps.single(volume.read(case.reference))
    prediction = label_maps.single(volume.read(case.prediction, reference.source.axes))
    reference = label_maps.renumbered(label_maps.placed(reference, prediction.source), structures)
    prediction = label_maps.renumbered(prediction, structures)
    _refuse_other_grid(case, prediction, reference)
    maps = _structured(prediction, ignored), _structured(reference, ignored)
    for labels, path in zip(maps, (case.prediction, case.reference), strict=True):
        unknown = sorted({int(value) for value in np.unique(labels)} - {0, *structures.values()})
        if unknown:
            raise DataFault(
                f"{path} holds the value{'s' if len(unknown) > 1 else ''} {', '.join(map(str, unknown))}",
                allowed=", ".join(f"{value} ({name})" for name, value in {"background": 0, **structures}.items()),
                next="name the values in dataset.json and run `lemis check` again, or repair the file",
            )
    labels = label_maps.whole(reference.array, case.reference)
    found = scores.score_structures(*maps, structures, reference.spacing_mm, settings)
    farthest_mm = scores.diagonal_mm(reference.array.shape[:3], reference.spacing_mm)
    voxel_ml = abs(float(np.linalg.det(reference.affine[:3, :3]))) / 1000 if millimetres else math.nan
    rows = [_row(case, name, result, voxel_ml, millimetres) for name, result in found.items()]
    return Scored([{**row, _FARTHEST: farthest_mm} for row in rows], image_digest([labels]) if labels.any() else "")


def _row(case: Case, structure: str, result: scores.Score, voxel_ml: float, millimetres: bool) -> dict[str, object]:
    return {
        "scan": case.scan,
        "subject": case.subject,
        "structure": structure,
        "dice": result.dice,
        **{name: getattr(result, name) if millimetres else math.nan for name in _IN_MM},
        "reference_ml": result.reference_voxels * voxel_ml,
        "predicted_ml": result.predicted_voxels * voxel_ml,
        "status": result.status,
    }


def _refuse_other_grid(case: Case, prediction: volume.Volume, reference: volume.Volume) -> None:
    shapes = prediction.array.shape[:3], reference.array.shape[:3]
    # A tenth of a voxel: far above the rounding of float32 headers, far below what a person could correct.
    tolerance = 0.1 * min(reference.spacing_mm)
    if shapes[0] == shapes[1]:
        apart = corner_distance_mm(prediction.affine, reference.affine, reference.source.canonical_shape)
        if apart <= tolerance:
            return
        seen = f"{case.prediction} and {case.reference} lie {apart:.3g} mm apart"
    else:
        seen = f"{case.prediction} has shape {shapes[0]}, {case.reference} {shapes[1]}"
    raise DataFault(
        seen,
        allowed="prediction and reference on one grid (shape and affine)",
        next="predict again on the scan that the reference was drawn on (`lemis predict` keeps its grid)",
    )


def _parallel(function: Callable[[Case], Scored], cases: Sequence[Case], jobs: int | None) -> list[Scored]:
    # Threads: reading and the distance transforms are C code that lets go of the interpreter.
    out = terminal.console(stderr=True)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        results = pool.map(function, cases)
        with terminal.progress(out, "scoring", transient=True) as bar:
            return list(bar.track(results, total=len(cases)))


# ---------------------------------------------------------------- summing up


def _who(cases: Sequence[Case], not_scored: Mapping[str, list[str]]) -> dict[str, Any]:
    """Who was tested, and what training had seen of them."""
    tested = sorted({case.subject for case in cases})
    labelled = [case.labelled for case in cases if case.labelled is not None]
    unknown = [case.scan for case in cases if case.labelled is None]
    pretraining = [case.pretraining for case in cases if case.pretraining is not None]
    seen = any(case.pretraining is not None and not case.people.isdisjoint(case.pretraining) for case in cases)
    return {
        "version": VERSION,
        "scans": len(cases),
        "subjects": len(tested),
        "not_scored": not_scored,
        "runs": sorted({run for case in cases for run in case.runs}),
        # Of a label map that nobody wrote down, nobody knows what its network had seen.
        "transductive": True if seen else None if len(pretraining) < len(cases) or unknown else False,
        "training_not_recorded": unknown,
        "subjects_tested": tested,
        "subjects_labelled_in_training": sorted(set().union(*labelled)) if labelled else None,
        "subjects_in_pretraining": sorted(set().union(*pretraining)) if pretraining else None,
    }


def _strange(cases: Sequence[Case], record: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Scans that are far from all that the runs were trained on, and in what."""
    entries = record.get("scans", {})
    found = {case.scan: entries.get(case.scan, {}).get("strange", ()) for case in cases}
    return {scan: [list(one) for one in strangers] for scan, strangers in found.items() if strangers}


def _protocols(
    rows: Sequence[Mapping[str, Any]], structures: Sequence[str], millimetres: str | None, settings: Settings
) -> dict[str, Any]:
    by_structure = {name: [row for row in rows if row["structure"] == name] for name in structures}
    return {
        "default": {
            "what": "per scan, on the reference's own grid, mean over scans",
            "definitions": {**scores.DEFINITIONS, "interval": settings.intervals.definition},
            "tolerance_mm": settings.scores.tolerance_mm,
            "without_millimetres": millimetres,
            "structures": {name: _statistics(found, settings.intervals) for name, found in by_structure.items()},
            "overall": _overall(rows, settings.intervals),
        }
    }


def _paper(record: Mapping[str, Any], work: Path | None, runs: Sequence[str]) -> dict[str, Any] | None:
    """The papers' number: as ``predict`` wrote it, or as the runs scored their held-out fold in training."""
    if record.get("pooled") is not None:
        return {"what": scores.PAPER_DEFINITION, **record["pooled"]}
    if work is None:
        return None
    logs = {run: _held_out(work / "runs" / run) for run in runs}
    if not logs or not all(logs.values()):
        return None
    best = {run: max(lines, key=lambda line: line[_POOLED]) for run, lines in logs.items()}
    keys = dict.fromkeys(key for line in best.values() for key in line if key.startswith(f"{_POOLED}/"))
    means = [line[_POOLED] for line in best.values()]
    return {
        "what": f"{scores.PAPER_DEFINITION}; best scored step of each run, chosen on the test subjects",
        "mean": float(np.mean(means)),
        "std": float(np.std(means)),  # population form, over runs
        "mean_of_last_steps": float(np.mean([lines[-1][_POOLED] for lines in logs.values()])),
        "dice": {
            key.removeprefix(f"{_POOLED}/"): float(np.mean([line[key] for line in best.values()])) for key in keys
        },
        "runs": {run: {"step": line["step"], "mean": line[_POOLED]} for run, line in best.items()},
    }


def _held_out(run: Path) -> list[Figures]:
    """Lines of a run's metrics that hold its score on the held-out fold."""
    return [figures for figures in read_metrics(run) if not math.isnan(figures.get(_POOLED, math.nan))]


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("lemis", "numpy", "scipy")}
    return {"python": platform.python_version(), **packages}


def _statistics(rows: Sequence[Mapping[str, Any]], settings: statistics.Settings) -> dict[str, Any]:
    subjects = [row["subject"] for row in rows]
    status = Counter(row["status"] for row in rows)
    farthest = max((row[_FARTHEST] for row in rows), default=math.inf)
    means = {
        name: statistics.estimate(
            [row[name] for row in rows], subjects, settings, within=(0, 1 if name in _SHARES else farthest)
        )._asdict()
        for name in METRICS
    }
    return {**means, **{name: status[name] for name in ("scored", *COUNTS)}}


def _overall(rows: Sequence[Mapping[str, Any]], settings: statistics.Settings) -> dict[str, Any]:
    """Each scan's mean over its structures first (absent ones left out), then the mean over scans."""
    per_scan: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        per_scan.setdefault(row["scan"], []).append(row)
    means = [
        {
            "subject": found[0]["subject"],
            "status": "scan",
            _FARTHEST: found[0][_FARTHEST],
            **{name: _mean(row[name] for row in found) for name in METRICS},
        }
        for found in per_scan.values()
    ]
    status = Counter(row["status"] for row in rows)
    return {
        **_statistics(means, settings),
        **{name: status[name] for name in ("scored", *COUNTS)},
    }


def _mean(values: Iterable[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _no_nan(tree: Any) -> Any:
    """JSON has no NaN: a number that does not exist is null."""
    if isinstance(tree, Mapping):
        return {key: _no_nan(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_no_nan(value) for value in tree]
    return None if isinstance(tree, float) and math.isnan(tree) else tree


# ---------------------------------------------------------------- on the terminal


def _print(summary: Mapping[str, Any], output: Path) -> None:
    out = terminal.console()
    default = summary["protocols"]["default"]
    level = f"{summary['settings']['intervals']['level']:.0%}"
    who = f"{tables.count(summary['scans'], 'scan')} of {tables.count(summary['subjects'], 'subject')}"
    title = f"{who}; mean over scans, {level} interval below it"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # ASSD and the other forms of the distances are in the files: with them the table is wider than 80 columns.
    heads = {"dice": "Dice", "hd95_mm": "HD95 mm", "nsd": f"NSD {default['tolerance_mm']:g} mm"}
    names = ["dice"] if default["without_millimetres"] else list(heads)
    table.add_column("structure")
    for head in (*(heads[name] for name in names), *COUNTS):
        table.add_column(head, justify="right")
    overall = {"mean of structures": default["overall"]} if len(default["structures"]) > 1 else {}
    for structure, facts in {**default["structures"], **overall}.items():
        means = [_with_interval(facts[name], 1 if name == "hd95_mm" else 3) for name in names]
        table.add_row(structure, *means, *(str(facts[name]) for name in COUNTS))
    terminal.print_table(out, table)
    for line in [*_remarks(summary), f"written: {output}/per_case.csv, summary.json"]:
        out.print(line)


def _with_interval(estimate: Mapping[str, Any], digits: int) -> Text:
    mean, low, high = (estimate[name] for name in ("mean", "low", "high"))
    if math.isnan(mean):
        return Text("-")
    interval = "" if math.isnan(low) else f"\n{low:.{digits}f}-{high:.{digits}f}"
    return Text.assemble(f"{mean:.{digits}f}", (interval, "dim"))


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    default = summary["protocols"]["default"]
    remarks = [f"{len(scans)} not scored: {reason}" for reason, scans in summary["not_scored"].items() if scans]
    if default["without_millimetres"]:
        remarks.append(f"no surface metrics: {default['without_millimetres']}")
    if any(default["overall"][name] for name in ("missed", "invented")):
        distance = "" if default["without_millimetres"] else " and the diagonal of the image"
        remarks.append(f"missed and invented structures count as Dice 0{distance}")
    if summary["subjects"] < 10:
        few = tables.count(summary["subjects"], "subject")
        remarks.append(
            f"{few} {'is' if summary['subjects'] == 1 else 'are'} few: what fails rarely may not be among them"
        )
    unknown = len(summary["training_not_recorded"])
    if 0 < unknown < summary["scans"]:
        remarks.append(f"{unknown} of the predictions are not in predictions.json: nobody knows if they leak")
    if summary["strange"]:
        ways = sorted({kind for strangers in summary["strange"].values() for kind, _ in strangers})
        remarks.append(
            f"{tables.count(len(summary['strange']), 'scan')} unlike what the network was trained on "
            f"({', '.join(ways)}): see predictions.json"
        )
    remarks.append(
        {
            True: "transductive: pre-training saw the images (not the labels) of test subjects",
            False: "not transductive: pre-training saw no image of a test subject",
            None: "what training saw is not known (no predictions.json beside the predictions)"
            if unknown == summary["scans"]
            else "what pre-training saw is not known of all test subjects",
        }[summary["transductive"]]
    )
    if unknown == summary["scans"]:
        remarks.append("so these scans may be among those that the network learned from")
    if "paper" in summary["protocols"]:
        paper = summary["protocols"]["paper"]["mean"]
        remarks.append(f"paper protocol (pooled over slices, network grid): mean Dice {paper:.3f}")
    return remarks
