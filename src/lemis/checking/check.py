"""Examine a folder of scans: each is read once, in several threads, and then compared with all others."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemis import __version__
from lemis.checking.copies import copies
from lemis.checking.data_set import (
    channel_faults,
    not_stored_parallel,
    other_slice_directions,
    splits_faults,
    unusable_names,
)
from lemis.checking.faults import Fault
from lemis.checking.one_scan import Seen, examine_scan
from lemis.checking.structures import label_faults
from lemis.datasets.index import Index, Scan
from lemis.datasets.scan_facts import complete
from lemis.datasets.scans import file_stamps
from lemis.datasets.split import FILE as SPLITS
from lemis.settings import plain

# Raised whenever scans may be judged otherwise, so that those that were found right before are read again.
_RULES = 4


@dataclass(frozen=True)
class Findings:
    """All of a folder."""

    index: Index  # complete
    faults: tuple[Fault, ...]  # errors first
    seen: tuple[Seen, ...] = field(repr=False)
    known: Mapping[str, Seen] = field(repr=False, default_factory=dict)  # scans without errors, by what they depend on

    @property
    def errors(self) -> int:
        """Number of faults that are errors."""
        return sum(fault.is_error for fault in self.faults)


def examine(
    index: Index,
    jobs: int | None = None,
    done: Callable[[], Any] = lambda: None,
    known: Mapping[str, Seen] = {},
) -> Findings:
    """Read every scan and its label, once.

    Args:
        index: As ``recognise`` lists it, or complete.
        jobs: Scans read at a time; the number of processors (8 at most) where None. They are threads: reading
            and unpacking release Python's lock.
        done: Called after each scan.
        known: The ``known`` of earlier findings; scans whose files have not changed since are not read.
    """
    folder = repr(plain(dataclasses.replace(index, scans=())))

    def task(scan: Scan) -> tuple[str, Seen]:
        key = _fingerprint(index, scan, folder)  # before it is read: what changes meanwhile is read again next time
        result = known.get(key) or examine_scan(index, scan)
        done()
        return key, result

    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        keys, seen = zip(*pool.map(task, index.scans), strict=True) if index.scans else ((), ())
    read = [one for one in seen if one.channels]
    filled = complete(index, (s.scan for s in seen), (s.channels for s in read), (s.segments for s in seen))
    found = [fault for one in seen for fault in one.faults]
    splits = (Path(index.root) / SPLITS).is_file()
    found += channel_faults(filled, read) + label_faults(index, filled, read) + copies(index, read, splits)
    found += unusable_names(filled) + splits_faults(index)
    found += other_slice_directions(filled) + not_stored_parallel(filled)
    found.sort(key=lambda fault: fault.severity)  # "error" < "warning"; stable
    # What is wrong may be mended without a file's changing, by its permissions for one.
    right = {key: one for key, one in zip(keys, seen, strict=True) if key and not one.has_errors}
    return Findings(filled, tuple(found), seen, right)


def _fingerprint(index: Index, scan: Scan, folder: str) -> str:
    """Of all that decides on what is seen of a scan: its files, and what the folder says; "" where one is gone."""
    try:
        facts = (__version__, _RULES, file_stamps(index, scan), plain(scan), folder)
    except OSError:
        return ""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
