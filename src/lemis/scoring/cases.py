"""Which label maps are scored by which references, under what names, and what their networks had been trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lemis.datasets import dataset_json, label_names, subjects_csv
from lemis.datasets import index as indexing
from lemis.datasets.identity import subject_of
from lemis.errors import UsageError, shown
from lemis.formats import labels as label_maps
from lemis.formats.paths import all_maps_by_scan, is_picture
from lemis.work_files.predictions import Predictions


class Case(NamedTuple):
    """One scan to score, and what the networks that segmented it were trained on."""

    scan: str
    subject: str
    prediction: Path
    reference: Path
    runs: tuple[str, ...]
    labelled: frozenset[str] | None  # subjects; None where it was not recorded
    pretraining: frozenset[str] | None  # subjects whose images pre-training saw; None where it was not recorded
    unlabelled: frozenset[str]  # subjects whose images fine-tuning saw without their labels
    people: frozenset[str]  # who the subject is in the data set of the runs: by content, else by name

    @property
    def leaks(self) -> bool:
        """Whether training saw labels of the subject."""
        return self.labelled is not None and not self.people.isdisjoint(self.labelled)


class Told(NamedTuple):
    """What is known of scans beside their label maps."""

    subjects: Mapping[str, str]
    references: Mapping[str, Path]
    structures: Mapping[str, int]  # foreground; empty where nothing names any
    ignored: tuple[int, ...]


def refuse_no_folder(folder: Path, *, next: str = "run `lemis predict` first, or check the path") -> None:
    """Refuse what is no folder.

    Raises:
        UsageError: It is a file, or not there.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder",
            allowed="a folder of label maps",
            next=next,
        )


def told(predictions: Path, references: Path | None, index: indexing.Index | None, record: Predictions) -> Told:
    """Subjects, references and structures: of scans from elsewhere as ``predict`` found them, else by the index.

    Args:
        predictions: Folder of label maps.
        references: Folder of references; None: those that the index or the record names.
        index: Of the work folder, if any.
        record: What ``predict`` wrote of the label maps.

    Raises:
        UsageError: There is no such folder, or nothing says where references are.
    """
    foreign = {id: made.scan for id, made in record.scans.items() if made.scan is not None and made.inputs}
    own = [scan for scan in index.scans if scan.id not in foreign] if index else []
    subjects = {scan.id: scan.subject for scan in own} | {id: scan.subject for id, scan in foreign.items()}
    if references is not None:
        refuse_no_folder(
            references, next=f"--references {references.parent}" if references.is_file() else "check the path"
        )
        wanted = label_names.references(references, _label_maps(predictions).keys())
        subjects = {id: _subject(id, references, wanted[id]) for id in wanted} | subjects
    else:
        wanted = {scan.id: indexing.locate(index, scan.label) for scan in own if scan.label and index}
        wanted |= {id: Path(scan.label) for id, scan in foreign.items() if scan.label}
        if not wanted and index is None:
            raise UsageError(
                f"{predictions} has no index.json beside it, and its scans had no labels beside them",
                allowed="a work folder, or a folder of label maps and one of references named alike",
                next=f"lemis evaluate {predictions} --references LABELS",
            )
    if index is not None:
        named = {name: value for name, value in index.labels.items() if value != 0}
        return Told(subjects, wanted, named, index.ignored)
    return Told(subjects, wanted, record.structures or _declared(predictions, references), record.ignored_values)


