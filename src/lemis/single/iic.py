"""IIC: Invariant Information Clustering for Unsupervised Image Classification and Segmentation. X. Ji, J. F. Henriques,
A. Vedaldi. ICCV 2019, https://arxiv.org/abs/1807.06653.

The cluster of a pixel should say as much as possible about that of the same pixel, or of one near it, in a transformed
copy g x of the image. phi is the softmax of a network, and the copy's is brought back into the frame of the image:

    P_t = sum_u phi_u(x) [g^-1 phi(g x)]_{u+t}^T,   made symmetric, sum 1
    L   = - mean_t I(P_t),   t in {-T .. T}^2

Mutual information I is large where both maps agree and no cluster takes all; nothing pulls clusters together as in
SGSCN, so their number is given. Pixels of which the copy shows nothing do not count.

The paper trains on many images, and the papers that compare with it on one do not say how. INFERRED, then: SGSCN's
three-layer CNN without its last normalisation, one image, its mirror image (or a rotated one) with other colours. The
public runs take turns between this head and one of 15 to 36 clusters; here both are summed in each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis.contracts import Geometry, Segmented
from lemis.one_image import solo
from lemis.one_image.pixel_cnn import Trunk
from lemis.one_image.solo import Networks, Optimiser, Step
from lemis.parts import mutual_information
from lemis.parts.mutual_information import Over
from lemis.sampling import correspondence, warping
from lemis.sampling.spatial import Spatial, draw
from lemis.settings import Probability

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] the authors' public runs of segmentation, on many images; INFERRED for one."""

    clusters: Annotated[int, Field(gt=1)] = 3  # K; 2 to 5, INFERRED
    over_clusters: Annotated[int, Field(ge=0)] = 0  # K of a second head, 15 to 36 [C]; 0, none: time, INFERRED
    reach_px: Annotated[int, Field(ge=0)] = 5  # T [C]; 10 in other runs
    lamb: Annotated[float, Field(gt=0)] = 1.0  # weight of the marginals' entropy [C]; 1.5 for a second head in one run
    over: Over = "uncollapsed"  # mean of I over displacements [C]; collapsed: I of the sum of P_t
    width: Annotated[int, Field(gt=0)] = 100  # of the CNN: SGSCN's
    p_mirror: Probability = 0.5  # of the copy, each axis on its own; INFERRED
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0  # of the copy, at most, either way; none, INFERRED
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.1  # brightness, contrast, saturation: factors of 1 -+ this [C]
    optimiser: Optimiser = "sgd"  # INFERRED: gets farther in 50 iterations than Adam at 1e-4 [C]
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.1  # SGSCN's; 1e-6 to 1e-4 for Adam [C]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # SGSCN's; not read with Adam
    max_iterations: Annotated[int, Field(gt=0)] = 50  # as the others; INFERRED
    stop_labels: Annotated[int, Field(gt=0)] = 1  # the number of clusters is given: only one that took all ends it
    least_iterations: Annotated[int, Field(gt=0)] = 50  # before that: one can come back
    restarts: Annotated[int, Field(ge=0)] = 3  # where one label is left; ours
    starts: Annotated[int, Field(gt=0)] = 1  # networks an image; the one that explains most of it is kept, ours


PRESETS = {"small": Settings(starts=3)}  # as many as S3-Net has there


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1] and their N seeds -> the cluster of each pixel, at most ``clusters`` an image."""
    make = partial(Clustering, settings, images.shape[1])
    return solo.train(make, images, seeds, settings, optimiser=settings.optimiser)


@final
class Clustering(Networks):
    """Conv3x3-ReLU-BN twice, a Conv1x1 a head; the image and its copy; the loss of each head."""

    def __init__(self, settings: Settings, in_channels: int, seeds: Sequence[int]) -> None:
        super().__init__(seeds)
        self.settings = settings
        self.trunk = Trunk(self.rngs, in_channels, settings.width)
        sizes = [size for size in (settings.clusters, settings.over_clusters) if size > 0]
        self.heads = nn.ModuleList([solo.Conv(self.rngs, settings.width, size, 1) for size in sizes])

    def forward(self, images: Tensor) -> Step:
        """(N, C, H, W) -> the loss of each head, and the labels of the first one."""
        how = self.settings
        copy, geometry = self.transform(images)
        features, of_copy = self.trunk(images), self.trunk(copy)
        losses, maps = {}, []
        for name, head in zip(("clusters", "over_clusters"), self.heads, strict=False):
            phi = head(features).softmax(1)
            back, inside = correspondence.carry_back(head(of_copy).softmax(1), geometry, 1, images.shape[2:])
            losses[name] = mutual_information.loss(
                phi, back, inside[:, 0], reach_px=how.reach_px, lamb=how.lamb, over=how.over
            )
            maps.append(phi.detach())
        return Step(losses, maps[0].argmax(1))

    def transform(self, images: Tensor) -> tuple[Tensor, Geometry]:
        """(N, C, H, W) -> g x of the same shape, and g."""
        how, shape, rng = self.settings, images.shape[2:], _Own(self.rngs, images.device)
        spatial = Spatial(
            crop="centre", p_mirror=how.p_mirror, p_spatial=1.0, p_elastic=0.0, p_scale=0.0,
            rotation_degrees=(-how.rotation_deg, how.rotation_deg),
        )  # fmt: skip
        geometry = draw(spatial, len(images), shape, shape, rng)
        factors = rng.uniform(len(images), 3, low=1 - how.jitter, high=1 + how.jitter)
        return warping.apply(geometry, jitter(images, factors)).image, geometry


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Other colours, within [0, 1].

    Args:
        images: (N, C, H, W); grey ones, C = 1, and those of other numbers of channels have no saturation.
        factors: (N, 3) of brightness, of contrast about the mean, and of saturation.
    """
    brightness, contrast, saturation = factors.to(images.dtype)[:, :, None, None, None].unbind(1)
    x = (images * brightness).clamp(0, 1)
    x = x + (contrast - 1) * (x - x.mean((1, 2, 3), keepdim=True))
    if images.shape[1] == 3:
        grey = torch.einsum("nchw,c->nhw", x, x.new_tensor(_GREY))[:, None]
        x = grey + saturation * (x - grey)
    return x.clamp(0, 1)


@final
class _Own:
    """Random numbers of N images, each row from its own generator (``contracts.Draw``)."""

    def __init__(self, rngs: Sequence[torch.Generator], device: torch.device) -> None:
        self._rngs, self._device = rngs, device

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        assert rows == len(self._rngs)
        return solo.uniform(self._rngs, *shape, low=low, high=high).to(self._device)

    def normal(self, rows: int, *shape: int) -> Tensor:
        assert rows == len(self._rngs)
        return solo.normal(self._rngs, *shape).to(self._device)
