"""Errors that a person can act on. Everything else that is raised is a bug of ours."""

from __future__ import annotations

import reprlib
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


class TrainingStopped(LemisError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint is kept."""
