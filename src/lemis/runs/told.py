"""Messages of one command about several runs: what holds for all of them is said once, not in a line for each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from lemis.runs.run import messages


class _Together(NamedTuple):
    idle: list[Path]  # where there was nothing to do
    said: set[Hashable]


_TOGETHER: ContextVar[_Together | None] = ContextVar("together", default=None)


@contextmanager
def together(number: int, what: str) -> Iterator[None]:
    """Around several calls of a verb: those that have nothing to do are said in one line at the end.

    Args:
        number: Of calls.
        what: They make, in the plural: ``runs``.
    """
    here = _Together([], set())
    before = _TOGETHER.set(here)
    try:
        yield
    finally:
        _TOGETHER.reset(before)
    if number == 1 or not here.idle:
        for path in here.idle:
            nothing_to_do(path)
        return
    places = dict.fromkeys(here.idle)
    apart = len(places) > 1
    folder = here.idle[0].parent if apart else here.idle[0]
    of = f"{number} {what} are up to date, nothing to do"
    if len(here.idle) < number:
        of = f"{len(here.idle)} of {number} {what} {'are' if len(here.idle) > 1 else 'is'} up to date"
    messages().print(f"{folder}: {of}" + (f": {', '.join(path.name for path in places)}" if apart else ""))


def nothing_to_do(path: Path) -> None:
    """Say that what was asked for is there already."""
    here = _TOGETHER.get()
    if here is None:
        messages().print(f"{path}: nothing to do")
    else:
        here.idle.append(path)


def is_new(said: Hashable) -> bool:
    """Whether something is yet to be said; among calls that are ``together`` it is the first time only."""
    here = _TOGETHER.get()
    if here is None:
        return True
    before = said in here.said
    here.said.add(said)
    return not before
