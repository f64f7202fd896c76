"""Promises of every pre-training method. A file dropped into ``methods/`` is tested here without being named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import draws  # noqa: F401  (processes have the seeds of this one)
from lemis import plugins
from lemis.promises import many_processes, methods, own_settings
from lemis.promises.material import Material
from lemis.promises.methods import Subject

METHODS = plugins.names("methods")
CASES = [(name, dims) for name in METHODS for dims in plugins.describe("methods", name)["dims"]]

CUT_AROUND = {"distortion": {"p_cut_out": 0.0, "p_cut_around": 1.0, "p_shuffle": 0.0}}
# What must be set for a setting to have an effect.
WHERE: dict[str, dict[str, dict[str, Any]]] = {
    "glcl": {
        "local_from": {"stages": "one after the other"},
        "decoder_blocks": {"decoder_blocks": 2},  # the network has four
    },
    "pirl": {"patch_share": {"size_px": 128}},  # in a view of 64 only one stride fits a cell
    "sal": {"same_slice": {"geometry": "independent"}},
    "kaf": {"iterations": {"iterations": 3}},  # after a hundred, more change nothing
    "macl": {"momentum": {"encoder": "ema"}},
    "swav": {"crop_px": {"crops": 1, "crop_px": 32}},
    "caid": {"distortion.cut_around_share": CUT_AROUND},
    "dira": {
        "distortion.cut_around_share": CUT_AROUND,
        "adversarial_weight": {"adversarial_from": 0.0},  # the adversary acts late by default
    },
}
# What is not asked of a method, and why: settings without an effect in these tests, or a loss that has no value that
# means "knows nothing".
EXCUSED: dict[str, dict[str, str]] = {
    "desd": {"transfer": "acts after the last step; tests/papers/test_desd.py"},
    "swav": {"queue_from": "acts in later epochs; tests/papers/test_swav.py"},
    "byol": {"uninformed": "0 is reached by a constant answer, 4 by an untrained predictor"},
    "simsiam": {"uninformed": "-1 is reached by a constant answer, 0 by an untrained predictor"},
    "simtriplet": {"uninformed": "as simsiam"},
}


@pytest.fixture
def subject(material: Material) -> Callable[[str, int], Subject]:
    return lambda name, dims: Subject(name, dims, material, where=WHERE.get(name, {}), excused=EXCUSED.get(name, {}))


@pytest.mark.parametrize("promise", [*methods.FILE, *methods.FILE_OF_OURS], ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_the_file(name: str, promise: Callable[[str], None]) -> None:
    promise(name)


@pytest.mark.parametrize("promise", methods.STEP, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize(("name", "dims"), CASES)
def test_a_method(
    name: str, dims: int, promise: Callable[[Subject], None], subject: Callable[[str, int], Subject]
) -> None:
    promise(subject(name, dims))


# ------------------------------------------------------------------------------------------------ settings


def leaves(name: str) -> list[str]:
    return list(own_settings.leaves(plugins.load("methods", name).Settings))


@pytest.fixture(scope="module")
def on_slices(material: Material) -> Callable[[str], Subject]:
    """One subject for each method, so that what is computed of the same settings is computed once."""
    found = {
        name: Subject(name, 2, material, where=WHERE.get(name, {}), excused=EXCUSED.get(name, {})) for name in METHODS
    }
    return found.__getitem__


@pytest.mark.slow  # one small training step for each of several hundred values
@pytest.mark.parametrize(("name", "key"), [(name, key) for name in METHODS for key in leaves(name)])
def test_every_setting_has_an_effect(name: str, key: str, on_slices: Callable[[str], Subject]) -> None:
    why = {**methods.OF_VOLUMES, **EXCUSED.get(name, {})}.get(key)
    assert methods.setting_has_an_effect(on_slices(name), key) != bool(why), why or f"{key} changes nothing"


TILTS = [(name, key) for name, dims in CASES if dims == 3 for key in leaves(name) if "tilt" in key]


@pytest.mark.parametrize(("name", "key"), TILTS)
def test_what_has_no_effect_on_slices_turns_volumes(
    name: str, key: str, subject: Callable[[str, int], Subject]
) -> None:
    methods.settings_without_an_effect_on_slices_turn_volumes(subject(name, 3), key)


# ------------------------------------------------------------------------------------------ many processes

LAYERS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
LAYERS += [
    ("gcl", {"form": "domain"}),
    ("glcl", {"stages": "one after the other"}),
    ("glcl", {"stages": "one after the other", "local_from": 1.0}),
    ("contrastive_crop", {"refresh_every": 1.0}),
    ("sal", {"geometry": "independent", "centring": "batch", "same_slice": True, "stop_gradient": True}),
    ("sal", {"alignment_weight": 0.0}),
    ("pcl", {"views_together": False}),
    ("macl", {"form": "article", "encoder": "independent", "photometric": "released"}),
    ("macl", {"weight_global": 0.0, "weight_dense": 0.0}),
    ("macl", {"batch_norm": True, "down_map": "area", "reduction": "sum", "photometric": "brats"}),
    ("pirl", {"batch_norm": True, "bank_start": "network"}),
    ("dira", {"adversarial_from": 0.0, "adversarial_weight": 1.0}),
    ("swin_unetr_ssl", {"read": "places"}),
    ("kaf", {"keypoint_share": "poorest"}),
    ("kaf", {"keypoint_share": [0.2, 1.0]}),
]


def work(rank: int, folder: str) -> None:
    many_processes.of_methods(rank, folder)


@pytest.fixture(scope="module")
def of_two(material: Material, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    return many_processes.in_two([(name, 2, layer) for name, layer in LAYERS], folder, work, material.uneven)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(LAYERS)), ids=lambda case: f"{LAYERS[case][0]} {LAYERS[case][1] or ''}")
def test_two_processes_equal_one(case: int, material: Material, of_two: list[list[dict[str, Tensor]]]) -> None:
    name, layer = LAYERS[case]
    expected = many_processes.method_step(material.uneven, name, 2, layer)
    many_processes.expect_of_methods(expected, *(found[case] for found in of_two))
