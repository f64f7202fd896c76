"""``lemis prepare``: every scan read once, resampled, normalised, and stored for fast reading."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lemis import children, files, terminal
from lemis.datasets import frame
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_digest, read_image, read_label, source_fingerprint
from lemis.errors import DataFault, UsageError
from lemis.formats import labels as label_maps
from lemis.formats.paths import is_picture
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation import keypoints as detection
from lemis.preparation import preprocess, store, store_files
from lemis.preparation.crops import extent_mm
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings, as_stored, settle, settle_slice_axis, slice_axis_of
from lemis.preparation.slices import in_plane
from lemis.preparation.store import Store
from lemis.settings import plain, resolve

Item = TypeVar("Item")
Result = TypeVar("Result")

# A new process costs about a second. What one does meanwhile:
LOCK = ".lock"
VOXELS_PER_S = 30_000_000  # prepared
KEYPOINT_PIXELS_PER_S = 3_000_000  # searched for keypoints
PLAIN_EVERY_S = 5.0


@dataclass(frozen=True)
class _Failure:
    # Errors travel between processes as plain values: an exception with keyword arguments does not unpickle.
    scan: str
    stage: str
    file: str
    given: str
    allowed: str
    next: str


class _Classes(NamedTuple):
    names: tuple[str, ...]  # background first
    values: tuple[int, ...]


@dataclass(frozen=True)
class _Task:
    """One scan to prepare."""

    scan: Scan
    facts: Facts


@dataclass(frozen=True)
class _Job:
    """What all scans of one preparation share."""

    index: Index  # without its scans
    folder: Path
    settings: Settings
    label_values: tuple[int, ...]


class _Plan(NamedTuple):
    """What a finished store of images looks like."""

    tasks: Sequence[_Task]
    missing: Sequence[_Task]
    job: _Job
    meta: dict[str, Any]


def prepare(
    work: Path,
    *,
    settings: Settings | None = None,
    keypoints: detection.Settings | None = None,
    jobs: int | None = None,
    index: Index | None = None,
    trust: Trust = NO_TRUST,
) -> Store:
    """Prepare every scan of ``work/index.json`` into ``work/prepared``; scans already done so are kept.

    Args:
        work: The work folder.
        settings: How; the defaults of ``Settings`` otherwise.
        keypoints: Also find keypoints, so. None: only those that an earlier call asked for, as it did.
        jobs: Processes; by default as many as the processor has, and no more than pay off.
        index: The scans, instead of ``work/index.json``.
        trust: Keypoint detectors that an earlier call may have asked for, beside ``sift``.

    Returns:
        The finished store.

    Raises:
        UsageError: No index, settings that do not go together, or a keypoint detector that there is not.
        DataFault: Scans that cannot be prepared; the others are kept, and a second call tries only those.
    """
    work = Path(work)
    index = index or index_file.load(work / "index.json")
    settings = settings or Settings()
    if not index.scans:
        raise UsageError(
            f"no scan in the index of {index.root}",
            allowed="at least one scan",
            next=f"lemis check SCANS -o {work}",
        )
    if keypoints is not None:
        detection.load_detector(keypoints.detector)
    folder = work / "prepared"
    files.require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    console = terminal.console(stderr=True)
    with _alone(folder, console):
        if keypoints is not None:
            store_files.ask_keypoints(folder, plain(keypoints))
        else:
            _refuse_detector(work, store_files.asked_keypoints(folder), trust)
        plan = _plan(index, settings, folder, jobs, console)
        images = _prepare_images(plan, jobs, console)
        asked = store_files.asked_keypoints(folder)
        points = asked is not None and _find_keypoints(plan, resolve(detection.Settings, asked), jobs, console)
        if not images and not points:
            console.print(f"nothing to do: {len(index.scans)} scans are prepared in {folder}")
        return store.open_store(folder)


@contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """No other process writes into the folder meanwhile; the system lets go of the lock where this one is killed."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"{folder}: another command prepares scans there; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_detector(work: Path, asked: Mapping[str, Any] | None, trust: Trust) -> None:
    """A work folder can come from anybody; the module of its detector is not run unless this user names it."""
    if asked is not None and asked["detector"] not in trust.also("sift"):
        raise UsageError(
            f"{work / 'prepared' / 'keypoints.json'} asks for keypoints by {asked['detector']}, which is not of Lemis",
            allowed="sift; the detector of somebody else where you name it",
            next=f"lemis prepare {work} keypoints.detector={asked['detector']}",
        )


