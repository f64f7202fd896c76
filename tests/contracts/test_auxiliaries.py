"""Promises of every auxiliary loss. A file dropped into ``auxiliary/`` is tested here without being named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import draws  # noqa: F401  (processes have the seeds of this one)
from lemis import plugins
from lemis.promises import auxiliaries, many_processes
from lemis.promises.auxiliaries import ALL, Subject

AUXILIARIES = plugins.names("auxiliary")

# What must be set for a setting to have an effect.
WHERE: dict[str, dict[str, dict[str, Any]]] = {
    "supervised_contrast": {"others": {"negatives": 20}},
}
# Settings without an effect in these tests, and why.
INERT: dict[str, dict[str, str]] = {}


def subject(name: str, dims: int = 2) -> Subject:
    return Subject(name, dims, where=WHERE.get(name, {}), excused=INERT.get(name, {}))


@pytest.mark.parametrize(
    "promise", [*auxiliaries.FILE, *auxiliaries.FILE_OF_OURS], ids=lambda promise: promise.__name__
)
@pytest.mark.parametrize("name", AUXILIARIES)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", auxiliaries.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("dims", auxiliaries.USUAL)
@pytest.mark.parametrize("name", AUXILIARIES)
def test_a_loss(name: str, dims: int, promise: Callable[[Subject], None]) -> None:
    promise(subject(name, dims))


SETTINGS = [
    (name, field.name)
    for name in AUXILIARIES
    for field in dataclasses.fields(plugins.load("auxiliary", name).Settings)
]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str) -> None:
    why = INERT.get(name, {}).get(key)
    assert auxiliaries.setting_has_an_effect(subject(name), key) != bool(why), why or f"{key} changes nothing"


# ------------------------------------------------------------------------------------------ many processes

CASES: list[tuple[str, str, dict[str, Any], str]] = [
    (name, network, layer, kind)
    for name in AUXILIARIES
    for network, layer, kind in (
        ("unet3d", {}, "random"),
        ("unet2d", ALL, "half without"),  # one process has no foreground
        ("unet2d", {"background": True, "voxels": 40}, "half without"),
        ("unet2d", {"counted": "batch", "with_itself": False, "class_weight": "inverse"}, "random"),
        (
            "unet2d",
            {"over_classes": "mean", "others": False, "negatives_from": "organs", "head": "mlp"},
            "half without",
        ),
        ("unet3d", {}, "no foreground"),
    )
]


def work(rank: int, folder: str) -> None:
    many_processes.of_auxiliaries(rank, folder)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    return many_processes.in_two(CASES, folder, work)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: "-".join(map(str, CASES[case])))
def test_two_processes_equal_one(case: int, of_two: list[list[dict[str, Tensor]]]) -> None:
    expected = many_processes.auxiliary_step(*CASES[case])
    for found in of_two:
        many_processes.expect_same(found[case], expected, relative=1e-6, absolute=1e-9)
