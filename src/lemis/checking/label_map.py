"""Faults of one label map by itself: where it lies, and what its values can mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemis.checking.faults import FileReport, bracketed
from lemis.checking.geometry import compare_forms, grid_faults
from lemis.checking.intensities import FEWEST_GREYS
from lemis.checking.reading import read_label
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import channel_digests
from lemis.errors import DataFault, first_of
from lemis.formats import labels, segments, volume
from lemis.formats.pictures import TRANSPARENT
from lemis.formats.source import Source

# A mask may have contours in one or two values of their own; a softened edge has more.
FEWEST_SOFT = 3
_BLACK = "#000000"
MOST_STRUCTURES = 256


class LabelSeen(NamedTuple):
    """What a label turned out to hold."""

    values: tuple[int, ...] = ()  # as the file numbers them
    segments: dict[str, int] = {}  # noqa: RUF012  (never written to)
    palette: dict[int, str] = {}  # noqa: RUF012


def examine_label(
    index: Index, scan: Scan, image: Source, image_digests: Sequence[str], report: FileReport
) -> LabelSeen:
    """Read the label of a scan.

    Args:
        index: Of the scan, as listed.
        scan: With a label.
        image: Of its first channel, whose grid the label must have.
        image_digests: Of its channels.
        report: Of the file of the label.
    """
    label = read_label(Path(index.root) / report.file, report, image.axes)
    if label is None:
        return LabelSeen()
    try:
        label = labels.single(label)
    except DataFault as fault:
        transparent = any(note.kind == TRANSPARENT for note in label.source.notes)
        kind = "mask with transparency" if transparent else "label with several channels"
        report.error(kind, fault.given.removeprefix(str(label.source.path)).strip(), fault.next)
        return LabelSeen()
    for note in label.source.notes:
        report.warning(*note)
    compare_forms(label.source, report)
    label = labels.placed(label, image)
    grid_faults(label.source, image, "label", scan.images[0], report)
    values = _label_values(label.array, report)
    if len(values) > FEWEST_GREYS and channel_digests(label.array)[0] in image_digests:
        report.error(
            "label identical to its scan",
            f"every voxel has the value that it has in {scan.images[0]}",
            "find the label map that belongs there",
        )
    elif len(values) > MOST_STRUCTURES and not index.labels and not label.source.segments:
        report.error(
            "label with too many values",
            f"{len(values)} different values, from {values[0]} to {values[-1]}: it looks like a scan",
            "find the label map that belongs there (are images and labels swapped?), or name its values in "
            "dataset.json",
        )
    if len(values) == 1 and values[0] == 0:
        report.warning(
            "empty label", "no structure is marked", "fine if the scan shows none; otherwise complete the label"
        )
    if label.source.format == "picture" and not index.labels:
        _soft_edges(label, report)
    for name in segments.repeated(label.source.segments):
        same = [f"{value} ({one})" for one, value in label.source.segments.items() if one.startswith(name)]
        report.warning(
            "segments with the same name",
            f"the values {', '.join(same)} are all named {name}; the numbers in brackets were added here",
            "rename or merge them in 3D Slicer",
        )
    palette = labels.palette(label.source, values)
    if palette.get(0, _BLACK) != _BLACK:
        report.warning(
            "palette picture as label",
            f"index 0 is {palette[0]}, not black, and is taken as background",
            "fine if it is the background; otherwise save the mask as greyscale, with 0 for background",
        )
    return LabelSeen(values, label.source.segments, palette)


def _soft_edges(label: volume.Volume, report: FileReport) -> None:
    lossy = label.source.path.suffix.lower() in (".jpg", ".jpeg")
    soft = labels.soft_values(label.array, lossy=lossy)
    if not soft:
        return
    shown = first_of(soft, 6)
    if lossy or len(soft) >= FEWEST_SOFT:
        report.error(
            "mask with soft edges",
            f"{len(soft)} values ({shown}) occur only at edges, between other values: "
            + ("JPEG changes values" if lossy else "a drawing program smoothed them, or the mask was once a JPEG"),
            "save the mask without smoothing, as PNG, with one value per structure; or name its values in dataset.json",
        )
    else:
        report.warning(
            "values at edges only",
            f"{shown}: each is taken as a structure",
            "fine if they are (contours); otherwise save the mask without smoothing",
        )


def _label_values(array: npt.NDArray[Any], report: FileReport) -> tuple[int, ...]:
    unique = np.unique(array)
    if unique.dtype.kind == "f":
        if not np.isfinite(unique).all():
            report.error(
                "invalid label values",
                "some voxels are NaN or infinite",
                "set them to 0 (background)",
            )
            unique = unique[np.isfinite(unique)]
        off = np.abs(unique - np.rint(unique))
        if off.max(initial=0) > labels.INTEGER_TOLERANCE:
            report.error(
                "label values that are not whole numbers",
                f"values such as {bracketed(unique[off > labels.INTEGER_TOLERANCE][:4])}",
                "the label was interpolated: resample the original again, with nearest neighbour",
            )
        elif off.max(initial=0) > 0:
            report.warning(
                "label values close to whole numbers",
                f"up to {off.max():.2g} away from a whole number",
                "they will be rounded",
            )
    within = (unique >= labels.SMALLEST) & (unique <= labels.LARGEST)
    if not within.all():
        report.error(
            "label values beyond 32 bits",
            f"values such as {bracketed(unique[~within][:4])}",
            "set these voxels to 0 (background) if they mark nothing; no label map can hold such values",
        )
    return tuple(sorted({int(value) for value in np.rint(unique[within])}))
