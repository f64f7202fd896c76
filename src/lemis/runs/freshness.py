"""Whether a run is up to date with its scans, by the stamps of their files; only what changed is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_digest, read_image, source_fingerprint
from lemis.errors import DataFault
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.settings import slice_axis_of
from lemis.preparation.store import Store, open_store
from lemis.runs import material
from lemis.runs.material import Seen
from lemis.settings import read_yaml, resolve


class Changes(NamedTuple):
    """What became of the scans of a run since, in words; both are empty where it is up to date."""

    trained: list[str]  # that it was trained on, or the pre-training before it
    held_out: list[str]  # that it was scored on in training: its weights are good still, those scores are not


def since_training(work: Path, index: Index, run: str) -> Changes:
    """Changes since a run of a work folder was trained; none where it is not known on what that was.

    Args:
        work: The work folder.
        index: Its index.
        run: Name of a folder in ``WORK/runs``.
    """
    folder = work / "runs" / run
    before = material.read(folder)
    if before is None or not (work / "prepared" / "meta.json").is_file():
        return Changes([], [])
    store = open_store(work / "prepared")
    trained, held_out = (_changes(store, index, scans) for scans in (before.scans, before.held_out))
    settings = read_yaml(folder / "settings.yaml")
    starts = [settings.get("pretrained"), settings.get("second"), *(settings.get("pseudo_labels") or ())]
    for start in dict.fromkeys(starts):
        if isinstance(start, str):
            trained += [f"{start}: {one}" for one in since_training(work, index, start).trained]
    return Changes(trained, held_out)


def _changes(store: Store, index: Index, before: Mapping[str, Seen]) -> list[str]:
    scans = {scan.id: scan for scan in index.scans}
    prepared = {facts.id: i for i, facts in enumerate(store.scans)}
    there = [id for id in before if id in scans and id in prepared]
    labels = {id: before[id].label is not None for id in there}
    touched = [id for id in there if _is_touched(store, index, scans[id], prepared[id], labels[id])]
    now = {id: before[id] for id in touched}
    for looked_at in (False, True):
        places = [prepared[id] for id in there if id not in touched and labels[id] == looked_at]
        now |= material.seen(store, places, labels=looked_at, known=before)
    said = material.scan_changes(before, now)
    return said + ([f"files changed since they were prepared: {material.named(touched)}"] if touched else [])


def _is_touched(store: Store, index: Index, scan: Scan, i: int, labels: bool) -> bool:
    """Whether files of a scan changed since it was prepared; without ``labels``, whether its image did."""
    settings = resolve(Preparation, store.settings)
    as_prepared = dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis))
    try:
        if source_fingerprint(index, as_prepared) == store.scans[i].source:
            return False
        return labels or image_digest([read_image(index, scan).array]) != store.scans[i].image_digest
    except DataFault:  # a file is gone, or no scan any more
        return True
