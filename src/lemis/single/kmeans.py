"""k-means of the pixels of one image. S. P. Lloyd, Least squares quantization in PCM, 1982,
https://doi.org/10.1109/TIT.1982.1056489; D. Arthur, S. Vassilvitskii, k-means++: the advantages of careful seeding,
2007, https://dl.acm.org/doi/10.5555/1283383.1283494.

The baseline that does not learn: each pixel is its values, and its place if wanted, and k means are looked for with

    min sum_i min_c || x_i - m_c ||^2,   x_i = (v_i, w row_i, w col_i)

from several careful starts, of which the best is kept. scikit-learn does it. No paper that compares with k-means on PH2
or on lung CT says its k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from sklearn.cluster import KMeans
from torch import Tensor

from lemis.contracts import Segmented


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The papers name the method alone; INFERRED our choice."""

    clusters: Annotated[int, Field(gt=1)] = 3  # k, INFERRED; 2 to 5 are worth trying
    starts: Annotated[int, Field(gt=0)] = 10  # k-means++ starts, the best is kept; scikit-learn's custom
    max_iterations: Annotated[int, Field(gt=0)] = 300  # of Lloyd, per start; scikit-learn's default
    weight_place: Annotated[float, Field(ge=0)] = 0.0  # w; places run from 0 to 1 along the longer side; INFERRED: none


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1] and their N seeds -> the cluster of each pixel.

    An image with fewer different pixels than k has as many clusters as it has different pixels.
    """
    found = [_cluster(image, settings, seed) for image, seed in zip(images, seeds, strict=True)]
    labels = torch.stack([torch.from_numpy(label).to(images.device) for label, _ in found])
    return Segmented(labels, tuple(count for _, count in found), (0,) * len(found))


def _cluster(image: Tensor, settings: Settings, seed: int) -> tuple[np.ndarray, int]:
    shape = image.shape[1:]
    features = np.stack([*image.double().cpu().numpy(), *_places(shape, settings.weight_place)], axis=-1)
    # Pixels that are alike are one point with a weight: a slice has 100 times fewer different values than pixels.
    points, which, count = np.unique(features.reshape(-1, features.shape[-1]), axis=0, return_inverse=True,
                                     return_counts=True)  # fmt: skip
    means = KMeans(
        min(settings.clusters, len(points)),
        n_init=settings.starts,
        max_iter=settings.max_iterations,
        random_state=seed % 2**32,
    ).fit(points, sample_weight=count)
    return means.labels_[which.reshape(-1)].reshape(shape).astype(np.int64), int(means.n_iter_)


def _places(shape: Sequence[int], weight: float) -> list[np.ndarray]:
    if weight == 0:
        return []
    longest = max(*shape, 2) - 1
    return [weight * axis / longest for axis in np.meshgrid(*map(np.arange, shape), indexing="ij")]
