"""Agreement of views of one network: views come back where they were, and what does not see them agrees with itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis import plugins
from lemis.prediction import views
from lemis.prediction.views import VIEWS, Agreed, View, agreement
from lemis.preparation import preprocess
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.settings import resolve

CPU = torch.device("cpu")


class Threshold(torch.nn.Module):
    """Class 1 where the first channel is above a value; what depends on the place as ``slope`` says."""

    dims, channels, strides, divisors = 2, (1, 1), (1, 2), (2, 2)

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, image: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, image.shape[2])[:, None].expand(image.shape[2:])
        above = 40 * (image[:, :1] - 0.5 + self.slope * rows)
        return torch.cat([-above, above, torch.full_like(above, -1000)], 1)


def scan(shape: tuple[int, int, int] = (48, 48, 3)) -> tuple[NDArray[np.float16], Facts]:
    facts = preprocess.describe(
        id="a", subject="a", images=("a",), label=None, shape=shape, spacing_mm=(2.0, 2.0, 5.0), slice_axis=2,
        settings=Preparation(spacing_mm=2.0),
    )  # fmt: skip
    rows, cols = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[0] * 1j]
    ball = np.where(rows**2 + (1.6 * cols) ** 2 < 0.4, 2.0, -1.0)
    return np.repeat(ball[None, None], shape[2], 0).astype(np.float16), facts


def alone(network: Any, image: NDArray[np.float16], facts: Facts, **given: Any) -> Agreed:
    found = agreement([network], image, facts, CPU, **given)
    (own,) = found.alone
    for one, other in zip(own, found.together, strict=True):
        assert np.array_equal(one, other), "one network is its own ensemble"
    return own


@pytest.mark.parametrize("mirrored", [(), (0,), (1,), (0, 1)])
def test_a_network_that_looks_at_single_voxels_agrees_with_itself(mirrored: tuple[int, ...]) -> None:
    image, facts = scan()
    found = alone(Threshold(), image, facts, mirrored=mirrored).dice
    assert found[0] > 0.93  # edges are resampled
    assert found[1] == 1  # of what no view shows


def test_what_depends_on_the_view_disagrees_and_mirror_images_are_only_seen_where_training_mirrored() -> None:
    image, facts = scan()
    still, turned = (alone(Threshold(3.0), image, facts, mirrored=axes).dice[0] for axes in ((), (0,)))
    assert still > 0.85
    assert turned < 0.75


def test_slices_in_which_views_differ_are_counted() -> None:
    image, facts = scan((48, 48, 5))
    image[[0, 1, 2, 4]] = -1.0  # nothing to see but in the fourth slice
    apart = alone(Threshold(), image, facts).apart
    assert apart.shape == (2, 5)
    assert apart[0, 3] > 0  # edges are resampled
    assert apart[0].sum() == apart[0, 3]
    assert apart[1].sum() == 0


@pytest.mark.parametrize("view", VIEWS[1:])
def test_every_view_comes_back(view: View) -> None:
    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(2, 3, 6, 7))), (60, 70), mode="bicubic", align_corners=False
    )
    grid = views._Grid(view, (True, True), (60, 70), CPU)
    there = torch.from_numpy(grid.seen(smooth.numpy().astype(np.float16))).float()
    back = (grid.back(there.movedim(1, 0)).movedim(1, 0) - view.brightness) / view.contrast
    middle = (..., slice(8, -8), slice(8, -8))
    assert (back[middle] - smooth[middle]).abs().mean() < 0.05
    assert (there - smooth).abs().mean() > 0.1


def test_it_is_the_mean_of_the_dice_of_all_pairs() -> None:
    image, facts = scan()
    network: Any = Threshold(3.0)
    maps = []
    for view in VIEWS:
        grid = views._Grid(view, (True, True), (48, 48), CPU)
        seen = torch.from_numpy(grid.seen(image)).float() if view != View() else torch.from_numpy(image).float()
        with torch.inference_mode():
            probabilities = network(seen).softmax(1)
        home = probabilities if view == View() else grid.back(probabilities.movedim(1, 0)).movedim(1, 0)
        maps.append((home.argmax(1) == 1).numpy())
    dice = [
        2 * (one & other).sum() / (one.sum() + other.sum())
        for place, one in enumerate(maps)
        for other in maps[place + 1 :]
    ]
    assert alone(network, image, facts, mirrored=(0, 1)).dice[0] == pytest.approx(np.mean(dice), abs=1e-6)


def maps_of(networks: list[Any], image: NDArray[np.float16]) -> list[NDArray[np.bool_]]:
    """Where each view of an ensemble has class 1, its probabilities being means."""
    maps = []
    for view in VIEWS:
        grid = views._Grid(view, (True, True), (48, 48), CPU)
        seen = torch.from_numpy(grid.seen(image) if view != View() else image).float()
        with torch.inference_mode():
            mean = torch.stack([network(seen).softmax(1) for network in networks]).mean(0)
        home = mean if view == View() else grid.back(mean.movedim(1, 0)).movedim(1, 0)
        maps.append((home.argmax(1) == 1).numpy())
    return maps


def test_an_ensemble_is_seen_by_the_means_of_its_networks() -> None:
    image, facts = scan()
    networks: list[Any] = [Threshold(3.0), Threshold(-3.0), Threshold()]
    found = agreement(networks, image, facts, CPU, mirrored=(0, 1))
    pairs = list(itertools.combinations(maps_of(networks, image), 2))
    dice = [2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]
    assert found.together.dice[0] == pytest.approx(np.mean(dice), abs=1e-6)
    assert found.together.dice[0] > max(found.alone[0].dice[0], found.alone[1].dice[0]) + 0.1, "errors cancel out"
    for network, own in zip(networks, found.alone, strict=True):
        (by_itself,) = agreement([network], image, facts, CPU, mirrored=(0, 1)).alone
        assert np.array_equal(own.dice, by_itself.dice)
        assert np.array_equal(own.apart, by_itself.apart)


def test_whether_every_view_shows_a_structure() -> None:
    image, facts = scan()
    assert alone(Threshold(), image, facts).shown.tolist() == [True, False]
    assert alone(Threshold(), -np.ones_like(image), facts).shown.tolist() == [False, False]


def test_volumes_are_seen_in_tiles() -> None:
    module = plugins.load("backbones", "unet3d")
    torch.manual_seed(0)
    network = module.Backbone(
        resolve(module.Settings, {"base_width": 4, "norm": "group"}), in_channels=1, num_classes=3
    ).eval()
    image, facts = scan((32, 32, 20))
    found = alone(network, image, facts, patch_px=(16, 32, 32), mirrored=(0, 1, 2))
    assert found.dice.shape == (2,)
    assert ((found.dice >= 0) & (found.dice <= 1)).all()
    assert found.apart.shape == (2, len(image))
