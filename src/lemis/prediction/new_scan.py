"""A scan that is to be predicted: whether the network knows its channels, and how it is prepared for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_digest, read_image
from lemis.errors import DataFault, UsageError
from lemis.formats.paths import format_of
from lemis.formats.source import Source
from lemis.preparation import preprocess
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings, slice_axis_of
from lemis.work_files.run import Model


def expect_channels(index: Index, model: Model) -> None:
    """Refuse scans with another number of channels than a run was trained on.

    Raises:
        UsageError: They have.
    """
    if len(index.channels) != len(model.channels):
        raise UsageError(
            f"scans with {len(index.channels)} channels ({', '.join(index.channels)})",
            allowed=f"the {len(model.channels)} the run was trained on: {', '.join(model.channels)}",
            next=_picked(index, len(model.channels)) or "give scans with the same channels in the same order",
        )


def _picked(index: Index, channels: int) -> str:
    """How series are named where too many of a DICOM study were taken as channels; else nothing."""
    files = [index_file.locate(index, file) for scan in index.scans[:1] for file in scan.images]
    if len(index.channels) <= channels or not all(format_of(file) == "dicom" for file in files):
        return ""
    return f"name the series: -i '{index.root}#series={','.join(index.channels[:channels])}'"


def prepared(scan: Scan, index: Index, settings: Settings) -> tuple[NDArray[np.float16], Facts, Source]:
    """A scan as networks see it, (n, C, H, W); what was done to it; and its own grid.

    Args:
        scan: One of ``index``.
        index: In the frame of the runs.
        settings: Of the preparation, as the run was trained on it.

    Raises:
        DataFault: It cannot be read, or not be prepared (values that are no numbers, no contrast); the scan is named.
    """
    # The scan as it was stored is let go with this function.
    try:
        image = read_image(index, scan)
        facts = described(scan, image.source.canonical_shape, image.spacing_mm, settings)
        facts = dataclasses.replace(facts, image_digest=image_digest([image.array]))
        return *preprocess.prepare_image(image.array, facts, settings), image.source
    except DataFault as fault:
        file = index_file.locate(index, scan.images[0])
        if str(file) in fault.given:
            raise
        raise DataFault(f"scan {scan.id} ({file}): {fault.given}", allowed=fault.allowed, next=fault.next) from fault


def described(scan: Scan, shape: Sequence[int], spacing_mm: Sequence[float], settings: Settings) -> Facts:
    """The geometry of a scan of this shape and spacing, before any of it is read."""
    return preprocess.describe(
        id=scan.id, subject=scan.subject, images=scan.images, label=None, shape=shape,
        spacing_mm=spacing_mm, slice_axis=slice_axis_of(settings, scan.slice_axis), settings=settings,
    )  # fmt: skip
