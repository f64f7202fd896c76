"""Several runs on one image, and which of them is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemis.contracts import Segmented
from lemis.one_image.starts import START_STRIDE, best_of, explained


def slow(image: Tensor, labels: Tensor) -> float:
    """1 - within / total, pixel by pixel."""
    pixels = {at: image[:, at[0], at[1]].numpy() for at in np.ndindex(*labels.shape)}
    clusters: dict[int, list[np.ndarray]] = {}
    for at, pixel in pixels.items():
        clusters.setdefault(int(labels[at]), []).append(pixel)
    within = sum(((pixel - np.mean(of, 0)) ** 2).sum() for of in clusters.values() for pixel in of)
    mean = np.mean(list(pixels.values()), 0)
    return float(1 - within / sum(((pixel - mean) ** 2).sum() for pixel in pixels.values()))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 7))
def test_explained_is_one_less_the_share_within_clusters(seed: int, channels: int, clusters: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand((channels, 4, 5), generator=rng, dtype=torch.float64)
    labels = torch.randint(clusters, (4, 5), generator=rng)
    assert explained(image, labels) == pytest.approx(slow(image, labels), abs=1e-12)
    assert explained(image, labels + 3) == pytest.approx(explained(image, labels), abs=1e-12), "numbers mean nothing"


def test_explained_at_its_ends() -> None:
    image = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert explained(image, torch.tensor([[0, 0, 1, 1]])) == 1
    assert explained(image, torch.tensor([[4, 4, 4, 4]])) == 0
    assert explained(image, torch.tensor([[0, 1, 0, 1]])) == 0
    assert explained(torch.full((2, 1, 4), 0.3), torch.tensor([[0, 1, 0, 1]])) == 1, "a flat image has nothing to tell"


class Told:
    """Runs whose labels are told in advance; remembers the seeds."""

    def __init__(self, *labels: Sequence[Sequence[int]]) -> None:
        self.labels, self.seeds = list(labels), list[list[int]]()

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Segmented:
        call = len(self.seeds)
        self.seeds.append(list(seeds))
        found = torch.tensor(self.labels[call])[:, None]
        return Segmented(found, (10 + call,) * len(images), (call,) * len(images))


def test_each_image_keeps_the_start_that_explains_most_of_it() -> None:
    images = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])[:, None, None]
    run = Told([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 1, 0, 1], [2, 0, 0, 0]], [[5, 5, 0, 0], [0, 0, 0, 0]])
    kept = best_of(3, run, images, [4, 9])
    assert kept.labels[:, 0].tolist() == [[0, 0, 1, 1], [2, 0, 0, 0]], "of equal ones the first"
    assert (kept.iterations, kept.restarts) == ((10, 11), (0, 1)), "of the run that gave the labels"
    assert run.seeds == [[4, 9], [4 + START_STRIDE, 9 + START_STRIDE], [4 + 2 * START_STRIDE, 9 + 2 * START_STRIDE]]


def test_one_start_is_the_run_itself() -> None:
    run = Told([[0, 1, 0, 1]])
    kept = best_of(1, run, torch.rand(1, 1, 1, 4), [7])
    assert kept.labels[0, 0].tolist() == [0, 1, 0, 1]
    assert run.seeds == [[7]]