def cases(
    predictions: Path, told: Told, record: Predictions, runs: Sequence[str] | None
) -> tuple[list[Case], dict[str, tuple[str, ...]]]:
    """Scans to score, and those that are not, by reason.

    Args:
        predictions: Folder of label maps.
        told: What is known of the scans.
        record: What ``predict`` wrote of the label maps.
        runs: Only what these made; None: all.

    Raises:
        UsageError: None is left.
    """
    predicted = _label_maps(predictions)
    people = _people(record, told.subjects)
    found: list[Case] = []
    unlabelled, outside, others = [], [], []
    for scan, path in predicted.items():
        subject = told.subjects.get(scan, scan)
        who = people.get(subject, frozenset({subject}))
        case = Case(scan, subject, path, told.references.get(scan, path), *_made_by(record, scan), who)
        if scan not in told.references:
            unlabelled.append(scan)
        elif runs is not None and not set(case.runs) <= set(runs):
            others.append(scan)
        elif record.test_subjects and case.subject not in record.test_subjects and not case.leaks:
            outside.append(scan)
        else:
            found.append(case)
    if not found:
        raise UsageError(
            f"none of the {len(predicted)} predictions in {predictions}{_such_as(predicted)} has a reference"
            f"{_such_as(told.references)} to score it by",
            allowed="label maps named like their scans (or like the files of the reference folder)",
            next="predict scans that have labels and were not trained on, or give a folder of references",
        )
    return found, {
        "no reference": tuple(unlabelled),
        "subject outside the test fold": tuple(outside),
        **({"made by other runs": tuple(others)} if others else {}),
    }


def structures(told: Told, cases: Sequence[Case]) -> Mapping[str, int]:
    """Names and values of the structures, as a data set says, else as the references themselves do, or numbered."""
    return told.structures or _numbered(cases)


def without_millimetres(cases: Sequence[Case], record: Predictions) -> str | None:
    """Why there are no millimetres, or None where there are."""
    if record.nominal_spacing:
        return "the spacing of these scans is nominal, so nothing is given in millimetres"
    if any(is_picture(case.reference) for case in cases):
        return "pictures have no spacing, so nothing is given in millimetres"
    return None


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by scan id.

    Raises:
        UsageError: There is no such folder, or two files of it are of one scan.
    """
    refuse_no_folder(folder)
    found = all_maps_by_scan(folder)
    for scan, files in found.items():
        if len(files) > 1:
            raise UsageError(
                f"{scan} has {len(files)} label maps in {folder}: {', '.join(file.name for file in files)}",
                allowed="one label map of each scan",
                next=f"move the others out of {folder}",
            )
    return {scan: files[0] for scan, files in found.items()}


def _made_by(
    record: Predictions, scan: str
) -> tuple[tuple[str, ...], frozenset[str] | None, frozenset[str] | None, frozenset[str]]:
    """Runs that made a label map, the subjects whose labels they saw, and those of whom pre-training or fine-tuning saw
    images alone.
    """
    made = record.made(scan)
    runs = made.runs or ((made.run,) if made.run else ())
    labelled, pretraining = (
        None if subjects is None else frozenset(subjects)
        for subjects in (made.labelled_subjects, made.pretraining_subjects)
    )
    return runs, labelled, pretraining, frozenset(made.unlabelled_subjects)


def _subject(id: str, folder: Path, file: Path) -> str:
    """Of a label map from who knows where: as a ``subjects.csv`` beside it says, else by its name."""
    table = subjects_csv.read(folder)
    return table.get(id) or subject_of(id, picture=is_picture(file))


def _declared(predictions: Path, references: Path | None) -> dict[str, int]:
    """Structures as a ``dataset.json`` names them: with the references, beside their folder, or with the label maps."""
    for folder in (references, references and references.parent, predictions):
        labels = dataset_json.read(folder / "dataset.json").labels if folder is not None else {}
        if labels:
            return {name: value for name, value in labels.items() if value != 0}
    return {}


def _people(record: Predictions, subjects: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Of each subject, who that is in the data set of the runs, by any of its scans that is known there."""
    found: dict[str, set[str]] = {}
    for id, made in record.scans.items():
        found.setdefault(subjects.get(id, id), set()).update(made.known_as)
    return {subject: frozenset(people) for subject, people in found.items() if people}


def _such_as(names: Iterable[str]) -> str:
    first = next(iter(names), None)
    return "" if first is None else f" (such as {shown(first, quoted=False)})"


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
