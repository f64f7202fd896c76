"""Reads one file of a scan; that it cannot be read is a fault of the file."""

from __future__ import annotations

from pathlib import Path

from lemis.checking.faults import FileReport
from lemis.errors import LemisError, UsageError
from lemis.formats import volume
from lemis.formats.paths import suffix_of


def read(path: Path, report: FileReport) -> volume.Volume | None:
    """None for a file that cannot be read; the report then says why."""
    try:
        return volume.read(path)
    except UsageError as error:
        kind = "unreadable DICOM series" if path.is_dir() or suffix_of(path) in ("", ".dcm") else "unreadable file"
        report.error(kind, error.given.removeprefix(str(path)).lstrip("/: "), error.next)
    except (LemisError, OSError, MemoryError) as error:
        report.error("unreadable file", f"{path}: {error}", "copy or export the file again")
    return None
