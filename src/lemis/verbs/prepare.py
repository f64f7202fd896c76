"""``lemis prepare``: every scan read once, resampled, normalised, and stored for fast reading."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from lemis import files, terminal
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.errors import UsageError
from lemis.formats.paths import is_picture
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation import keypoints as detection
from lemis.preparation import pool, store, store_files, tasks, workers
from lemis.preparation.settings import Settings
from lemis.preparation.store import Store
from lemis.settings import plain, resolve

LOCK = ".lock"
KEYPOINT_PIXELS_PER_S = 3_000_000  # searched for keypoints by one process


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
        jobs: Processes; by default as many as the processor has, and no more than save time.
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
        plan = tasks.plan_of(index, settings, folder, jobs, console)
        images = _prepare_images(plan, jobs, console)
        asked = store_files.asked_keypoints(folder)
        points = asked is not None and _find_keypoints(plan, resolve(detection.Settings, asked), jobs, console)
        if not images and not points:
            console.print(f"nothing to do: {len(index.scans)} scans are prepared in {folder}")
        return store.open_store(folder)


@contextmanager
def _alone(folder: Path, console: Console) -> Iterator[None]:
    """Keep other processes from writing into the folder; if this one is killed, the system releases the lock."""
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
    """A work folder can come from anybody: the module of its detector is run only if this user names it."""
    if asked is not None and asked["detector"] not in trust.also("sift"):
        raise UsageError(
            f"{work / 'prepared' / 'keypoints.json'} asks for keypoints by {asked['detector']}, "
            "which is not part of Lemis",
            allowed="sift; another detector if you name it yourself",
            next=f"lemis prepare {work} keypoints.detector={asked['detector']}",
        )


def _prepare_images(plan: tasks.Plan, jobs: int | None, console: Console) -> bool:
    """Prepare what is missing. Returns whether anything was to be done."""
    folder = plan.job.folder
    if not plan.missing and tasks.is_meta(folder, plan.meta):
        return False
    if plan.note is not None:
        console.print(plan.note)
    store_files.begin(folder)  # what follows is unfinished until it is written again
    found = pool.run(
        partial(workers.prepare_scan, plan.job),
        plan.missing,
        jobs,
        console,
        "prepared",
        seconds=tasks.seconds([task.scan for task in plan.missing]),
    )
    failures = [one for one in found if one is not None]
    if failures:
        raise workers.refusal(failures, len(plan.tasks))
    store_files.write_meta(folder, **plan.meta)
    console.print(_summary(store.open_store(folder), len(plan.missing)))
    return True


def _find_keypoints(plan: tasks.Plan, settings: detection.Settings, jobs: int | None, console: Console) -> bool:
    """Find the keypoints that are missing. Returns whether anything was to be done.

    The store stays open for other runs meanwhile: its images are finished.
    """
    opened = store.open_store(plan.job.folder)
    stamps = {facts.id: tasks.digest([facts.fingerprint, plain(settings)]) for facts in opened.scans}
    missing = [
        facts for facts in opened.scans if store_files.keypoint_fingerprint(opened.path, facts) != stamps[facts.id]
    ]
    if not missing and opened.keypoint_settings == plain(settings):
        return False
    if opened.keypoint_settings is not None:
        store_files.write_meta(opened.path, **plan.meta)
    pool.run(
        partial(workers.find_keypoints, settings),
        [(dataclasses.replace(opened, scans=(facts,)), stamps[facts.id]) for facts in missing],
        jobs,
        console,
        "found keypoints in",
        seconds=sum(facts.slices * math.prod(facts.prepared_shape) for facts in missing) / KEYPOINT_PIXELS_PER_S,
    )
    store_files.write_meta(opened.path, **plan.meta, keypoints=plain(settings))
    console.print(_keypoint_summary(store.open_store(opened.path), len(missing)))
    return True


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
