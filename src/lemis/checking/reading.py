"""Reads one file of a scan; that it cannot be read is a fault of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lemis.checking.faults import FileReport
from lemis.errors import LemisError, UsageError
from lemis.formats import volume
from lemis.formats.directions import Axes
from lemis.formats.paths import may_be_dicom


def read(path: Path, report: FileReport) -> volume.Volume | None:
    """An image; None for a file that cannot be read: the report then says why."""
    return _reported(path, report, lambda: volume.read(path))


def read_label(path: Path, report: FileReport, along: Axes) -> volume.Volume | None:
    """A label map, its axes along those of its image; None as of ``read``."""
    return _reported(path, report, lambda: volume.read_label(path, along))


def _reported(path: Path, report: FileReport, reading: Callable[[], volume.Volume]) -> volume.Volume | None:
    try:
        return reading()
    except UsageError as error:
        kind = "unreadable DICOM series" if path.is_dir() or may_be_dicom(path) else "unreadable file"
        report.error(kind, error.given.removeprefix(str(path)).lstrip("/: "), error.next)
    except (LemisError, OSError, MemoryError) as error:
        report.error("unreadable file", f"{path}: {error}", "copy or export the file again")
    return None
