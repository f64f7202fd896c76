"""``suggestions/suggestions.json`` and ``.csv``: which scans to label next, and why."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

from lemis import files
from lemis.records import Count, Name, Record, find, guarded, write

FOLDER, RECORD, TABLE = "suggestions", "suggestions.json", "suggestions.csv"


class Suggestion(Record):
    """A subject, and the scan of it to label."""

    scan: Name
    subject: str
    why: str  # it was chosen
    audit: bool = False  # it was drawn at random, so that some of the labels are of subjects like the others
    score: float  # it was chosen by; its meaning is the method's own
    nearest_labelled: str | None = None  # subject; None: none is labelled
    distance: float | None = None  # to it
    disagreement: dict[str, float] | None = None  # of networks, by structure; None: not measured
    entropy: float | None = None
    images: tuple[str, ...] = ()  # files of the scan
    other_scans: tuple[Name, ...] = ()  # of the subject
    proposals: tuple[str, ...] = ()  # in the folder: label maps to correct
    label: str | None = None  # where the corrected one goes; None: see ``place``
    place: str = ""  # the same in words


class Coverage(Record):
    """Share of the unlabelled subjects that are near to a labelled one."""

    before: float
    after: float  # with the suggested ones


class Suggestions(Record):
    """What was suggested, and from what."""

    version: Literal[1] = 1
    method: str
    settings: dict[str, Any]
    seed: Count
    subjects: Count
    labelled: Count
    embedding: str | None  # the pre-training run whose encoder saw the scans; None: grid and intensities alone
    networks: tuple[Name, ...] = ()  # runs that segmented the unlabelled scans
    explained: float  # share of the variance of all features that the embedding holds
    coverage: Coverage
    notes: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...]


def read(folder: Path) -> Suggestions | None:
    """What was suggested last; None where nothing was.

    Raises:
        UsageError: The file is damaged.
    """
    again = f"delete {folder / RECORD} and run the same `lemis suggest` again"
    found: Suggestions | None = find(folder / RECORD, Suggestions, next=again)
    return found


def save(folder: Path, record: Suggestions) -> None:
    """Replace both files."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / RECORD, record)
    files.write(folder / TABLE, _table(record))


def _table(record: Suggestions) -> str:
    structures = list(next((one.disagreement for one in record.suggestions if one.disagreement), {}))
    out = io.StringIO(newline="")
    lines = csv.writer(out, lineterminator="\n")
    columns = ("rank", "scan", "subject", "why", "score", "nearest_labelled", "distance", "entropy", "label", "audit")
    lines.writerow([*columns, *(guarded(f"disagreement {name}") for name in structures)])
    for rank, one in enumerate(record.suggestions, start=1):
        texts = [guarded(text or "") for text in (one.scan, one.subject, one.why)]
        told = one.disagreement or {}
        lines.writerow([
            rank, *texts, _number(one.score), guarded(one.nearest_labelled or ""), _number(one.distance),
            _number(one.entropy), guarded(one.label or ""), str(one.audit).lower(),
            *(_number(told.get(name)) for name in structures),
        ])  # fmt: skip
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
