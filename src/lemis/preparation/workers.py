"""What is done to one scan in a worker process: prepare it, measure its structures, find its keypoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_digest, image_grid, label_digest, label_on, read_image, read_label
from lemis.errors import DataFault, UsageError
from lemis.measure.tables import count
from lemis.preparation import keypoints as detection
from lemis.preparation import preprocess, store_files
from lemis.preparation.crops import extent_mm
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings
from lemis.preparation.store import Store


@dataclass(frozen=True)
class Failure:
    """Why a scan cannot be prepared."""

    # Errors travel between processes as plain values: an exception with keyword arguments does not unpickle.
    scan: str
    stage: str
    file: str
    given: str
    allowed: str
    next: str


@dataclass(frozen=True)
class Task:
    """One scan to prepare."""

    scan: Scan
    facts: Facts


@dataclass(frozen=True)
class Job:
    """What all scans of one preparation share."""

    index: Index  # without its scans
    folder: Path
    settings: Settings
    label_values: tuple[int, ...]


def prepare_scan(job: Job, task: Task) -> Failure | None:
    """Read, prepare and store one scan, its label too."""
    scan, stage, file = task.scan, "reading", task.scan.images[0]
    try:
        image = read_image(job.index, scan)
        stage = "preparing"
        prepared, facts = preprocess.prepare_image(image.array, task.facts, job.settings)
        facts = dataclasses.replace(facts, image_digest=image_digest([image.array]))
        label = None
        if scan.label is not None:
            stage, file = "reading", scan.label
            seen = read_label(job.index, scan, image)
            stage = "preparing"
            label = preprocess.prepare_label(seen, facts, job.settings, job.label_values, job.index.ignored)
            if label.any():
                facts = dataclasses.replace(facts, label_digest=label_digest(seen))
        stage = "storing"
        store_files.write_scan(job.folder, facts, prepared, label)
    except UsageError as error:
        return Failure(scan.id, stage, file, error.given, error.allowed, error.next)
    except Exception as error:
        error.add_note(f"while {stage} {file} of scan {scan.id}")
        raise
    return None


def measure_extent(index: Index, scan: Scan) -> float | Failure:
    """``crops.extent_mm`` of the label map of one scan."""
    assert scan.label is not None
    try:
        label = label_on(index, scan, image_grid(index, scan))  # it may cover a part of the scan, and be off its middle
        if index.ignored:
            label = np.where(np.isin(label, index.ignored), 0, label)
        return extent_mm(label, scan.spacing_mm, scan.slice_axis)
    except UsageError as error:
        return Failure(scan.id, "reading", scan.label, error.given, error.allowed, error.next)


def find_keypoints(settings: detection.Settings, task: tuple[Store, str]) -> None:
    """Find and store the keypoints of one scan."""
    alone, fingerprint = task  # a store with this scan only; what its keypoints are made from
    found = detection.find_all(alone.image(0), settings)
    store_files.write_keypoints(alone.path, alone.scans[0].id, found, fingerprint)


def refusal(failures: Sequence[Failure], total: int) -> DataFault:
    """The error for scans that cannot be prepared, out of ``total``: it names five, and how to repair the first."""
    shown = [f"scan {one.scan}: {one.stage} {one.file}: {one.given}" for one in failures[:5]]
    more = [f"and {len(failures) - 5} more"] if len(failures) > 5 else []
    first = failures[0]
    return DataFault(
        "\n".join([f"{len(failures)} of {count(total, 'scan')} cannot be prepared", *shown, *more]),
        allowed=first.allowed,
        next=first.next,
    )
