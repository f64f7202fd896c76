"""Promises of every way to use unlabelled scans. A file dropped into ``semi/`` is tested here without being named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import draws  # noqa: F401  (processes have the seeds of this one)
from lemis import plugins
from lemis.promises import many_processes, own_settings, semis
from lemis.promises.semis import LATE, Subject
from lemis.promises.trying import NotTried
from lemis.sampling.draw import Rows

SEMIS = plugins.names("semi")

# What must be set for a setting to have an effect.
WHERE: dict[str, dict[str, dict[str, Any]]] = {}
# Settings without an effect in these tests, and why.
INERT: dict[str, dict[str, str]] = {}


@functools.cache
def subject(name: str, dims: int = 2) -> Subject:
    """One for all promises, so that what they begin with is trained once."""
    return Subject(name, dims, where=WHERE.get(name, {}), excused=INERT.get(name, {}))


@pytest.mark.parametrize("promise", [*semis.FILE, *semis.FILE_OF_OURS], ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", SEMIS)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", semis.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("dims", semis.USUAL)
@pytest.mark.parametrize("name", SEMIS)
def test_a_way(name: str, dims: int, promise: Callable[[Subject], None]) -> None:
    try:
        promise(subject(name, dims))
    except NotTried as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("name", SEMIS)
def test_a_network_that_looks_at_keypoints(name: str) -> None:
    """It finds those of what it is shown where the batch has none."""
    semi = subject(name).build(network="kaf_unet")
    semi.after_step(LATE)
    semi(subject(name).batch, Rows(0, 0, "cpu"))


SETTINGS = [
    (name, key) for name in SEMIS for key in own_settings.leaves(plugins.load("semi", name).Settings)
]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_has_an_effect(name: str, key: str) -> None:
    why = INERT.get(name, {}).get(key)
    assert semis.setting_has_an_effect(subject(name), key) != bool(why), why or f"{key} changes nothing"


# ------------------------------------------------------------------------------------------ many processes

# Intensities are changed in float32, in which a convolution of more rows rounds otherwise.
UNBLURRED = {"intensity": {**semis.SMALL["intensity"], "p_blur": 0.0}}
CASES: list[tuple[str, int, dict[str, Any], float]] = [
    (name, dims, UNBLURRED, progress) for name in SEMIS for dims, progress in ((2, 0.0), (2, LATE), (3, LATE))
]
CASES += [("fixmatch", 2, UNBLURRED | {"mean_over": "all"}, LATE), ("mean_teacher", 2, {"teacher_mode": "eval"}, LATE)]


def work(rank: int, folder: str) -> None:
    many_processes.of_semis(rank, folder)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    return many_processes.in_two(CASES, folder, work)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=lambda case: f"{CASES[case][0]}-{CASES[case][1]}D-{CASES[case][3]}"
)
def test_two_processes_equal_one(case: int, of_two: list[list[dict[str, Tensor]]]) -> None:
    first, second = (found[case] for found in of_two)
    many_processes.expect_of_methods(many_processes.semi_step(*CASES[case]), first, second)
