"""Several runs on one image, of which one is kept: how k-means deals with bad starts, for methods that learn.

Networks from other random weights end in other clusters. Whether those are good, no reference need say: k-means keeps
the start with the least distance of pixels to the means of their clusters, which is to say, the one whose clusters
explain most of the image's variance. That can be asked of any clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lemis.contracts import Segmented

START_STRIDE = 7_368_787  # from a seed to the next start's; a prime, so that it is no restart's seed


def best_of(
    starts: int, run: Callable[[Tensor, Sequence[int]], Segmented], images: Tensor, seeds: Sequence[int]
) -> Segmented:
    """Run so many times on each image, from other seeds; keep the labels that explain most, the first of equal ones.

    Args:
        starts: One or more.
        run: Images and one seed each -> their labels, those of an image not depending on the others.
        images: (N, C, H, W).
        seeds: One per image, of its first start.
    """
    if starts == 1:
        return run(images, seeds)
    runs = [run(images, [seed + start * START_STRIDE for seed in seeds]) for start in range(starts)]
    shares = [[explained(image, label) for image, label in zip(images, one.labels, strict=True)] for one in runs]
    kept = [max(range(starts), key=[of[row] for of in shares].__getitem__) for row in range(len(images))]
    return Segmented(
        torch.stack([runs[start].labels[row] for row, start in enumerate(kept)]),
        tuple(runs[start].iterations[row] for row, start in enumerate(kept)),
        tuple(runs[start].restarts[row] for row, start in enumerate(kept)),
    )


def explained(image: Tensor, labels: Tensor) -> float:
    """Share of the variance of pixels (C, H, W) that lies between their clusters (H, W); 1 of a flat image."""
    pixels, cluster = image.flatten(1).double(), labels.flatten()
    pixels = pixels - pixels.mean(1, keepdim=True)
    size = torch.bincount(cluster).clamp(min=1)
    sums = torch.stack([torch.bincount(cluster, weights=channel) for channel in pixels])  # (C, clusters)
    between, total = (sums.square() / size).sum(), pixels.square().sum()
    return float(between / total) if total > 0 else 1.0