def _prepare_images(plan: _Plan, jobs: int | None, console: Console) -> bool:
    """Prepare what is missing. Returns whether anything was to be done."""
    folder = plan.job.folder
    if not plan.missing and _meta_is(folder, plan.meta):
        return False
    (folder / "meta.json").unlink(missing_ok=True)  # what follows is unfinished until it is written again
    found = _run(
        partial(_prepare_scan, plan.job),
        plan.missing,
        jobs,
        console,
        "prepared",
        seconds=_voxels([task.scan for task in plan.missing]) / VOXELS_PER_S,
    )
    failures = [one for one in found if one is not None]
    if failures:
        raise _fault(failures, len(plan.tasks))
    store_files.write_meta(folder, **plan.meta)
    console.print(_summary(store.open_store(folder), len(plan.missing)))
    return True


def _find_keypoints(plan: _Plan, settings: detection.Settings, jobs: int | None, console: Console) -> bool:
    """Find the keypoints that are missing. Returns whether anything was to be done.

    The store stays open for other runs meanwhile: its images are finished.
    """
    opened = store.open_store(plan.job.folder)
    stamps = {facts.id: _digest([facts.fingerprint, plain(settings)]) for facts in opened.scans}
    missing = [
        facts for facts in opened.scans if store_files.keypoint_fingerprint(opened.path, facts) != stamps[facts.id]
    ]
    if not missing and opened.keypoint_settings == plain(settings):
        return False
    if opened.keypoint_settings is not None:
        store_files.write_meta(opened.path, **plan.meta)
    _run(
        partial(_find_in_scan, settings),
        [(dataclasses.replace(opened, scans=(facts,)), stamps[facts.id]) for facts in missing],
        jobs,
        console,
        "found keypoints in",
        seconds=sum(facts.slices * math.prod(facts.prepared_shape) for facts in missing) / KEYPOINT_PIXELS_PER_S,
    )
    store_files.write_meta(opened.path, **plan.meta, keypoints=plain(settings))
    console.print(_keypoint_summary(store.open_store(opened.path), len(missing)))
    return True


# ----------------------------------------------------------------------------------------- what is to be done


def _plan(index: Index, settings: Settings, folder: Path, jobs: int | None, console: Console) -> _Plan:
    classes, asked = _classes(index), as_stored(settings)
    settings = settle_slice_axis(settings, [scan.slice_axis for scan in index.scans])
    scans = [dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis)) for scan in index.scans]
    index = dataclasses.replace(index, scans=tuple(scans))
    done = {scan.id: store_files.read_facts(folder, scan.id) for scan in index.scans}
    sources = {scan.id: source_fingerprint(index, scan) for scan in index.scans}
    extents = _extents(index, settings, done, sources, jobs, console)
    planes = [in_plane(scan.shape, scan.spacing_mm, scan.slice_axis) for scan in index.scans]
    settled = settle(settings, planes, list(extents.values()))
    tasks = [_task(index, scan, settled, classes, sources[scan.id], extents.get(scan.id)) for scan in index.scans]
    return _Plan(
        tasks=tasks,
        missing=[task for task in tasks if not _is_done(folder, task, done[task.scan.id], len(index.channels))],
        job=_Job(dataclasses.replace(index, scans=()), folder, settled, classes.values),
        meta={
            "scans": [scan.id for scan in index.scans],
            "channels": index.channels,
            "label_names": classes.names,
            "label_values": classes.values,
            "settings": as_stored(settled),
            "frame": frame.of_index(index),
            "asked": asked,
        },
    )


