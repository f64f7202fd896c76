"""Promises of every method that segments one image without labels."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lemis.contracts import Segmented
from lemis.promises import chance, own_settings, trying
from lemis.promises.methods import expect_known
from lemis.promises.trying import expect, expect_citation, known, of_module
from lemis.settings import resolve

FOLDER = "single"
N, ROWS, COLUMNS = 3, 13, 14
SEEDS = (4, 5, 6)
# What a method has of these is made small.
SMALL = {"clusters": 5, "width": 5, "blocks": 1, "patch_px": 4, "max_iterations": 3, "least_iterations": 1, "rounds": 2}
# What must be set for a setting of any method to have an effect; for those not named, that no image is finished early.
GENERAL: dict[str, dict[str, Any]] = {
    "stop_labels": {"stop_labels": SMALL["clusters"]},
    "least_iterations": {"stop_labels": SMALL["clusters"]},
    "restarts": {"stop_labels": 1, "learning_rate": 1e3},  # all that was learned is lost, and one label is left
    "starts": {"stop_labels": 1, "starts": 4},  # of two, the first may be the best of every image
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(trying.Subject):
    """A method for one image."""

    FOLDER = FOLDER

    def settings(self, *layers: Mapping[str, Any]) -> Any:
        """Small ones, and others over them; of each those that the method has."""
        return resolve(self.module.Settings, *(known(self.module, layer) for layer in (SMALL, *layers)))

    def segment(self, given: Tensor, seeds: Sequence[int] = SEEDS, *layers: Mapping[str, Any]) -> Segmented:
        """Labels of images (N, C, rows, columns)."""
        result: Segmented = self.module.segment(given, self.settings(*layers), list(seeds))
        return result


def images(*, n: int = N, channels: int = 3, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """Noise in float64: two ways to compute one thing agree to the last label."""
    shape = (n, channels, rows, columns)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- the file


def the_file_has_its_names(name: str) -> None:
    """`segment(images, settings, seeds)` is a function, `Settings` a dataclass."""
    module = of_module(FOLDER, name)
    taken = list(inspect.signature(module.segment).parameters)
    expect(taken == ["images", "settings", "seeds"], f"segment takes ({', '.join(taken)})")
    expect(dataclasses.is_dataclass(module.Settings), "Settings is no dataclass")


def the_file_cites_its_paper(name: str) -> None:
    """The docstring of the file names the paper, its year and its address."""
    expect_citation(FOLDER, name)


# ------------------------------------------------------------------------------------------------- the labels


def expect_labels(result: Segmented, given: Tensor) -> None:
    """What is promised of every result."""
    n = len(given)
    expect(isinstance(result, Segmented), f"segment gives a {type(result).__name__}, no Segmented")
    asked = (n, *given.shape[2:])
    expect(result.labels.shape == asked, f"labels have the shape {tuple(result.labels.shape)}, and {asked} is asked")
    expect(result.labels.dtype == torch.int64, f"labels are {result.labels.dtype}, and int64 is asked")
    expect(bool(result.labels.min() >= 0), "a label is below 0")
    expect(not result.labels.requires_grad, "labels have a gradient")
    expect(len(result.iterations) == len(result.restarts) == n, "iterations and restarts are not one for each image")
    whole = all(type(count) is int for count in (*result.iterations, *result.restarts))
    expect(whole, "iterations and restarts are not ints")


def every_pixel_has_a_label(subject: Subject) -> None:
    """Of images with one channel and with three, `Segmented(labels, iterations, restarts)`: labels (N, rows, columns)
    int64 from 0 on, in each image more than one and no more than `clusters`; the images stay as they were.
    """
    for channels in (1, 3):
        given = images(channels=channels).float()
        before = given.clone()
        result = subject.segment(given)
        expect_labels(result, given)
        most = SMALL["clusters"] if known(subject.module, {"clusters": 5}) else ROWS * COLUMNS
        counts = [len(label.unique()) for label in result.labels]
        expect(all(1 < count <= most for count in counts), f"{counts} different labels")
        expect(torch.equal(given, before), "the images were changed")


def the_same_seeds_give_the_same_labels_whatever_else_is_drawn(subject: Subject) -> None:
    """Random numbers come from generators of the seeds (`torch.Generator().manual_seed(seed)`), none from the generator
    that everything shares.
    """
    torch.manual_seed(0)
    first = subject.segment(images())
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    again = subject.segment(images())
    torch.manual_seed(0)
    expect(torch.equal(first.labels, again.labels), "other labels for the same seeds")
    expect(first[1:] == again[1:], "other iterations or restarts for the same seeds")
    expect(torch.equal(state, torch.random.get_rng_state()), "it draws from the shared generator")


def another_seed_is_another_start(subject: Subject) -> None:
    """After one iteration, other seeds give other labels, unless nothing is drawn."""
    given, one = images(), {"starts": 1, "max_iterations": 1}
    a, b = (subject.segment(given, seeds, one).labels for seeds in (SEEDS, (104, 105, 106)))
    chance.expect_others(
        not torch.equal(a, b), "the same labels for other seeds", subject.module,
        lambda: subject.segment(given, SEEDS, one),
    )  # fmt: skip


def an_image_has_the_labels_that_it_has_alone(subject: Subject) -> None:
    """What an image gets does not depend on the others of the call, also where some are finished before others."""
    for layer in ({}, {"stop_labels": 4, "max_iterations": 6}):
        together = subject.segment(images(), SEEDS, layer)
        for row, seed in enumerate(SEEDS):
            alone = subject.segment(images()[row : row + 1], [seed], layer)
            expect(torch.equal(alone.labels[0], together.labels[row]), f"image {row + 1} has other labels alone")
            same = (alone.iterations[0], alone.restarts[0]) == (together.iterations[row], together.restarts[row])
            expect(same, f"image {row + 1} has other iterations or restarts alone")


def a_seed_is_any_integer(subject: Subject) -> None:
    """Also 0 and those beyond 32 bits."""
    for seed in (0, 2**31, 2**40):
        expect_labels(subject.segment(images(n=1), [seed]), images(n=1))


def a_constant_image_has_a_result(subject: Subject) -> None:
    """Images of one value, 0, 0.3 or 1 everywhere, get labels, and no error."""
    for value in (0.0, 0.3, 1.0):
        given = torch.full((2, 3, ROWS, COLUMNS), value)
        expect_labels(subject.segment(given, SEEDS[:2], {"max_iterations": 2}), given)


def an_image_of_any_shape_has_a_result(subject: Subject) -> None:
    """Also one pixel high or wide, and smaller than a kernel."""
    for rows, columns in ((1, 17), (17, 1), (2, 3), (5, 31)):
        given = images(n=2, rows=rows, columns=columns)
        expect_labels(subject.segment(given, SEEDS[:2]), given)


# ------------------------------------------------------------------------------------------------ settings


def fingerprint(subject: Subject, layer: Mapping[str, Any]) -> tuple[Any, ...]:
    """Everything that a setting could change."""
    result = subject.segment(images(), SEEDS, layer)
    return result.labels.tolist(), result.iterations, result.restarts


def setting_has_an_effect(subject: Subject, key: str) -> bool:
    """Whether other values of a setting change anything."""
    base = subject.where.get(key, GENERAL.get(key, {"stop_labels": 1}))
    resolved = partial(subject.settings, base)
    return own_settings.has_an_effect(resolved, key, partial(fingerprint, subject), fingerprint(subject, base))


def every_setting_has_an_effect(subject: Subject) -> None:
    """Another value of each setting changes labels, iterations or restarts. One that acts only where another is set
    says so in the file: `CHECKED_WITH = {"momentum": {"max_iterations": 8}}`; one that does not act on small
    images: `NOT_CHECKED = {"restarts": "why"}`. Delete a setting that does nothing.
    """
    expect_known(subject)
    own_settings.expect_effects(subject.module.Settings, partial(setting_has_an_effect, subject), subject.excused)


FILE = (the_file_has_its_names,)
FILE_OF_OURS = (the_file_cites_its_paper,)
STEP = (
    every_pixel_has_a_label,
    the_same_seeds_give_the_same_labels_whatever_else_is_drawn,
    another_seed_is_another_start,
    an_image_has_the_labels_that_it_has_alone,
    a_seed_is_any_integer,
    a_constant_image_has_a_result,
    an_image_of_any_shape_has_a_result,
)
