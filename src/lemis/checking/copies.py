"""Faults of duplicated scans: the same voxels under two names (how they are found: ``duplicates.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemis.checking import duplicates
from lemis.checking.faults import Fault
from lemis.checking.one_scan import Seen, first_channel
from lemis.datasets.index import Index, Scan
from lemis.datasets.split import FILE as SPLITS
from lemis.errors import LemisError
from lemis.formats import volume


def copies(index: Index, read: Sequence[Seen], splits: bool) -> list[Fault]:
    """Scans that are another one. ``splits``: a file of splits is there, and has to follow the repair."""
    first: dict[str, Seen] = {}
    found = []
    for one in read:
        twin = first.setdefault(one.content or one.scan.id, one)
        if twin is not one:
            found.append(_duplicate(one.scan, twin.scan, splits))
    by_id = {one.scan.id: one.scan for one in first.values()}
    subject_of = {id: scan.subject for id, scan in by_id.items()}
    told: set[str] = set()
    for twin_id, id in duplicates.partners({one.scan.id: one.sketch for one in first.values()}, subject_of):
        relation = None if id in told else _relation(index, by_id[twin_id], by_id[id])
        if relation is not None:
            told.add(id)
            found.append(_duplicate(by_id[id], by_id[twin_id], splits, relation))
    return found


def _relation(index: Index, one: Scan, other: Scan) -> duplicates.Relation | None:
    try:
        arrays = [first_channel(volume.read(Path(index.root) / scan.images[0])) for scan in (one, other)]
    except (LemisError, OSError, MemoryError):  # it was read before, and is gone
        return None
    return duplicates.relation(*arrays, same_subject=one.subject == other.subject)


def _duplicate(scan: Scan, twin: Scan, splits: bool, relation: duplicates.Relation | None = None) -> Fault:
    """``scan`` is ``twin``: voxel by voxel, or related to it."""
    removed = f"remove one of them{f' (from {SPLITS} too)' * splits}"
    joined = f"give both one subject in subjects.csv (id,subject){f' and put both on one side in {SPLITS}' * splits}"
    same_subject, almost = twin.subject == scan.subject, relation is not None and not relation.exact
    how = f", {relation}" if relation is not None and str(relation) else ""
    other = f"of another subject, {twin.subject}: a leak where one is trained on and the other tested"
    whose = "of the same subject" if same_subject else other
    return Fault(
        "warning" if same_subject or almost else "error",
        scan.id,
        scan.images[0],
        "almost the same voxels" if almost else "same voxels twice",
        f"has {'almost ' * almost}the same voxels as {twin.id} ({twin.images[0]}){how}, {whose}",
        removed if same_subject else f"{removed}, or {joined}",
    )
