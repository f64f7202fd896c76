"""DeepCluster: Deep Clustering for Unsupervised Learning of Visual Features. M. Caron, P. Bojanowski, A. Joulin,
M. Douze. ECCV 2018, https://arxiv.org/abs/1807.05520.

Clusters of the features are the classes that the network learns next, and so on:

    (1)  f_i = features of sample i, PCA to 256 dimensions with whitening, length 1
    (2)  y   = k-means of the f_i, 20 iterations from new starts; an empty cluster splits the largest
    (3)  a new classifier W ~ N(0, 0.01^2), and SGD on W and the network with CE(W f_i, y_i), clusters equally often

The paper's samples are images. INFERRED, for one image: its pixels are the samples, the features are those of SGSCN's
three-layer CNN before its last layer (100 dimensions, so PCA has nothing to do), and an epoch is one step of gradient
descent over all pixels at once. Clusters count equally by weights, not by sampling. The labels are the clusters of the
last features. The papers that compare with it do not say their k; were it the width 100 of the CNN, an image would be
cut into 100 parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis.contracts import Segmented
from lemis.one_image import solo, starts
from lemis.one_image.pixel_cnn import Trunk

_SPLIT = 1e-3  # of its values: how far the two means of a cluster that was split start from it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper, on images; INFERRED for the pixels of one."""

    clusters: Annotated[int, Field(gt=1)] = 3  # k: as of k-means here, INFERRED; 10,000 [P]
    rounds: Annotated[int, Field(gt=0)] = 50  # INFERRED; 200 [P]
    steps: Annotated[int, Field(gt=0)] = 1  # of gradient descent a round, INFERRED; an epoch [P]
    pca: Annotated[int, Field(gt=0)] = 256  # dimensions; wider features are whitened [P]
    kmeans_iterations: Annotated[int, Field(gt=0)] = 20  # [P]
    width: Annotated[int, Field(gt=0)] = 100  # of the CNN: SGSCN's
    classifier_std: Annotated[float, Field(gt=0)] = 0.01  # of a new classifier [P]
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.05  # [P]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # [P]
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5  # [P]
    starts: Annotated[int, Field(gt=0)] = 1  # networks an image; the one that explains most of it is kept, ours


PRESETS = {"small": Settings(starts=3)}  # as many as S3-Net has there


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1] and their N seeds -> the cluster of each pixel, at most ``clusters`` an image."""
    return starts.best_of(settings.starts, partial(_rounds, settings), images, seeds)


def _rounds(how: Settings, images: Tensor, seeds: Sequence[int]) -> Segmented:
    rngs = solo.generators(seeds)
    network = Trunk(rngs, images.shape[1], how.width).to(images.device, images.dtype)
    descent = _sgd(network, how)
    for _ in range(how.rounds):
        features = network(images)
        label = _clusters(features.detach(), how, rngs)
        classifier = Classifier(rngs, how).to(images.device, images.dtype)
        top = _sgd(classifier, how)
        for step in range(how.steps):
            features = network(images) if step > 0 else features
            loss = balanced(classifier(features), label).sum()  # images share no parameter
            descent.zero_grad()
            top.zero_grad()
            loss.backward()
            descent.step()
            top.step()
    with torch.no_grad():
        label = _clusters(network(images), how, rngs)
    n = len(images)
    return Segmented(label.view(n, *images.shape[2:]), (how.rounds * how.steps,) * n, (0,) * n)


@final
class Classifier(nn.Module):
    """The last layer, new in each round: a small random weight and no offset yet."""

    def __init__(self, rngs: Sequence[torch.Generator], settings: Settings) -> None:
        super().__init__()
        self.weight = nn.Parameter(solo.normal(rngs, settings.clusters, settings.width) * settings.classifier_std)
        self.bias = nn.Parameter(torch.zeros(len(rngs), settings.clusters, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(N, D, H, W) -> (N, k, pixels)."""
        return torch.baddbmm(self.bias, self.weight, features.flatten(2))


def balanced(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each image, all clusters that it has weigh the same: (N, k, pixels), (N, pixels) -> (N,)."""
    member = F.one_hot(label, logits.shape[1]).to(logits.dtype)
    size = member.sum(1)  # (N, k)
    share = 1 / (size.clamp(min=1) * (size > 0).sum(1, keepdim=True))
    each = F.cross_entropy(logits, label, reduction="none")
    return (each * share.gather(1, label)).sum(1)


def _clusters(features: Tensor, how: Settings, rngs: Sequence[torch.Generator]) -> Tensor:
    # (N, D, H, W) without gradient -> (N, pixels).
    rows = zip(features.flatten(2).transpose(1, 2), rngs, strict=True)
    return torch.stack([kmeans(described(x, how.pca), how.clusters, how.kmeans_iterations, rng) for x, rng in rows])


def described(features: Tensor, most: int) -> Tensor:
    """(1): (pixels, D) -> (pixels, at most ``most``), length 1; whitened where that is fewer dimensions."""
    if features.shape[1] > most:
        x = features - features.mean(0)
        variance, axes = torch.linalg.eigh(x.T @ x / len(x))  # ascending
        features = x @ axes[:, -most:] * torch.rsqrt(variance[-most:].clamp(min=torch.finfo(x.dtype).eps))
    return F.normalize(features, dim=1)


def kmeans(x: Tensor, clusters: int, iterations: int, rng: torch.Generator) -> Tensor:
    """(2): Lloyd's k-means from points drawn by ``rng``.

    Args:
        x: (points, D).
        clusters: k; fewer where there are fewer points.
        iterations: Exactly so many.
        rng: On the CPU.

    Returns:
        (points,) int64.
    """
    means = x[torch.randperm(len(x), generator=rng)[:clusters].to(x.device)]
    for _ in range(iterations):
        member = F.one_hot(_nearest(x, means), len(means)).to(x.dtype)
        size = member.sum(0)
        means = split_largest((member.T @ x) / size.clamp(min=1)[:, None], size)
    return _nearest(x, means)


def split_largest(means: Tensor, size: Tensor) -> Tensor:
    """Each empty cluster takes half of the one that is largest then: (k, D), (k,) -> (k, D)."""
    means, size = means.clone(), size.clone()
    sign = 1 - 2 * (torch.arange(means.shape[1], device=means.device) % 2).to(means.dtype)
    for empty in (size == 0).nonzero()[:, 0].tolist():
        largest = int(size.argmax())
        centre = means[largest].clone()
        means[empty], means[largest] = centre * (1 + _SPLIT * sign), centre * (1 - _SPLIT * sign)
        size[empty] = size[largest] = size[largest] / 2
    return means


def _nearest(x: Tensor, means: Tensor) -> Tensor:
    return (x @ means.T - means.square().sum(1) / 2).argmax(1)


def _sgd(network: nn.Module, how: Settings) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(), lr=how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
    )
