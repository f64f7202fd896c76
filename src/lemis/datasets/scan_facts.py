"""What an index says of its scans beside their files: their grids, the values of their labels, and what these mean."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lemis.datasets import frame
from lemis.datasets.index import Index, Scan
from lemis.datasets.layouts.recognised import slice_axis
from lemis.datasets.recognition import recognise
from lemis.formats import labels as label_maps
from lemis.formats import volume
from lemis.formats.source import Source


def scan_folder(root: Path, layout: str | None = None, jobs: int | None = None) -> Index:
    """Recognise a folder and read the grid of every scan and the values of every label.

    Args:
        root: The folder, a CSV file, or one scan.
        layout: A name in ``layouts/recognised.py``; recognised from the folder where None.
        jobs: Threads; the number of processors (8 at most) where None.

    Raises:
        UsageError: Nothing is recognised, or a name is ambiguous.
        DataFault: A file cannot be read. ``check.examine`` collects such faults instead of stopping.
    """
    index = recognise(root, layout).index
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        read = list(pool.map(lambda scan: _read_facts(index, scan), index.scans))
    scans, counts, segments = zip(*read, strict=True)
    return complete(index, scans, counts, segments)


def complete(
    index: Index, scans: Iterable[Scan], channel_counts: Iterable[int], segments: Iterable[dict[str, int]]
) -> Index:
    """The index with its scans read, in one frame; names that nothing declared come from the files, or are numbers.

    Args:
        index: As ``recognise`` lists it.
        scans: With their grids in RAS+ order, and the values that their labels hold.
        channel_counts: Of the scans that could be read.
        segments: Names and values inside the label of each scan; in other files they may be other values.
    """
    scans, segments = tuple(scans), tuple(segments)
    channels, labels = index.channels, dict(index.labels)
    if not channels:
        usual = Counter(channel_counts).most_common(1)
        count = usual[0][0] if usual else 1
        channels = ("image",) if count == 1 else tuple(f"channel {number}" for number in range(count))
    declared = bool(labels)
    if not declared:
        labels = {"background": 0} | label_maps.numbering(segments)
    scans = tuple(_numbered(scan, names, labels) for scan, names in zip(scans, segments, strict=True))
    if not declared:
        for value in sorted({value for scan in scans for value in scan.label_values} - set(labels.values())):
            labels[f"label {value}"] = value
    return frame.settle(dataclasses.replace(index, scans=scans, channels=channels, labels=labels))


def with_grid(index: Index, scan: Scan, source: Source, label_values: tuple[int, ...]) -> Scan:
    """A scan of the index with the facts of its first image."""
    spacing = tuple(round(size, 6) for size in source.spacing_mm)
    return dataclasses.replace(
        scan,
        shape=source.canonical_shape,
        spacing_mm=spacing,
        slice_axis=slice_axis(index.layout, spacing),
        label_values=label_values,
        axes=source.axes,
    )


def _numbered(scan: Scan, segments: Mapping[str, int], labels: Mapping[str, int]) -> Scan:
    moves = label_maps.moved(segments, labels)
    return dataclasses.replace(
        scan, label_values=tuple(sorted({moves.get(value, value) for value in scan.label_values}))
    )


def _read_facts(index: Index, scan: Scan) -> tuple[Scan, int, dict[str, int]]:
    """The scan with its grid and label values, its number of channels, and the names inside its label."""
    root = Path(index.root)
    headers = [volume.read_header(root / image) for image in scan.images]
    values: tuple[int, ...] = ()
    segments: dict[str, int] = {}
    if scan.label is not None:
        label = label_maps.read(root / scan.label)
        values, segments = tuple(np.unique(label.array).tolist()), label.source.segments
    return with_grid(index, scan, headers[0], values), sum(header.channels for header in headers), segments
