"""YAML as people write it, read strictly: the one reader and the one writer of the package.

Numbers and words are those of YAML 1.2: ``12:30`` and ``2026-11-29`` are text, ``010`` is ten, ``1e-3`` is a number.
What is built are mappings with text as keys, lists, text, numbers, true, false and null, whatever a tag asks for.
Before any of it is built the text is gone through once, so that a few lines that say more than they hold (aliases of
aliases) or a thousand brackets cost nothing.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lemis.errors import UsageError, shown

MOST_CHARACTERS = 2_000_000  # the longest settings of a run, those with the names of 10,000 subjects, have a tenth
MOST_VALUES = 100_000  # aliases counted as often as they stand for something
DEEPEST = 50
MOST_DIGITS = 100  # of a whole number

_INT = re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$")
_FLOAT = re.compile(
    r"""^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$""",
    re.X,
)
_TAG = "tag:yaml.org,2002:"
_OURS = {f"{_TAG}{kind}" for kind in ("int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012  (of a class of PyYAML, which declares it so)
        first: [(tag, pattern) for tag, pattern in known if tag not in _OURS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """With keys as they are written: ``1`` and ``on`` too are text."""
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this reader or another one of YAML would not take for text."""


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if len(text) > MOST_DIGITS:
        raise yaml.constructor.ConstructorError(problem=f"a number of {len(text)} digits", problem_mark=node.start_mark)
    return int(text, 0) if re.match(r"[-+]?0[xo]", text) else int(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}float", _float)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


def load(text: str, name: str) -> Any:
    """What a text says.

    Args:
        text: YAML, one document.
        name: Of the text, for messages.

    Raises:
        UsageError: It is no YAML, or of a kind that is not read: says which line.
    """
    try:
        return copy.deepcopy(_built(text))
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(
            f"{name} cannot be read: {_problem(error)}",
            allowed="YAML: `key: value` lines, lists and numbers",
            next=f"correct {name}",
        ) from None


@functools.lru_cache(maxsize=256)  # one process reads a preset or a plan many times, and PyYAML takes its time
def _built(text: str) -> Any:
    _refuse_excess(text)
    return yaml.load(text, Loader=_Loader)


def read(path: Path) -> Any:
    """What a file says.

    Raises:
        UsageError: There is no such file, or it cannot be read.
    """
    try:
        if not path.is_file():  # a pipe or a device would not end
            raise FileNotFoundError("there is no such file" if not path.exists() else "it is no file")
        if path.stat().st_size > 4 * MOST_CHARACTERS:
            raise ValueError(f"{path.stat().st_size} bytes are too many for settings")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {_problem(error)}", allowed="a YAML file", next="correct the path or the file"
        ) from None
    return load(text, str(path))


def dump(value: Any) -> str:
    """A value of plain types as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def dump_in_line(value: Any) -> str:
    """The same on one line, as it is typed."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=1_000_000).strip()


def _problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return (f"line {mark.line + 1}: " if mark else "") + shown(said, quoted=False)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(" ".join(str(error).split()), quoted=False)


# ------------------------------------------------------------------------------------------------- before it is built


class _Level:
    """A mapping, a list or the document that is being gone through."""

    def __init__(self, event: yaml.Event | None) -> None:
        self.anchor = getattr(event, "anchor", None)
        self.is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.at_key = self.is_mapping
        self.keys: set[str] = set()
        self.values = 1

    def take(self, event: yaml.Event, values: int) -> None:
        """One more key or value."""
        if self.at_key:
            if not isinstance(event, yaml.ScalarEvent):
                raise _Refused("a key that is no text", event)
            if event.value in self.keys:
                raise _Refused(f"the key {shown(event.value)} for the second time", event)
            self.keys.add(event.value)
        self.at_key = self.is_mapping and not self.at_key
        self.values += values


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, problem: str, event: yaml.Event) -> None:
        mark: Any = event.start_mark
        super().__init__(problem=problem, problem_mark=mark)


def _refuse_excess(text: str) -> None:
    """Refuse keys that are no text or stand twice, and what is too long, too deep, or says too much by aliases."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters are too many for settings")
    levels: list[_Level] = [_Level(None)]
    named: dict[str, int] = {}
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            levels[-1].take(event, 0)
            levels.append(_Level(event))
            if len(levels) > DEEPEST:
                raise _Refused(f"more than {DEEPEST} levels", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = levels.pop()
            levels[-1].values += done.values
            _name(named, done.anchor, done.values)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in named:
                raise _Refused(f"the alias *{shown(event.anchor, quoted=False)} of nothing before it", event)
            levels[-1].take(event, named[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            if re.search("[\ud800-\udfff]", event.value):
                raise _Refused("half a character (\\ud800 to \\udfff alone), which no file can hold", event)
            levels[-1].take(event, 1)
            _name(named, event.anchor, 1)
        if levels[-1].values > MOST_VALUES:
            raise _Refused(f"more than {MOST_VALUES} values, those that aliases stand for counted", event)


def _name(named: dict[str, int], anchor: str | None, values: int) -> None:
    if anchor is not None:
        named[anchor] = values


def _events(text: str) -> Iterator[yaml.Event]:
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
    return events
