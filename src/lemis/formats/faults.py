"""Errors for scan files: what a library says of a damaged one, and values that are not intensities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemis.errors import DataFault, LemisError
from lemis.formats.names import readable


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """For every call of a library that reads a file: whatever the library raises becomes a fault of that file.

    Keep our own code out of it, so that a bug of ours is not taken for a damaged scan.
    """
    try:
        yield
    except LemisError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataFault:
    """The error for a file that a library could not read, with the library's reason in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # ITK puts the place in its own code first, and the reason last.
    reason = lines[-1] if "ITK" in str(error) or "itk::" in str(error) else " ".join(lines)
    return DataFault(
        f"{path} cannot be read: {readable(reason)}",
        allowed="a complete file of the format that its name says",
        next="copy or export the file again, or leave it out",
    )


def not_an_intensity(path: Path, what: str, repair: str) -> DataFault:
    """The error for a file that holds something other than one real number per voxel and channel."""
    return DataFault(f"{path} holds {what}", allowed="one real number per voxel and channel", next=repair)
