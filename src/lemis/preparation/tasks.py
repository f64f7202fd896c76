"""What a finished store of a data set looks like, and which scans it still lacks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lemis.datasets import frame
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import source_fingerprint
from lemis.errors import DataFault, UsageError
from lemis.preparation import field_of_view, pool, preprocess, store_files
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings, as_stored, settle_slice_axis, slice_axis_of
from lemis.preparation.slices import in_plane
from lemis.preparation.workers import Failure, Job, Task, measure_extent, refusal
from lemis.settings import plain

VOXELS_PER_S = 30_000_000  # prepared by one process; a new one costs about a second


class Classes(NamedTuple):
    """The structures of a data set."""

    names: tuple[str, ...]  # background first
    values: tuple[int, ...]


class Plan(NamedTuple):
    """What a finished store of images looks like."""

    tasks: Sequence[Task]
    missing: Sequence[Task]
    job: Job
    meta: dict[str, Any]
    note: str | None  # on the field of view


def plan_of(index: Index, settings: Settings, folder: Path, jobs: int | None, console: Console) -> Plan:
    """The plan of a preparation; label maps are read only where the field of view follows from them.

    Args:
        index: Of the scans.
        settings: As asked for.
        folder: The store.
        jobs: Processes, where label maps are read.
        console: For their progress.

    Raises:
        UsageError: Settings that contradict each other, or too many structures.
        DataFault: Label values without a name, or label maps that cannot be read.
    """
    classes, asked = _classes(index), as_stored(settings)
    settings = settle_slice_axis(settings, [scan.slice_axis for scan in index.scans])
    scans = [dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis)) for scan in index.scans]
    index = dataclasses.replace(index, scans=tuple(scans))
    done = {scan.id: store_files.read_facts(folder, scan.id) for scan in index.scans}
    sources = {scan.id: source_fingerprint(index, scan) for scan in index.scans}
    extents = _extents(index, settings, done, sources, jobs, console)
    planes = [in_plane(scan.shape, scan.spacing_mm, scan.slice_axis) for scan in index.scans]
    settled, note = field_of_view.settled(settings, planes, extents, store_files.read_last(folder))
    tasks = [_task(index, scan, settled, classes, sources[scan.id], extents.get(scan.id)) for scan in index.scans]
    return Plan(
        tasks=tasks,
        missing=[task for task in tasks if not _is_done(folder, task, done[task.scan.id], len(index.channels))],
        job=Job(dataclasses.replace(index, scans=()), folder, settled, classes.values),
        meta={
            "scans": [scan.id for scan in index.scans],
            "channels": index.channels,
            "label_names": classes.names,
            "label_values": classes.values,
            "settings": as_stored(settled),
            "frame": frame.of_index(index),
            "asked": asked,
        },
        note=note,
    )


def _classes(index: Index) -> Classes:
    named = {value: name for name, value in index.labels.items()}
    found = {value for scan in index.scans for value in scan.label_values}
    unknown = sorted(found - set(named) - {0, *index.ignored})
    if unknown:
        raise DataFault(
            f"label values {', '.join(map(str, unknown))} occur in {index.root}",
            allowed=f"the named ones: {', '.join(f'{name} {value}' for name, value in index.labels.items())}",
            next="`lemis check` names the scans; correct them, or name the values in dataset.json",
        )
    values = (0, *sorted(value for value in named if value != 0))
    if len(values) > 256:
        raise UsageError(
            f"{len(values)} structures", allowed="at most 255 and the background", next="merge some of them"
        )
    return Classes(tuple(named.get(value, "background") for value in values), values)


def _task(index: Index, scan: Scan, settings: Settings, classes: Classes, source: str, extent: float | None) -> Task:
    facts = preprocess.describe(
        id=scan.id,
        subject=scan.subject,
        images=scan.images,
        label=scan.label,
        shape=scan.shape,
        spacing_mm=scan.spacing_mm,
        slice_axis=scan.slice_axis,
        settings=settings,
    )
    stamp = digest([store_files.VERSION, source, as_stored(settings), classes.values, index.channels])
    return Task(scan, dataclasses.replace(facts, extent_mm=extent, source=source, fingerprint=stamp))


def _extents(
    index: Index,
    settings: Settings,
    done: dict[str, Facts | None],
    sources: dict[str, str],
    jobs: int | None,
    console: Console,
) -> dict[str, float]:
    """Extent of the structures of each labelled scan; empty unless the field of view depends on it."""
    if settings.field_of_view_mm != "auto":
        return {}
    extents: dict[str, float] = {}
    unknown = []
    for scan in index.scans:
        facts = done[scan.id]
        if scan.label is None:
            continue
        if facts is not None and facts.source == sources[scan.id] and facts.extent_mm is not None:
            extents[scan.id] = facts.extent_mm
        else:
            unknown.append(scan)
    found = pool.run(
        partial(measure_extent, dataclasses.replace(index, scans=())),
        unknown,
        jobs,
        console,
        "measured",
        seconds=seconds(unknown),
    )
    failures = [one for one in found if isinstance(one, Failure)]
    if failures:
        raise refusal(failures, len(index.scans))
    return extents | {scan.id: one for scan, one in zip(unknown, found, strict=True) if isinstance(one, float)}


def _is_done(folder: Path, task: Task, done: Facts | None, channels: int) -> bool:
    if done is None or done.fingerprint != task.facts.fingerprint:
        return False
    return store_files.is_whole(folder, done, channels)


def is_meta(folder: Path, meta: dict[str, Any]) -> bool:
    """Whether the store is finished and its ``meta.json`` says exactly this."""
    try:
        written = store_files.read_meta(folder)
    except UsageError:  # damaged, or of another version: written anew
        return False
    return written is not None and all(plain(getattr(written, key)) == plain(value) for key, value in meta.items())


def digest(facts: Any) -> str:
    """16 hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(plain(facts), sort_keys=True).encode()).hexdigest()[:16]


def seconds(scans: Sequence[Scan]) -> float:
    """About how long one process takes to prepare scans."""
    return sum(math.prod(scan.shape) for scan in scans) / VOXELS_PER_S
