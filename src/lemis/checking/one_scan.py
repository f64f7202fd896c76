"""One scan, read with its label: what it turned out to be, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from lemis.checking import duplicates
from lemis.checking.faults import Fault, FileReport
from lemis.checking.geometry import grid_faults, header_faults
from lemis.checking.intensities import few_greys, intensity_faults
from lemis.checking.label_map import LabelSeen, examine_label
from lemis.checking.reading import read
from lemis.datasets.index import Index, Scan
from lemis.datasets.scan_facts import with_grid
from lemis.datasets.scans import channel_digests, joined_digest
from lemis.formats import volume
from lemis.formats.paths import file_of
from lemis.formats.source import Source


class Seen(NamedTuple):
    """What one scan turned out to be."""

    scan: Scan  # with its grid and label values; as listed where it could not be read
    faults: tuple[Fault, ...]
    channels: int = 0
    intensities: tuple[tuple[float, float], ...] = ()  # (min, max) per channel
    content: str = ""  # image_digest of all channels; "" for a constant scan
    segments: dict[str, int] = {}  # noqa: RUF012  (never written to)
    sketch: duplicates.Sketch = ()  # of the first channel
    palette: dict[int, str] = {}  # noqa: RUF012  colours of the label's values, where it is a palette picture

    @property
    def has_errors(self) -> bool:
        """Whether one of its faults is an error."""
        return any(fault.is_error for fault in self.faults)


def examine_scan(index: Index, scan: Scan) -> Seen:
    """Read all files of one scan of an index."""
    found: list[Fault] = []
    sources: list[Source] = []
    ranges: list[tuple[float, float]] = []
    digests: list[str] = []
    sketch: duplicates.Sketch = ()
    for image in scan.images:
        report = FileReport(scan.id, image, found)
        path = Path(index.root) / image
        if not file_of(path).exists():
            _missing(scan, report)
            continue
        image_volume = read(path, report)
        if image_volume is not None:
            sources.append(image_volume.source)
            header_faults(image_volume.source, report)
            ranges += intensity_faults(image_volume.array, report)
            if image_volume.source.dtype not in ("P", "PA"):  # has an error of its own
                few_greys(image_volume.array, report)
            digests += channel_digests(image_volume.array)
            sketch = sketch or duplicates.sketch(first_channel(image_volume))
    if len(sources) < len(scan.images) or not sources:
        return Seen(scan, tuple(found))
    for image, source in zip(scan.images[1:], sources[1:], strict=True):
        grid_faults(source, sources[0], "channel", scan.images[0], FileReport(scan.id, image, found))
    label = LabelSeen()
    if scan.label is not None:
        label = examine_label(index, scan, sources[0], digests, FileReport(scan.id, scan.label, found))
    return Seen(
        scan=with_grid(index, scan, sources[0], label.values),
        faults=tuple(found),
        channels=sum(source.channels for source in sources),
        intensities=tuple(ranges),
        content="" if all(low == high for low, high in ranges) else joined_digest(digests),
        segments=label.segments,
        sketch=sketch,
        palette=label.palette,
    )


def first_channel(scan: volume.Volume) -> npt.NDArray[Any]:
    """The first channel of a scan, (X, Y, Z)."""
    return scan.array if scan.array.ndim == 3 else scan.array[..., 0]


def _missing(scan: Scan, report: FileReport) -> None:
    others = [image for image in scan.images if image != report.file]
    if others:
        report.error(
            "missing channel",
            f"is missing, but {others[0]} is there",
            "put the file into the folder, or move the other files of this scan out of it",
        )
    else:
        report.error(
            "label without its image",
            f"is missing, but its label {scan.label} is there",
            "put the image into the folder, or move the label out of it",
        )
