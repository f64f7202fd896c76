"""One network on all mirror images of what it sees.

    logits(x) = mean_m m(network(m(x))),   m over every combination of the mirrored axes, none of them included

Logits are averaged, softmax comes after, as in nnU-Net v2 (Isensee et al., Nature Methods 2021): 4 passes for two axes,
8 for three. It is right along axes that training mirrored; along others the network has never seen what it is shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from lemis.contracts import Backbone, KeypointBackbone
from lemis.prediction.padding import padded_logits
from lemis.work_files.run import FinetunedModel


def axes(mirror: Literal["auto"] | bool, models: Sequence[FinetunedModel], dims: int) -> tuple[int, ...]:
    """Axes along which mirror images are seen too.

    Args:
        mirror: The setting of prediction.
        models: Of the runs; ``auto`` takes what the training of each of them mirrored.
        dims: Of the networks.
    """
    if mirror == "auto":
        return tuple(axis for axis in range(dims) if all(axis in (model.mirrored_axes or ()) for model in models))
    return tuple(range(dims)) if mirror else ()


def turns(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes, the one of none first."""
    return [some for number in range(len(axes) + 1) for some in itertools.combinations(axes, number)]


def mean_logits(network: Backbone, image: Tensor, axes: Sequence[int]) -> Tensor:
    """Logits of images of any size; without axes those of ``padded_logits``.

    Keypoints are found once, in the image itself, and mirrored with it, as they are in training.

    Args:
        network: In evaluation mode.
        image: (B, C, *space).
        axes: That are mirrored, counted from the first of space.

    Returns:
        (B, classes, *space) float32.
    """
    total = padded_logits(network, image, keypoints := _found(network, image))
    several = turns(axes)
    for turn in several[1:]:
        sides = [axis + 2 for axis in turn]
        turned = None if keypoints is None else _mirrored(keypoints, turn, image.shape[2:])
        total = total + padded_logits(network, image.flip(sides), turned).flip(sides)
    return total / len(several) if len(several) > 1 else total


def _found(network: Backbone, image: Tensor) -> Tensor | None:
    if isinstance(network, KeypointBackbone) and network.keypoint_channels:
        return network.find(image)
    return None


def _mirrored(keypoints: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
    """(B, K, d) in pixels of an image of this shape -> in those of its mirror image."""
    out = keypoints.clone()
    for axis in axes:
        out[..., axis] = shape[axis] - 1 - out[..., axis]
    return out