def _classes(index: Index) -> _Classes:
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
    return _Classes(tuple(named.get(value, "background") for value in values), values)


def _task(index: Index, scan: Scan, settings: Settings, classes: _Classes, source: str, extent: float | None) -> _Task:
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
    stamp = _digest([store_files.VERSION, source, as_stored(settings), classes.values, index.channels])
    return _Task(scan, dataclasses.replace(facts, extent_mm=extent, source=source, fingerprint=stamp))


def _is_done(folder: Path, task: _Task, done: Facts | None, channels: int) -> bool:
    if done is None or done.fingerprint != task.facts.fingerprint:
        return False
    return store_files.is_whole(folder, done, channels)


def _meta_is(folder: Path, meta: dict[str, Any]) -> bool:
    try:
        written = store_files.read_meta(folder)
    except UsageError:  # damaged, or of another version: written anew
        return False
    return written is not None and all(plain(getattr(written, key)) == plain(value) for key, value in meta.items())


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(plain(facts), sort_keys=True).encode()).hexdigest()[:16]


def _extents(
    index: Index,
    settings: Settings,
    done: dict[str, Facts | None],
    sources: dict[str, str],
    jobs: int | None,
    console: Console,
) -> dict[str, float]:
    """Reach of the labelled structures per labelled scan; empty unless the field of view depends on it."""
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
    found = _run(
        partial(_extent, dataclasses.replace(index, scans=())),
        unknown,
        jobs,
        console,
        "measured",
        seconds=_voxels(unknown) / VOXELS_PER_S,
    )
    failures = [one for one in found if isinstance(one, _Failure)]
    if failures:
        raise _fault(failures, len(index.scans))
    return extents | {scan.id: one for scan, one in zip(unknown, found, strict=True) if isinstance(one, float)}


# ------------------------------------------------------------------------------------ in the worker processes


def _prepare_scan(job: _Job, task: _Task) -> _Failure | None:
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
            if label.any():  # empty ones are alike in all subjects
                facts = dataclasses.replace(facts, label_digest=image_digest([seen]))
        stage = "storing"
        store_files.write_scan(job.folder, facts, prepared, label)
    except UsageError as error:
        return _Failure(scan.id, stage, file, error.given, error.allowed, error.next)
    except Exception as error:
        error.add_note(f"while {stage} {file} of scan {scan.id}")
        raise
    return None


def _extent(index: Index, scan: Scan) -> float | _Failure:
    assert scan.label is not None
    try:
        label = label_maps.read(index_file.locate(index, scan.label), scan.axes, labels=index.labels).array
        if index.ignored:
            label = np.where(np.isin(label, index.ignored), 0, label)
        return extent_mm(label, scan.spacing_mm, scan.slice_axis)
    except UsageError as error:
        return _Failure(scan.id, "reading", scan.label, error.given, error.allowed, error.next)


def _find_in_scan(settings: detection.Settings, task: tuple[Store, str]) -> None:
    alone, fingerprint = task  # the store with this scan only, and of what its keypoints are
    found = detection.find_all(alone.image(0), settings)
    store_files.write_keypoints(alone.path, alone.scans[0].id, found, fingerprint)


# ------------------------------------------------------------------------------ processes, progress, messages


def _run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None,
    console: Console,
    done: str,
    *,
    seconds: float,
) -> list[Result]:
    """``work`` of every item, in their order, in as many processes as pay off for about so many seconds of it."""
    jobs = max(1, min(_processes(seconds) if jobs is None else jobs, len(items)))
    results: dict[int, Result] = {}
    with _progress(console, len(items), done) as advance:
        if jobs == 1:
            # One thread here too: with another number of them, sums are added in another order, and the last bits of
            # an image would depend on the machine.
            with threadpool_limits(1):
                for i, item in enumerate(items):
                    results[i] = work(item)
                    advance(len(results))
        else:
            context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
            pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)
            try:
                waiting = {pool.submit(work, item): i for i, item in enumerate(items)}
                for future in as_completed(waiting):
                    results[waiting[future]] = future.result()
                    advance(len(results))
            except BrokenProcessPool:
                raise UsageError(
                    f"one of {jobs} processes that {done} scans was ended from outside",
                    allowed="processes that are left alone, and memory for as many scans at a time",
                    next="the same command with --jobs 1: out of memory, most likely; what is done is kept",
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
    return [results[i] for i in range(len(items))]


def _processes(seconds: float) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(seconds))


