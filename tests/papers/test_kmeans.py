"""k-means: what it finds where the answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.single.kmeans import Settings, segment


def same_partition(a: Tensor, b: Tensor) -> bool:
    """Whether two label maps are equal up to the names of their labels."""
    pairs = torch.stack([a.flatten(), b.flatten()], 1).unique(dim=0)
    return len(pairs) == len(a.unique()) == len(b.unique())


def tiles(levels: tuple[float, ...], side: int = 12, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """An image (1, 3, side, side) of vertical stripes, and which stripe a pixel is of."""
    stripe = torch.arange(side) * len(levels) // side
    truth = stripe.expand(side, side)
    generator = torch.Generator().manual_seed(0)
    image = torch.tensor(levels)[truth].expand(1, 3, side, side)
    return (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1), truth


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.1, 0.5, 0.9), (0.0, 0.3, 0.6, 0.9)])
def test_stripes_are_found(levels: tuple[float, ...]) -> None:
    image, truth = tiles(levels, noise=0.03)
    found = segment(image, Settings(clusters=len(levels)), [3])
    assert same_partition(found.labels[0], truth)
    assert found.restarts == (0,)
    assert found.iterations[0] >= 1


def inertia(image: Tensor, label: Tensor) -> float:
    """Sum of squared distances to the means, by a loop."""
    total = 0.0
    for name in label.unique():
        pixels = image[:, label == name].double()
        total += float((pixels - pixels.mean(1, keepdim=True)).square().sum())
    return total


@examples(20)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_each_pixel_is_nearest_to_its_own_mean(seed: int, clusters: int) -> None:
    # Rounded, so that most pixels have an equal: their weights must count.
    image = (torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(seed)) * 3).round() / 3
    label = segment(image[None], Settings(clusters=clusters), [seed]).labels[0]
    means = torch.stack([image[:, label == name].double().mean(1) for name in range(clusters)])
    distance = torch.cdist(image.double().flatten(1).T, means)
    own = distance.gather(1, label.flatten()[:, None])
    assert (own <= distance.min(1, keepdim=True).values + 1e-6).all()


def test_the_best_of_several_starts_is_kept() -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    one, many = (segment(image[None], Settings(clusters=5, starts=n), [0]).labels[0] for n in (1, 20))
    assert inertia(image, many) <= inertia(image, one)


def test_places_split_what_has_one_colour() -> None:
    image = torch.full((1, 1, 6, 24), 0.5)
    assert segment(image, Settings(clusters=2), [0]).labels.unique().tolist() == [0]
    halves = segment(image, Settings(clusters=2, weight_place=1.0), [0]).labels[0]
    assert same_partition(halves, (torch.arange(24) // 12).expand(6, 24))


def test_a_pixel_has_one_cluster() -> None:
    for weight in (0.0, 1.0):
        found = segment(torch.full((1, 3, 1, 1), 0.2), Settings(weight_place=weight), [0])
        assert found.labels.tolist() == [[[0]]]
