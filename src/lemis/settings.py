"""Settings: frozen dataclasses beside the code they configure, resolved from layers.

defaults < preset < YAML file < ``key=value`` on the command line. An unknown key is refused with
the nearest known one; types and ranges are pydantic's job (``Annotated[float, Field(gt=0)]`` in a class).
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from lemis import files
from lemis.errors import UsageError
from lemis.plugins import nearest

T = TypeVar("T")
Tree = dict[str, Any]

PRESETS = Path(__file__).parent / "presets"


def resolve(cls: type[T], *layers: Mapping[str, Any], prefix: str = "") -> T:
    """Build ``cls`` from its defaults and from ``layers``, later ones first in precedence.

    Args:
        cls: A frozen dataclass; nested dataclasses take nested mappings.
        layers: Mappings of (nested) field names to values, plain YAML types.
        prefix: What the user typed before the key (``"method."``), for messages.

    Raises:
        UsageError: An unknown key, a wrong type, or a value out of range.
    """
    merged: Tree = {}
    for layer in layers:
        merged = merge(merged, layer)
    _refuse_unknown(cls, merged, prefix)
    try:
        built: T = _adapter(typing.cast(Hashable, cls)).validate_python(merged)
        return built
    except ValidationError as error:
        first = error.errors()[0]
        key, given = _named(cls, merged, first["loc"])
        same = [fault["msg"] for fault in error.errors() if _named(cls, merged, fault["loc"])[0] == key]
        raise UsageError(
            f"{prefix}{key}={given!r}",
            allowed="; or ".join(dict.fromkeys(same)),
            next=f"set {prefix}{key} to an allowed value, or leave it out",
        ) from None


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
            raise UsageError(f"{pair!r}", allowed="settings are written key=value", next=f"{pair}=VALUE")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(
                f"{pair!r}", allowed="a value that YAML reads", next=f"{key}='\"text\"' for text"
            ) from None
        if isinstance(value, str):
            value = _number(value)
        for part in reversed(key.split(".")):
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
    """A YAML file that holds a mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", allowed="a YAML file", next="correct the path or the file"
        ) from None
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
    files.write(path, yaml.safe_dump(plain(settings), sort_keys=False))


def _number(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as a string; nobody who types it means one.
    try:
        return float(text)
    except ValueError:
        return text


def _named(cls: Any, tree: Any, location: Iterable[Any]) -> tuple[str, Any]:
    # The setting that a pydantic error is about, as typed, and its value: pydantic's location goes on into
    # the members of a union and the items of a list, which nobody typed.
    parts: list[str] = []
    for part in location:
        if cls is None or part not in typing.get_type_hints(cls):
            break
        cls = _dataclass_in(typing.get_type_hints(cls)[part])
        parts.append(part)
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return ".".join(parts), tree


def _refuse_unknown(cls: Any, tree: Mapping[str, Any], prefix: str) -> None:
    hints = typing.get_type_hints(cls)
    for key, value in tree.items():
        if key not in hints:
            guess = nearest(key, hints)
            raise UsageError(
                f"unknown setting {prefix}{key}",
                allowed=", ".join(prefix + name for name in hints),
                next=f"{prefix}{guess}=..." if guess else "`lemis list --json` shows every setting",
            )
        inner = _dataclass_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{prefix}{key}.")


def _dataclass_in(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)
    return None
