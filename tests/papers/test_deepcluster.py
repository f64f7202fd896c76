"""DeepCluster (Caron et al. 2018) on pixels: k-means with its splits, the balanced loss, the features, the rounds."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from how_many import examples
from lemis.one_image import solo
from lemis.single.deepcluster import Classifier, Settings, balanced, described, kmeans, segment, split_largest


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dims, generator=rng(seed), dtype=torch.float64)


def slow_kmeans(x: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> list[int]:
    """Lloyd, read aloud; no cluster is empty in what it is compared on."""
    means = [x[i] for i in torch.randperm(len(x), generator=generator)[:clusters]]

    def nearest() -> list[int]:
        return [min(range(clusters), key=lambda c: float((each - means[c]).square().sum())) for each in x]

    for _ in range(iterations):
        label = nearest()
        assert set(label) == set(range(clusters))
        means = [
            torch.stack([each for each, c in zip(x, label, strict=True) if c == k]).mean(0) for k in range(clusters)
        ]
    return nearest()


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_is_lloyd(seed: int) -> None:
    x = points(40, 3, seed)
    assert kmeans(x, 3, 4, rng(seed)).tolist() == slow_kmeans(x, 3, 4, rng(seed))


@examples(20)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_equal_starts_do_not_end_in_one_cluster(seed: int, clusters: int) -> None:
    # Most points are equal, so all means may start from one place, and all but one cluster is empty at first.
    x = points(clusters, 2, seed).repeat_interleave(torch.tensor([30] + [1] * (clusters - 1)), 0)
    label = kmeans(x, clusters, 20, rng(seed))
    sums = (x - torch.stack([x[label == c].mean(0) for c in range(clusters) if (label == c).any()])[:, None]).norm(
        dim=-1
    )
    assert len(label.unique()) > 1
    assert sums.min(0).values.sum() < (x - x.mean(0)).norm(dim=1).sum()


def test_an_empty_cluster_splits_the_largest() -> None:
    means = torch.tensor([[1.0, 2.0, 3.0], [9.0, 9.0, 9.0], [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    found = split_largest(means, torch.tensor([90.0, 0.0, 60.0, 0.0]))
    # First 90 is halved to 45 and 45; then 60 is the largest.
    around = [(means[0], found[0], found[1]), (means[2], found[2], found[3])]
    for centre, a, b in around:
        torch.testing.assert_close((a + b) / 2, centre)
        assert 0 < (a - b).norm() < 0.01 * centre.norm()
    assert torch.equal(split_largest(means, torch.ones(4)), means)


def test_more_clusters_than_points() -> None:
    assert len(kmeans(points(3, 2), 5, 4, rng()).unique()) == 3


def test_features_have_length_one_and_are_whitened_where_wide() -> None:
    x = points(200, 6) @ torch.diag(torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)) + 3
    torch.testing.assert_close(described(x, 6), x / x.norm(dim=1, keepdim=True))
    centred = x - x.mean(0)
    left, _, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = left[:, :4] * len(x) ** 0.5
    found = described(x, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(200, dtype=torch.float64))
    # Up to the order and the signs of the axes: the same cosines between points.
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-6, atol=1e-8)


def test_every_cluster_weighs_the_same() -> None:
    logits = torch.randn(2, 3, 7, generator=rng(), dtype=torch.float64)
    label = torch.tensor([[0, 0, 0, 0, 1, 1, 2], [2, 2, 2, 0, 0, 0, 0]])
    for row, found in enumerate(balanced(logits, label)):
        terms = []
        for c in label[row].unique():
            of_c = [-logits[row, :, u].log_softmax(0)[c].item() for u in range(7) if label[row, u] == c]
            terms.append(sum(of_c) / len(of_c))
        assert found.item() == pytest.approx(sum(terms) / len(terms))
    assert balanced(torch.zeros(1, 3, 7), label[:1]).item() == pytest.approx(log(3))


def test_a_new_classifier_knows_nothing() -> None:
    classifier = Classifier(solo.generators([0]), Settings(clusters=50))
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    features = torch.randn(1, 100, 4, 5, generator=rng())
    out = classifier(features)
    torch.testing.assert_close(out[0], classifier.weight[0] @ features[0].flatten(1))
    assert out.shape == (1, 50, 20)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_disc_is_found(steps: int) -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    disc = rows.square() + columns.square() < 0.4
    image = (0.2 + 0.6 * disc + 0.05 * torch.randn(1, 3, 24, 24, generator=rng())).clamp(0, 1)
    result = segment(image, Settings(clusters=3, width=16, rounds=5, steps=steps), [0])
    assert result.iterations == (5 * steps,)
    inside = result.labels[0][disc].bincount(minlength=3)
    outside = result.labels[0][~disc].bincount(minlength=3)
    assert torch.minimum(inside, outside).sum() < 0.1 * disc.numel(), "a cluster is of the disc or of the rest"
