"""Promises of every method of one image. A file dropped into ``single/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from lemis import plugins
from lemis.promises import single
from lemis.promises.single import Subject

SINGLE = plugins.names("single")

# Information changes slowly, and a label needs more than a few steps to change.
SLOW: dict[str, Any] = {"stop_labels": 1, "max_iterations": 8, "learning_rate": 2.0}
# What must be set for a setting to have an effect.
WHERE: dict[str, dict[str, dict[str, Any]]] = {
    "iic": {
        **dict.fromkeys(("lamb", "over", "over_clusters", "reach_px", "p_mirror", "rotation_deg", "jitter"), SLOW),
        "momentum": SLOW,
        "restarts": SLOW | {"lamb": 1e-3},  # without the entropy of the marginals, one cluster is the answer
    },
    "kmeans": {"max_iterations": {"max_iterations": 2}, "starts": {"starts": 1, "clusters": 12}},
    "deepcluster": {"pca": {"pca": 5}, "kmeans_iterations": {"kmeans_iterations": 2}},
    "sgscn": {"restarts": {"stop_labels": 1, "context_of": "released", "weight_context": 1e3}},
}
# Settings without an effect in these tests, and why.
INERT: dict[str, dict[str, str]] = {
    "msformer": {
        "restarts": "its logits have no offset, and not all pixels get one label here; tests/one_image/test_solo.py",
    },
}


def subject(name: str) -> Subject:
    return Subject(name, where=WHERE.get(name, {}), excused=INERT.get(name, {}))


@pytest.mark.parametrize("promise", [*single.FILE, *single.FILE_OF_OURS], ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", SINGLE)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", single.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", SINGLE)
def test_a_method(name: str, promise: Callable[[Subject], None]) -> None:
    promise(subject(name))


SETTINGS = [
    (name, field.name) for name in SINGLE for field in dataclasses.fields(plugins.load("single", name).Settings)
]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str) -> None:
    why = INERT.get(name, {}).get(key)
    assert single.setting_has_an_effect(subject(name), key) != bool(why), why or f"{key} changes nothing"
