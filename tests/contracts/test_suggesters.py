"""Promises of every way to choose scans. A file dropped into ``suggesters/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from lemis import plugins
from lemis.promises import suggesters
from lemis.promises.suggesters import Subject

SUGGESTERS = plugins.names("suggesters")

# What must be set for a setting to have an effect.
WHERE: dict[str, dict[str, dict[str, Any]]] = {
    "k_medoids": {"most_swaps": {"most_swaps": 1}},
    "typical": {
        "neighbours": {"neighbours": 2},
        "most_clusters": {"most_clusters": 2},
        "too_small": {"too_small": 3, "too_small_share": 0.9},
    },
}
# Settings without an effect in these tests, and why.
INERT: dict[str, dict[str, str]] = {}


def subject(name: str) -> Subject:
    return Subject(name, where=WHERE.get(name, {}), excused=INERT.get(name, {}))


@pytest.mark.parametrize("promise", [*suggesters.FILE, *suggesters.FILE_OF_OURS], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", SUGGESTERS)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", suggesters.STEP, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", SUGGESTERS)
def test_a_way(name: str, promise: Callable[[Subject], None]) -> None:
    promise(subject(name))


SETTINGS = [
    (name, field.name) for name in SUGGESTERS for field in dataclasses.fields(plugins.load("suggesters", name).Settings)
]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str) -> None:
    why = INERT.get(name, {}).get(key)
    assert suggesters.setting_has_an_effect(subject(name), key) != bool(why), why or f"{key} changes nothing"
