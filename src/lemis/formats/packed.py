"""Bytes of scan files, packed or not: no memory for a claim that the file cannot keep, and check sums are verified.

A header may claim any size. What it claims is checked against what the file can hold before anything is allocated,
and a packed stream is read to its end, where its check sum and its length stand: a reader that stops at the last
voxel accepts a flipped bit.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault

DEFLATE_RATIO = 1032  # no deflate stream (gzip, zlib, PNG) unpacks to more bytes for each of its own
_CHUNK = 1 << 20
# What may follow the last voxel: FreeSurfer's tags, padding. Beyond it, a few kB could keep a processor busy for hours.
_MOST_AFTER = 64 << 20


def special(path: Path) -> str:
    """What a path is if not a file that ends: a named pipe, say, which would block for ever; ``""`` for others."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(mode), "a device")


def refuse_special(path: Path) -> None:
    """Raises DataFault where ``path`` is ``special``."""
    if what := special(path):
        raise DataFault(
            f"{path} is {what}",
            allowed="a file that lies on a disk",
            next="write the scan into a file, and give that one",
        )


def refuse_claim(path: Path, claimed: int, there: int, what: str, *, ratio: int = 1) -> None:
    """Refuse a claim that ``there`` bytes of a file cannot hold, packed by up to ``ratio``.

    Args:
        path: The file that claims.
        claimed: Bytes of the voxels.
        there: Bytes of the file in which they lie.
        what: The claim in words (``"4 x 5 x 6 of int16"``).
        ratio: How many bytes one byte of the file may stand for.

    Raises:
        DataFault: It is too much.
    """
    if claimed > there * ratio:
        held = f"{there} bytes" + (f", which unpack to {there * ratio} at most" if ratio > 1 else "")
        raise DataFault(
            f"{path} cannot be read: it claims {what}, {claimed} bytes, and holds {held}",
            allowed="a complete file",
            next="copy or export the file again, or leave it out",
        )


def read_gzip(path: Path, start: int, size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """(size,) bytes from byte ``start`` of what a gzip file unpacks to, and how many follow. It is read to its end.

    Raises:
        OSError, EOFError, zlib.error: It is cut short or damaged, or holds less.
    """
    found = np.empty(size, dtype=np.uint8)  # pages that nothing is written to take no memory
    place = -start
    with gzip.open(path) as stream:
        for chunk in _chunks(stream, start + size):
            first, last = max(0, place), min(size, place + len(chunk))
            if last > first:
                found[first:last] = np.frombuffer(chunk, np.uint8)[first - place : last - place]
            place += len(chunk)
    if place < size:
        raise EOFError(f"it unpacks to {place + start} bytes, its header claims {start + size}")
    return found, place - size


def verify_gzip(path: Path, start: int, size: int) -> None:
    """Unpack the gzip stream from byte ``start`` of a file to its end, keeping nothing. Raises like ``read_gzip``."""
    with path.open("rb") as file:
        file.seek(start)
        with gzip.GzipFile(fileobj=file) as stream:
            there = sum(len(chunk) for chunk in _chunks(stream, size))
    if there < size:
        raise EOFError(f"it unpacks to {there} bytes, its header claims {size}")


def read_zlib(path: Path, start: int, size: int, within: int | None = None) -> npt.NDArray[np.uint8]:
    """(size,) first bytes of the zlib stream from byte ``start`` of a file, which is read to its end.

    Args:
        path: The file.
        start: Where the stream begins.
        size: Bytes that are wanted, unpacked.
        within: Packed bytes that the stream may take; all that are there where None.

    Raises:
        EOFError, OSError, zlib.error: It is cut short or damaged, or holds less.
    """
    found = np.empty(size, dtype=np.uint8)
    unpacker, place = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # zlib's or gzip's header
    left = path.stat().st_size if within is None else within
    with path.open("rb") as file:
        file.seek(start)
        while not unpacker.eof:
            piece = unpacker.unconsumed_tail
            if not piece:
                piece = file.read(min(left, _CHUNK))
                left -= len(piece)
            if not piece:
                raise EOFError("the packed voxels end before their check sum")
            chunk = unpacker.decompress(piece, _CHUNK)
            wanted = chunk[: max(0, size - place)]
            found[place : place + len(wanted)] = np.frombuffer(wanted, np.uint8)
            place += len(chunk)
            _refuse_endless(place, size)
    if place < size:
        raise EOFError(f"it unpacks to {place} bytes, its header claims {size}")
    return found


def _chunks(stream: IO[bytes] | Any, wanted: int) -> Iterator[bytes]:
    """A stream to its end, where gzip compares check sum and length."""
    there = 0
    while chunk := stream.read(_CHUNK):
        there += len(chunk)
        _refuse_endless(there, wanted)
        yield chunk


def _refuse_endless(there: int, wanted: int) -> None:
    if there > wanted + _MOST_AFTER:
        raise OSError(f"it unpacks to more than {there} bytes, its header claims {wanted}")
