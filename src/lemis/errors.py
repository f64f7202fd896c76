"""Errors that a person can act on. Everything else that is raised is a bug of ours."""

from __future__ import annotations

import errno
import os
import reprlib
from collections.abc import Iterable
from functools import partial
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 3, 8, 8, 8


def shown(value: Any, *, quoted: bool = True) -> str:
    """A value for a message, however long it is: its ``repr``, or a text as it stands, cut in the middle."""
    if isinstance(value, str) and not quoted:
        return value if len(value) <= 120 else f"{value[:80]}...{value[-30:]}"
    return _SHORT.repr(value)


def first_of(words: Iterable[object], most: int) -> str:
    """``a, b, ...``: a list for a message, however long it is."""
    every = list(map(str, words))
    return ", ".join([*every[:most], *(["..."] if len(every) > most else [])])


class LemisError(Exception):
    """Base of every error that Lemis raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(LemisError):
    """Bad input: says what was given, what is allowed, and what to type next.

    Args:
        given: What we got, with its value (``"--fold 7"``).
        allowed: What would have been fine (``"folds are 0 to 4"``).
        next: What to type or do now (``"lemis fit scans/ --fold 0"``).
    """

    exit_code = 2

    def __init__(self, given: str, *, allowed: str, next: str) -> None:
        self.given, self.allowed, self.next = given, allowed, next
        super().__init__(f"{given}\n  allowed: {allowed}\n  next:    {next}")

    def __reduce__(self) -> tuple[partial[UsageError], tuple[str]]:
        """Worker processes send errors back pickled; the default loses the keywords, breaking the pool."""
        return partial(type(self), allowed=self.allowed, next=self.next), (self.given,)


class DataFault(UsageError):
    """A scan that cannot be used as it is: names the file, the values seen and the repair."""

    exit_code = 3


class Interrupted(LemisError):
    """Somebody wants the process to end (SIGTERM, Ctrl-C); what was done so far is kept."""

    exit_code = 130


class TrainingStopped(LemisError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint is kept."""


_FREE = "free some space, or write to another disk with -o"
_RIGHTS = "give yourself the right to (chmod, or ask its owner), or write to a folder of your own with -o"
# What the disk and its owner answer, and what to do then.
_DISK = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f unlimited), or write to another disk with -o",
    errno.EROFS: "write to another disk with -o",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: "put back what was moved or deleted meanwhile",
    errno.ESTALE: "connect the disk again",
    errno.ENODEV: "connect the disk again",
    errno.ENXIO: "connect the disk again",
    errno.ENOTCONN: "connect the disk again",
    errno.EHOSTDOWN: "connect the disk again",
    errno.ETIMEDOUT: "connect the disk again",
    errno.EIO: "look at the disk, which does not answer as it should",
    errno.ENOTDIR: "give a path below a folder: a part of this one is a file",
    errno.EISDIR: "give a file: this is a folder",
    errno.EEXIST: "move what lies there out of the way",
    errno.ENOTEMPTY: "let nothing else write to this folder meanwhile",
    errno.ENAMETOOLONG: "give a shorter path or name",
    errno.ELOOP: "mend the links, which lead to one another",
    errno.EBUSY: "close what uses it",
    errno.ETXTBSY: "close what uses it",
    errno.EMFILE: "raise the limit on open files (ulimit -n 4096)",
    errno.ENFILE: "close other programs: too many files are open on this machine",
    errno.ENOLCK: "write to a disk that knows locks with -o",
}


def of_disk(error: OSError, *, again: str = "the same command again") -> UsageError | None:
    """What the disk refused, as an error that a person can act on; None where the error is none of the disk's.

    Args:
        error: What the system raised. Without a file name it is of the output that the process was given.
        again: The command to type once it is mended.
    """
    cure = _DISK.get(error.errno or 0)
    if cure is None:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output of this command"
    reason = os.strerror(error.errno or 0)
    return UsageError(
        f"{where}: {reason[:1].lower()}{reason[1:]}",
        allowed="files that can be read, folders that can be written to, and space on the disk",
        next=f"{cure}; then {again}, which goes on where it was",
    )
