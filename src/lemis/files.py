"""Files are written whole, or the old one stays. And text, as other people's files hold it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lemis.errors import LemisError, UsageError, of_disk

PART = ".part"  # ends the name of a file that is being written; left behind by a process that was killed
# An index of 200,000 scans has as much; what is larger is another file under this name.
MOST_TEXT_BYTES = 64 * 2**20
# Our deepest file has six levels. What is deeper ends every recursive reader behind us.
DEEPEST_JSON = 64
# 2**64 has as many. Python refuses thousands of digits itself, with advice that is not for users.
_MOST_DIGITS = 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` once the block has ended without an error.

    Raises:
        OSError: It cannot be written; names ``path``, whatever wrote the file and however it put it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with naming(path, written=temporary):
            yield temporary
            _on_disk(temporary)  # else a power cut could leave the new name with an empty file
            os.replace(temporary, path)
            _on_disk(path.parent)
    finally:
        with suppress(OSError):  # the error before is the one that counts
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` to write to; its files go to ``folder`` once the block has ended without an error.

    Where it ends with one, what was in ``folder`` before is as it was.

    Raises:
        OSError: It cannot be written; names ``folder``.
    """
    there = folder.exists()
    temporary = folder / f".{os.getpid()}{PART}"
    try:
        with naming(folder, written=temporary):
            temporary.mkdir(parents=True)
            yield temporary
            for file in sorted(file for file in temporary.rglob("*") if file.is_file()):
                place = folder / file.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not there:
            with suppress(OSError):  # it holds files
                folder.rmdir()


@contextmanager
def naming(path: Path, *, written: Path | None = None) -> Iterator[None]:
    """An error of the disk in this block is raised as one about ``path``.

    Libraries put them in their own ways: without the file's name, as the number of bytes that were written, or as
    a RuntimeError of their position in the file.

    Args:
        path: What the user knows the file as.
        written: What is written in its place: a file, or the beginning of the names of several.
    """
    written = written or path
    try:
        yield
    except LemisError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        named = error.filename if isinstance(error, OSError) else None
        if number is not None and named is not None and not str(named).startswith(str(written)):
            raise  # of a file that was read
        number = number or _said_by(error) or _asked_of(written)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _said_by(error: Exception) -> int | None:
    """What a library says of the system's error, in the words of the system or as Rust puts it."""
    said = str(error)
    if found := re.search(r"\(os error (\d+)\)", said):
        return int(found[1])
    return next((number for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if os.strerror(number) in said), None)


def _asked_of(written: Path) -> int | None:
    """Why the disk does not take any more of this file; None where it does."""
    there = written.is_file()
    probe = written if there else written.with_name(f"{written.name}{PART}")
    try:
        with probe.open("ab") as more:
            more.write(bytes(2**20))
    except OSError as error:
        return error.errno
    finally:
        if not there:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
    return None


def require_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before any work; nothing is made.

    Raises:
        UsageError: It, or the nearest one above it that is there, is a file or must not be written to.
    """
    try:
        _ask_rights(folder)
    except OSError as error:
        raise (of_disk(error) or error) from None


def is_writable(folder: Path) -> bool:
    """Whether files can be written to a folder, or it can be made."""
    try:
        _ask_rights(folder)
    except OSError:
        return False
    return True


def _ask_rights(folder: Path) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        number = errno.ENOTDIR if there.exists() else errno.ENOENT  # a link to nothing
        raise OSError(number, os.strerror(number), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(there))


def write(path: Path, content: str | bytes) -> None:
    """Text in UTF-8, or bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folder, and keeps its names in a journal
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, *, next: str) -> str:
    """The text of a file in UTF-8; a byte order mark is dropped.

    Raises:
        UsageError: There is none, it is no file, it cannot be read, it is not UTF-8, or it is larger than any text of
            ours. It names the file, and ``next`` as what to do.
    """
    return decode(read_bytes(path, next=next), where=str(path), next=next)


def read_bytes(path: Path, *, next: str) -> bytes:
    """The content of a file that should be text. Errors as of ``read_text``, but for those of the encoding."""
    allowed = f"a text file of at most {MOST_TEXT_BYTES >> 20} MB"
    try:
        if not path.exists():
            raise UsageError(f"{path} does not exist", allowed=allowed, next=next)
        if not path.is_file():  # opening a named pipe would wait for ever
            raise UsageError(f"{path} is no file", allowed=allowed, next=next)
        with path.open("rb") as stream:
            content = stream.read(MOST_TEXT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", allowed=allowed, next=next) from None
    if len(content) > MOST_TEXT_BYTES:
        raise UsageError(f"{path} has more than {MOST_TEXT_BYTES >> 20} MB", allowed=allowed, next=next)
    return content


def decode(content: bytes, *, where: str, next: str) -> str:
    """Bytes in UTF-8, with or without a byte order mark, as text; ``where`` they are from is for the error."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{where} is not UTF-8: the byte 0x{content[error.start]:02x} in line {line}",
            allowed="text in UTF-8",
            next=next,
        ) from None


def read_json(path: Path, *, next: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        next: What to do where it cannot be read.

    Raises:
        UsageError: As of ``read_text`` and ``parse_json``.
    """
    return parse_json(read_text(path, next=next), where=str(path), next=next)


def parse_json(text: str, *, where: str, next: str) -> Any:
    """What a JSON text holds; ``where`` it stands is for the error.

    Raises:
        UsageError: It is empty, cut off or no JSON; a key stands twice; a number has more than 20 digits; it is nested
            more than 64 deep; or it names half a character (``"\\ud800"``), which no file can hold.
    """
    allowed = "one JSON text"
    if not text.strip():
        raise UsageError(f"{where} is empty", allowed=allowed, next=next)
    try:
        found = json.loads(text, object_pairs_hook=_without_twins, parse_int=_whole)
    except RecursionError:
        found = None
        deep = True
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}", allowed=allowed, next=next
        ) from None
    except ValueError as error:
        raise UsageError(f"{where} {error}", allowed=allowed, next=next) from None
    else:
        deep = _deeper_than(found, DEEPEST_JSON)
    if deep:
        raise UsageError(
            f"{where} is nested more than {DEEPEST_JSON} levels deep", allowed=f"{DEEPEST_JSON} levels", next=next
        )
    if re.search(r"\\ud[89a-f]", text, re.I) and _has_half_characters(found):
        raise UsageError(f"{where} names half a character (\\ud800 to \\udfff alone)", allowed=allowed, next=next)
    return found


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"has the key {twice!r} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits)} digits ({digits[:12]}...)")
    return int(digits)


def _deeper_than(value: Any, levels: int) -> bool:
    """Level by level, as recursion is what is to be spared."""
    level = [value] if isinstance(value, dict | list) else []
    while level and levels:
        levels -= 1
        inside = (part.values() if isinstance(part, dict) else part for part in level)
        level = [part for parts in inside for part in parts if isinstance(part, dict | list)]
    return bool(level)


def _has_half_characters(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
