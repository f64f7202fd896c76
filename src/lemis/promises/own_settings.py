"""Promises of the settings of every plug-in, and other allowed values for each of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lemis import plugins
from lemis.errors import UsageError
from lemis.promises.trying import Broken, expect, names, of_module
from lemis.settings import plain, resolve


def settings_are_frozen_and_have_defaults(folder: str, name: str) -> None:
    """`Settings` is a dataclass with `frozen=True, kw_only=True`, every field has a type and a default, and the
    defaults pass their own checks and survive YAML. Decorate it with `@dataclass(frozen=True, kw_only=True)` and give
    each field a value.
    """
    cls = of_module(folder, name).Settings
    expect(dataclasses.is_dataclass(cls), "Settings is no dataclass")
    fields = dataclasses.fields(cls)
    bare = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    expect(not bare, f"no default: {names(bare)}")
    expect(cls.__dataclass_params__.frozen, "Settings can be changed")
    expect(all(field.kw_only for field in fields), "fields without kw_only")
    defaults = cls()
    expect(resolve(cls, plain(defaults)) == defaults, "the defaults are others after they were stored and read")


def each_setting_says_where_its_default_is_from(folder: str, name: str) -> None:
    """Each field has a comment at the end of its line with a reason or a source: `temperature: float = 0.1  # paper`.
    `lemis list` shows it.
    """
    silent = [row["name"] for row in plugins.settings_of(folder, name) if not row["note"]]
    expect(not silent, f"no comment on {names(silent)}")


def leaves(cls: Any, prefix: str = "") -> Iterator[str]:
    """Names of all settings, those of nested classes with a dot."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def changed(resolved: Callable[[Mapping[str, Any]], Any], key: str) -> Iterator[dict[str, Any]]:
    """Settings that ``resolved`` makes of a layer, with other allowed values at ``key`` (with dots where nested)."""
    here = holder = resolved({})
    *path, last = key.split(".")
    for part in path:
        holder = getattr(holder, part)
    for candidate in _other_values(type(holder), last, getattr(holder, last)):
        layer: dict[str, Any] = {last: candidate}
        for part in reversed(path):
            layer = {part: layer}
        try:
            there = resolved(layer)
        except UsageError:
            continue
        if there != here:
            yield plain(there)


def has_an_effect(
    resolved: Callable[[Mapping[str, Any]], Any],
    key: str,
    fingerprint: Callable[[Mapping[str, Any]], Any],
    before: Any,
) -> bool:
    """Whether another value of a setting changes a fingerprint; one that is refused in words changes nothing."""
    for layer in changed(resolved, key):
        try:
            if fingerprint(layer) != before:
                return True
        except UsageError:  # more than the network has, say
            continue
    return False


def expect_effects(cls: Any, has_effect: Callable[[str], bool], excused: Mapping[str, str]) -> None:
    """Every setting but the excused ones has an effect, and those have none.

    Raises:
        Broken: Names those that are otherwise.
    """
    found = {key: has_effect(key) for key in leaves(cls)}
    idle = [key for key, effect in found.items() if not effect and key not in excused]
    if idle:
        raise Broken(f"another value changes nothing: {names(idle)}")
    wrong = [key for key, effect in found.items() if effect and key in excused]
    if wrong:
        raise Broken(f"said to have no effect here, and has one: {names(wrong)}")


def _other_values(cls: Any, key: str, value: Any) -> list[Any]:
    """Values to try instead of ``value``; not all of them need be allowed."""
    hint = typing.get_type_hints(cls)[key]
    named = [choice for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is typing.Literal
             for choice in typing.get_args(part)]  # fmt: skip
    if named:
        return named
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, tuple):
        if not value:
            return [[1], [0.5], [1, 2]]
        numbers = all(isinstance(one, (int, float)) for one in value)
        larger = [value[-1] * 1.5] if numbers else []
        doubled = [[2 * one for one in value]] if numbers else []
        return [[*value[:-1], *larger], value[:-1], [*value, *larger], [0.5, 0.6], *doubled]
    if value is None:
        return [3, 0.5, "x"]
    if isinstance(value, int):
        return [value * 2, value + 1, value - 1]
    return [value / 2, value + 0.5, 0.0, 45.0] if isinstance(value, float) else []