def _voxels(scans: Sequence[Scan]) -> int:
    return sum(math.prod(scan.shape) for scan in scans)


def _begin() -> None:
    children.end_with_parent()
    threadpool_limits(1)  # the processes share the cores already
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read when OpenCV is imported; threadpoolctl does not know it


@contextmanager
def _progress(console: Console, total: int, done: str) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal, a line every few seconds elsewhere."""
    if console.is_terminal:
        with terminal.progress(console, done, "{task.fields[rate]}") as bar:
            task, start = bar.add_task(done, total=total, rate=""), time.monotonic()

            def advance(count: int) -> None:
                rate = count / max(1e-9, time.monotonic() - start)
                bar.update(task, completed=count, rate=f"{rate:.1f} scans/s")

            yield advance
        return
    start = said = time.monotonic()

    def say(count: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < PLAIN_EVERY_S and count < total:
            return
        rate, said = count / max(1e-9, now - start), now
        console.print(f"{done} {count}/{total} scans, {rate:.1f} scans/s, {(total - count) / rate:.0f} s left")

    yield say


def _fault(failures: Sequence[_Failure], total: int) -> DataFault:
    shown = [f"scan {one.scan}: {one.stage} {one.file}: {one.given}" for one in failures[:5]]
    more = [f"and {len(failures) - 5} more"] if len(failures) > 5 else []
    first = failures[0]
    return DataFault(
        "\n".join([f"{len(failures)} of {count(total, 'scan')} cannot be prepared", *shown, *more]),
        allowed=first.allowed,
        next=first.next,
    )


def _summary(opened: Store, new: int) -> str:
    slices = sum(facts.slices for facts in opened.scans)
    labelled = sum(facts.labelled for facts in opened.scans)
    return (
        f"prepared {new} of {count(len(opened.scans), 'scan')}, {labelled} labelled, "
        f"{count(len(opened.subjects), 'subject')}: "
        f"{count(slices, 'slice')} {_grid(opened)}, {count(opened.num_classes - 1, 'structure')}, "
        f"{opened.nbytes_resident / 1e6:.0f} MB in memory; {opened.path}"
    )


def _grid(opened: Store) -> str:
    """What the prepared slices, or volumes, became."""
    rows, cols = opened.common_shape
    most = max(facts.slices for facts in opened.scans)
    spacing, through = opened.settings["spacing_mm"], opened.settings.get("slice_spacing_mm")
    if opened.settings.get("whole_px") is not None:
        return f"in volumes of {most} x {rows} x {cols} voxels"
    pictures = all(is_picture(Path(file)) for facts in opened.scans for file in facts.images)
    unit = "of the pictures' pixels" if pictures else "mm"
    at = f"at {spacing:.4g} {unit}" if isinstance(spacing, float) else "at native spacing"
    if through is None:
        return f"up to {rows} x {cols} pixels {at}"
    return f"in volumes up to {most} x {rows} x {cols} voxels, slices {through:.4g} mm apart, pixels {at}"


def _keypoint_summary(opened: Store, new: int) -> str:
    found = np.concatenate([opened.keypoints(i).count for i in range(len(opened.scans))])
    settings = opened.keypoint_settings or {}
    scans, slices = count(len(opened.scans), "scan"), count(len(found), "slice")
    return (
        f"found keypoints ({settings['detector']}, {settings['most']} at most) in {new} of {scans}: "
        f"{np.median(found):g} per slice in the median, none in {np.sum(found == 0)} of {slices}"
    )
