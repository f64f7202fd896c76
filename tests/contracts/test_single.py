"""Promises of every method of one image. A file dropped into ``single/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lemis import plugins
from lemis.contracts import Segmented
from lemis.settings import resolve

SINGLE = plugins.names("single")
N, ROWS, COLUMNS = 3, 13, 14
SEEDS = (4, 5, 6)
# What a method has of these is made small.
SMALL = {"clusters": 5, "width": 5, "blocks": 1, "patch_px": 4, "max_iterations": 3, "least_iterations": 1, "rounds": 2}

# What must be set for a setting to have an effect; a general one is that no image is finished early.
GENERAL: dict[str, dict[str, Any]] = {
    "stop_labels": {"stop_labels": SMALL["clusters"]},
    "least_iterations": {"stop_labels": SMALL["clusters"]},
    "restarts": {"stop_labels": 1, "learning_rate": 1e3},  # all that was learned is lost, and one label is left
    "starts": {"stop_labels": 1, "starts": 4},  # of two, the first may be the best of every image
}
# Information changes slowly, and a label needs more than a few steps to change.
SLOW = {"stop_labels": 1, "max_iterations": 8, "learning_rate": 2.0}
WHERE: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("iic", key): SLOW
        for key in ("lamb", "over", "over_clusters", "reach_px", "p_mirror", "rotation_deg", "jitter")
    },
    ("iic", "momentum"): SLOW,
    ("kmeans", "max_iterations"): {"max_iterations": 2},
    ("kmeans", "starts"): {"starts": 1, "clusters": 12},
    ("deepcluster", "pca"): {"pca": 5},
    ("deepcluster", "kmeans_iterations"): {"kmeans_iterations": 2},
    ("iic", "restarts"): SLOW | {"lamb": 1e-3},  # without the entropy of the marginals, one cluster is the answer
    ("sgscn", "restarts"): {"stop_labels": 1, "context_of": "released", "weight_context": 1e3},
}
# Settings without an effect in these tests, and why.
INERT: dict[tuple[str, str], str] = {
    (
        "msformer",
        "restarts",
    ): "its logits have no offset, and not all pixels get one label here; tests/parts/test_solo.py",
}


def module_of(name: str) -> ModuleType:
    return plugins.load("single", name)


def settings_of(name: str, *layers: Mapping[str, Any]) -> Any:
    cls = module_of(name).Settings
    has = {field.name for field in dataclasses.fields(cls)}
    given = [{key: value for key, value in layer.items() if key in has} for layer in (SMALL, *layers)]
    return resolve(cls, *given)


def images(*, n: int = N, channels: int = 3, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """Noise in float64: two ways to compute one thing agree to the last label."""
    shape = (n, channels, rows, columns)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def segment(name: str, given: Tensor, seeds: typing.Sequence[int] = SEEDS, *layers: Mapping[str, Any]) -> Segmented:
    result: Segmented = module_of(name).segment(given, settings_of(name, *layers), list(seeds))
    return result


# ------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", SINGLE)
def test_the_file_has_its_names(name: str) -> None:
    module = module_of(name)
    assert list(inspect.signature(module.segment).parameters) == ["images", "settings", "seeds"]
    assert dataclasses.is_dataclass(module.Settings)


@pytest.mark.parametrize("name", SINGLE)
def test_the_file_says_what_it_is_without_being_imported(name: str) -> None:
    title = plugins.describe("single", name)["title"]
    assert re.search(r"\b(19|20)\d\d\b", title), "the year of the paper"
    assert re.search(r"https://\S+", title), "its address"


# ------------------------------------------------------------------------------------------------- the labels


def check(result: Segmented, given: Tensor) -> None:
    n = len(given)
    assert result.labels.shape == (n, *given.shape[2:])
    assert result.labels.dtype == torch.int64
    assert result.labels.min() >= 0
    assert not result.labels.requires_grad
    assert len(result.iterations) == len(result.restarts) == n
    assert all(type(count) is int for count in (*result.iterations, *result.restarts))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SINGLE)
def test_every_pixel_has_a_label(name: str, channels: int) -> None:
    given = images(channels=channels).float()
    before = given.clone()
    result = segment(name, given)
    check(result, given)
    assert all(1 < len(label.unique()) <= SMALL["clusters"] for label in result.labels)
    assert torch.equal(given, before)


@pytest.mark.parametrize("name", SINGLE)
def test_the_same_seeds_give_the_same_labels_whatever_else_is_drawn(name: str) -> None:
    torch.manual_seed(0)
    first = segment(name, images())
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    again = segment(name, images())
    torch.manual_seed(0)
    assert torch.equal(first.labels, again.labels)
    assert first[1:] == again[1:]
    assert torch.equal(state, torch.random.get_rng_state()), "it draws from its own generators"


@pytest.mark.parametrize("name", SINGLE)
def test_another_seed_is_another_start(name: str) -> None:
    one = {"starts": 1, "max_iterations": 1}
    a, b = (segment(name, images(), seeds, one).labels for seeds in (SEEDS, (104, 105, 106)))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("layer", [{}, {"stop_labels": 4, "max_iterations": 6}], ids=["all stay", "some leave"])
@pytest.mark.parametrize("name", SINGLE)
def test_an_image_has_the_labels_that_it_has_alone(name: str, layer: dict[str, Any]) -> None:
    together = segment(name, images(), SEEDS, layer)
    for row, seed in enumerate(SEEDS):
        alone = segment(name, images()[row : row + 1], [seed], layer)
        assert torch.equal(alone.labels[0], together.labels[row])
        assert (alone.iterations[0], alone.restarts[0]) == (together.iterations[row], together.restarts[row])


@pytest.mark.parametrize("name", SINGLE)
def test_a_seed_is_any_integer(name: str) -> None:
    for seed in (0, 2**31, 2**40):
        check(segment(name, images(n=1), [seed]), images(n=1))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SINGLE)
def test_a_constant_image_has_a_result(name: str, value: float) -> None:
    given = torch.full((2, 3, ROWS, COLUMNS), value)
    check(segment(name, given, SEEDS[:2], {"max_iterations": 2}), given)


@pytest.mark.parametrize("shape", [(1, 17), (17, 1), (2, 3), (5, 31)])
@pytest.mark.parametrize("name", SINGLE)
def test_an_image_of_any_shape_has_a_result(name: str, shape: tuple[int, int]) -> None:
    given = images(n=2, rows=shape[0], columns=shape[1])
    check(segment(name, given, SEEDS[:2]), given)


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(name: str, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    result = segment(name, images(), SEEDS, layer)
    return result.labels.tolist(), result.iterations, result.restarts


def base_of(name: str, key: str) -> dict[str, Any]:
    return WHERE.get((name, key), GENERAL.get(key, {"stop_labels": 1}))


SETTINGS = [(name, field.name) for name in SINGLE for field in dataclasses.fields(module_of(name).Settings)]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str, changed: Callable[..., Any]) -> None:
    base = base_of(name, key)
    before = fingerprint(name, base)
    effects = any(fingerprint(name, layer) != before for layer in changed(partial(settings_of, name, base), key))
    assert effects != ((name, key) in INERT), INERT.get((name, key), f"{key} changes nothing")
