"""Settings: frozen dataclasses beside the code they configure, resolved from layers.

defaults < preset < YAML file < ``key=value`` on the command line. An unknown key is refused with
the nearest known one; types and ranges are pydantic's job (``Annotated[float, Field(gt=0)]`` in a class).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from lemis import files, yaml_text
from lemis.errors import UsageError, shown
from lemis.plugins import nearest

T = TypeVar("T")
Tree = dict[str, Any]

EXPAND = "expand_settings"

PRESETS = Path(__file__).parent / "presets"

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what all generators of random numbers here take
Probability = Annotated[float, Field(ge=0, le=1)]
_LEAST, _MOST = 1e-37, 1e38  # of numbers in float32, in which networks compute
_MOST_WHOLE = 2**31 - 1
_MOST_PX = 16_384  # along any axis of what a network sees


def resolve(cls: type[T], *layers: Mapping[str, Any], prefix: str = "") -> T:
    """Build ``cls`` from its defaults and from ``layers``, later ones first in precedence.

    Args:
        cls: A frozen dataclass; nested dataclasses take nested mappings. A function ``expand_settings`` beside it turns
            each layer into another, such as the path of a file into the settings that stand there.
        layers: Mappings of (nested) field names to values, plain YAML types.
        prefix: What the user typed before the key (``"method."``), for messages.

    Raises:
        UsageError: An unknown key, a wrong type, or a value out of range.
    """
    merged: Tree = {}
    expand = getattr(sys.modules.get(cls.__module__), EXPAND, None)
    for layer in layers:
        merged = merge(merged, layer if expand is None else expand(layer))
    _refuse_unknown(cls, merged, prefix)
    try:
        built: T = _adapter(typing.cast(Hashable, cls)).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key, given = _named(cls, merged, first["loc"])
        same = [fault["msg"] for fault in error.errors() if _named(cls, merged, fault["loc"])[0] == key]
        raise UsageError(
            f"{prefix}{key}={shown(given)}",
            allowed="; or ".join(dict.fromkeys(same)),
            next=f"set {prefix}{key} to an allowed value, or leave it out",
        ) from None
    for key, number in _numbers(built):
        allowed = _range_left(key, number)
        if allowed:
            raise UsageError(
                f"{prefix}{key}={shown(number)}",
                allowed=allowed,
                next=f"set {prefix}{key} to an allowed value, or leave it out",
            )
    return built


def _range_left(key: str, number: float) -> str:
    """What would be allowed where a number is beyond what any setting can mean; else empty."""
    if key.endswith("_px") and number > _MOST_PX:
        return f"at most {_MOST_PX} pixels"
    if isinstance(number, int):
        return "" if abs(number) <= _MOST_WHOLE or key.endswith("seed") else f"whole numbers up to {_MOST_WHOLE}"
    inside = number == 0 or _LEAST < abs(number) < _MOST  # NaN is not
    return "" if inside else "numbers that are finite and no larger or smaller than float32 holds"


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:  # it takes milliseconds to build
    return TypeAdapter(cls)


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> Tree:
    """Nested dictionaries merged key by key; ``high`` wins."""
    out: Tree = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def ordered(ends: tuple[float, float]) -> tuple[float, float]:
    """Both ends of a range, for pydantic.

    Raises:
        ValueError: The first is larger.
    """
    if ends[0] > ends[1]:
        raise ValueError("a range is written [low, high] with low <= high")
    return ends


def _positive(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] <= 0:
        raise ValueError("both ends of this range are above 0")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(ordered)]  # to draw from
PositiveRange = Annotated[tuple[float, float], AfterValidator(ordered), AfterValidator(_positive)]


def of_dims(tree: Mapping[str, Any], dims: int) -> Tree:
    """The sections of a preset for networks of ``dims`` dimensions: for 3, its section ``volumes`` over the others."""
    flat = {key: value for key, value in tree.items() if key != "volumes"}
    return merge(flat, tree.get("volumes", {})) if dims == 3 else flat


def parse_overrides(pairs: Iterable[str]) -> Tree:
    """``["epochs=300", "method.window=4"]`` -> ``{"epochs": 300, "method": {"window": 4}}``; YAML values."""
    tree: Tree = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            word = shown(pair, quoted=False)
            raise UsageError(shown(pair), allowed="settings are written key=value", next=f"{word}=VALUE")
        parts = key.split(".")
        if len(parts) > yaml_text.DEEPEST:
            raise UsageError(
                f"the key {shown(key)}, {len(parts)} levels deep",
                allowed="keys such as pretrain.epochs",
                next="`lemis list --json` shows every setting",
            )
        try:
            value = yaml_text.load(text, "the value")
        except UsageError as error:
            raise UsageError(
                f"{shown(pair)}: {error.given}",
                allowed="a value that YAML reads",
                next=f"{shown(key, quoted=False)}='\"text\"' for text",
            ) from None
        for part in reversed(parts):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def load_preset(name: str) -> Tree:
    """A preset of ours by name (``small``, ``paper/sal-acdc``), or a YAML file by path."""
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"preset {name!r}",
            allowed=f"one of {', '.join(presets())}, or the path of a YAML file",
            next=f"--preset {nearest(name, presets()) or 'small'}",
        )
    return read_yaml(path)


def presets() -> list[str]:
    """Names of the presets that ship with Lemis."""
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds a mapping; an empty one is an empty mapping.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    tree = yaml_text.read(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path} holds a {type(tree).__name__}", allowed="a YAML mapping", next="write `key: value` lines"
        )
    return tree


def plain(settings: Any) -> Any:
    """A settings object as plain YAML types, for storing beside the weights."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {field.name: plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    if isinstance(settings, Path):
        return str(settings)
    return settings


