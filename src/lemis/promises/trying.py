"""How promises are tried, and how one that is not kept is reported."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from lemis import plugins
from lemis.errors import UsageError, shown

_OTHERS = (Path(__file__).parents[1], *(Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")))

State = Literal["kept", "broken", "noted"]


class Broken(Exception):
    """A promise that is not kept: what was found instead."""


class NotTried(Exception):
    """A promise that could not be tried, and why."""


def expect(kept: bool, found: str) -> None:
    """Go on where a promise is kept.

    Raises:
        Broken: It is not; says what was found.
    """
    if not kept:
        raise Broken(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A plug-in that is tried, and what is known of it.

    Args:
        name: File name, or the dotted name of a module outside the package.
        where: What else must be set for a setting to have an effect, by setting.
        excused: What is not asked of it, and why: settings that have no effect in what is tried.
    """

    FOLDER: ClassVar[str]  # where files of its kind are

    name: str
    where: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, kw_only=True)
    excused: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def module(self) -> ModuleType:
        """The file."""
        return of_module(self.FOLDER, self.name)


def expect_class(module: ModuleType, name: str, of: type, takes: tuple[str, ...]) -> None:
    """Go on where a class of a module has the base that it should, all of its methods, and is made of ``takes``."""
    cls = getattr(module, name)
    expect(inspect.isclass(cls) and issubclass(cls, of), f"{name} does not inherit from lemis.contracts.{of.__name__}")
    expect(not inspect.isabstract(cls), f"{name} has no forward(self, batch, rng)")
    taken = tuple(inspect.signature(cls).parameters)
    expect(taken == takes, f"{name} takes ({', '.join(taken)})")


def expect_citation(folder: str, name: str) -> None:
    """Go on where the docstring of a file names a paper, its year and its address."""
    cited = of_module(folder, name).__doc__ or ""
    expect(bool(re.search(r"\b(19|20)\d\d\b", cited)), "no year of a paper")
    expect(bool(re.search(r"https://\S+", cited)), "no address of a paper")


@dataclasses.dataclass(frozen=True)
class Tried:
    """One promise, as it was tried."""

    promise: str  # a sentence
    state: State  # noted: not asked of a module outside the package, or not to be tried here
    found: str = ""  # what there was instead
    asked: str = ""  # what is asked, and what to do


def attempt(promise: Callable[..., None], *given: Any, of: str = "", needed: bool = True) -> Tried:
    """Try one promise.

    Args:
        promise: A function that raises where it is not kept.
        given: What it takes.
        of: What it is tried on, where it is tried several times (``in 3D``).
        needed: Whether it is asked of this module; one that is not, and is not kept, is noted.
    """
    sentence = _sentence(promise, of)
    asked = " ".join((promise.__doc__ or "").split())
    try:
        promise(*given)
    except NotTried as error:
        return Tried(sentence, "noted", str(error))
    except Broken as error:
        found = str(error)
    except UsageError as error:
        found = f"{error.given}; allowed: {error.allowed}"
    except Exception as error:
        if isinstance(error, OSError) and not _place(error):  # the disk, and nothing of theirs
            raise
        found = f"{_place(error)}{_said(error)}"
    else:
        return Tried(sentence, "kept")
    return Tried(sentence, "broken" if needed else "noted", found, asked)


def in_turn(
    promises: Iterable[Callable[..., None]],
    subject: Any,
    *,
    of: str,
    same: Callable[..., None],
    compared: Iterable[Callable[..., None]],
) -> Iterator[Tried]:
    """Try promises in order. Where a run differs from itself, what compares two runs would blame something else.

    Args:
        promises: Functions that raise where they are not kept.
        subject: What they take.
        of: As of ``attempt``.
        same: The one of them that asks for the same result with the same random numbers.
        compared: Those that are tried only where it is kept.
    """
    broken, held_back = False, set(compared)
    for promise in promises:
        if broken and promise in held_back:
            yield Tried(_sentence(promise, of), "noted", f"not tried before this is kept: {_sentence(same, of)}")
            continue
        one = attempt(promise, subject, of=of)
        broken |= promise is same and one.state == "broken"
        yield one


def _sentence(promise: Callable[..., None], of: str) -> str:
    return promise.__name__.replace("_", " ") + (f" ({of})" if of else "")


def _said(error: Exception) -> str:
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # of another process
        return shown(text.splitlines()[-1], quoted=False)
    return f"{type(error).__name__}: {shown(text, quoted=False)}"


def _place(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if not _of_others(Path(frame.filename))]
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}: " if theirs else ""


def _of_others(file: Path) -> bool:
    return any(file.is_relative_to(root) for root in _OTHERS)


def of_module(folder: str, name: str) -> ModuleType:
    """The module that a plug-in is."""
    return plugins.load(folder, name)


def known(module: ModuleType, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Of these settings those that the module has."""
    has = {field.name for field in dataclasses.fields(module.Settings)}
    return {key: value for layer in layers for key, value in layer.items() if key in has}


def names(values: Iterable[str]) -> str:
    """Some of them, for a message."""
    every = sorted(values)
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")
