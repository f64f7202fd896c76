"""Other faults of the data set as a whole: number of channels, names, the folder's own splits, slice directions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lemis.checking.faults import Fault, bracketed
from lemis.checking.one_scan import Seen
from lemis.datasets import frame
from lemis.datasets.index import Index, unfit_names
from lemis.datasets.split import FILE as SPLITS
from lemis.datasets.split import faults_of_splits, in_no_fold
from lemis.measure.tables import count

# Two stacks that cross at a wider angle show different views of the body.
OTHER_VIEW_DEGREES = 45.0


def channel_faults(index: Index, read: Iterable[Seen]) -> list[Fault]:
    """Scans with another number of channels than the data set has."""
    return [
        Fault(
            "error",
            one.scan.id,
            one.scan.images[0],
            "number of channels",
            f"{count(one.channels, 'channel')} in {count(len(one.scan.images), 'file')}, but the data set has "
            f"{len(index.channels)} ({', '.join(index.channels)})",
            "give every scan the same channels, or correct channel_names in dataset.json",
        )
        for one in read
        if one.channels != len(index.channels)
    ]


def unusable_names(index: Index) -> list[Fault]:
    """Names inside of files (segments, series) that no later command could write down."""
    return [
        Fault("error", "", "", "unusable name", words, "rename it in the file that holds it")
        for words in unfit_names(index)
    ]


def splits_faults(index: Index) -> list[Fault]:
    """What every later command will say of the folder's own splits."""
    file = Path(index.root) / SPLITS
    subject_of = {scan.id: scan.subject for scan in index.scans if scan.label is not None}
    if not file.is_file() or not subject_of:
        return []
    wrong = [
        Fault("error", "", SPLITS, "unusable splits", fault.given, fault.next)
        for fault in faults_of_splits(file, subject_of)
    ]
    if wrong:
        return wrong
    alone = in_no_fold(file, subject_of)
    if not alone:
        return []
    shown = ", ".join(alone[:5]) + ", ..." * (len(alone) > 5)
    seen = f"{len(alone)} of {len(set(subject_of.values()))} labelled subjects are in no fold: {shown}"
    return [Fault("warning", "", SPLITS, "labels that no fold uses", seen, f"add their scans to {SPLITS}")]


def other_slice_directions(index: Index) -> list[Fault]:
    """Scans whose slices do not lie as those of most scans do, by the angle between them."""
    found = frame.stacks(index.scans)
    if not found:
        return []
    usual = found[0]
    angles = [(scan, frame.degrees_from(scan, usual.direction)) for scan in index.scans if scan.axes]
    return [
        Fault(
            "warning",
            scan.id,
            scan.images[0],
            "different slice direction",
            f"spacing {bracketed(scan.spacing_mm)} mm: {frame.view(scan.axes[scan.slice_axis])} slices (axis "
            f"{scan.slice_axis}), {degrees:.0f} degrees from those of most scans, {frame.view(usual.direction)} (axis "
            f"{usual.axis})",
            "a network that reads slices would see another view of the body; leave the scan out if that is not meant",
        )
        for scan, degrees in angles
        if degrees > OTHER_VIEW_DEGREES
    ]


def not_stored_parallel(index: Index) -> list[Fault]:
    """Scans that no one frame stores as it stores others that lie nearly as they do."""
    scans = frame.not_parallel(index)
    if not scans:
        return []
    return [
        Fault(
            "warning",
            "",
            scans[0].images[0],
            "similar scans stored differently",
            f"{len(scans)} scans, such as {' and '.join(scan.id for scan in scans[:2])}, lie within "
            f"{frame.NEARLY_PARALLEL_DEGREES:.0f} degrees of others, but no common orientation suits them "
            "all: some are turned or mirrored against the others",
            "fine where images may be turned or mirrored; otherwise prepare these scans in a folder of their own",
        )
    ]