def write_yaml(settings: Any, path: Path) -> None:
    """Store resolved settings, human-readable, in field order."""
    files.write(path, yaml_text.dump(plain(settings)))


def _numbers(settings: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of resolved settings, with its key as typed."""
    if dataclasses.is_dataclass(settings):
        for field in dataclasses.fields(settings):
            yield from _numbers(getattr(settings, field.name), f"{key}.{field.name}" if key else field.name)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _numbers(value, key)
    elif isinstance(settings, int | float):
        yield key, settings


def _named(cls: Any, tree: Any, location: Iterable[Any]) -> tuple[str, Any]:
    # The setting that a pydantic error is about, as typed, and its value: pydantic's location goes on into
    # the members of a union and the items of a list, which nobody typed.
    parts: list[str] = []
    for part in location:
        if cls is None or part not in _hints(cls):
            break
        cls = _dataclass_in(_hints(cls)[part])
        parts.append(part)
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return ".".join(parts), tree


@functools.cache
def _hints(cls: Any) -> Mapping[str, Any]:  # annotations are text, which takes its time to evaluate
    return typing.get_type_hints(cls)


def _refuse_unknown(cls: Any, tree: Mapping[str, Any], prefix: str) -> None:
    hints = _hints(cls)
    for key, value in tree.items():
        if key not in hints:
            guess = nearest(key, hints)
            raise UsageError(
                f"unknown setting {prefix}{shown(key, quoted=False)}",
                allowed=", ".join(prefix + name for name in hints),
                next=f"{prefix}{guess}=..." if guess else "`lemis list --json` shows every setting",
            )
        inner = _dataclass_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{prefix}{key}.")
        elif _holds_truth(value) and not _takes_truth(hints[key]):  # else pydantic makes 1 of true
            raise UsageError(
                f"{prefix}{key}={shown(value)}",
                allowed="a number or a word, not true or false",
                next=f"set {prefix}{key} to an allowed value, or leave it out",
            )


def _dataclass_in(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)
    return None


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _takes_truth(hint: Any) -> bool:
    return hint in (bool, Any) or isinstance(hint, bool) or any(map(_takes_truth, typing.get_args(hint)))
