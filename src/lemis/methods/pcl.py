"""PCL: Positional Contrastive Learning for Volumetric Medical Image Segmentation. D. Zeng, Y. Wu, X. Hu, X. Xu,
H. Yuan, M. Huang, J. Zhuang, J. Hu, Y. Shi. MICCAI 2021, https://arxiv.org/abs/2106.09157.

Slices at about the same relative height of any two scans show about the same anatomy, so they are positives:

    Lambda(i) = { j != i : |p_i - p_j| < t },   p = (slice index + 1) / number of slices
    L_i       = -1/|Lambda(i)| sum_{j in Lambda(i)} log [ exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) ],  s = cosine

In volumes, which the paper does not have, i and j are patches and p is the relative height of a patch's middle. Patches
nearly as high as their scans are all at one height, and there is nothing to learn: they should have few slices.

Differences from the authors' code: both views go through the encoder together (``views_together``), so batch statistics
are over 2N images; the logarithm is taken stably; views are read from the whole slice in one resampling, so no pixel of
a rotated view is black unless it lies outside the slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, final

import torch
from pydantic import Field

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome
from lemis.parts import heads
from lemis.parts.contrast import contrasted, near
from lemis.parts.pretext import Pretext
from lemis.sampling import views
from lemis.sampling.spatial import Size, Spatial, patch_of

DIMS = (2, 3)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The authors' values for ACDC; [C] is their released code."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices or patches; twice as many views [C]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau [C]
    threshold: Annotated[float, Field(gt=0)] = 0.35  # t: 0.35 on ACDC, 0.1 on CHD [C]
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # [C]: the loss times tau / 0.07; None: as printed
    embedding: Annotated[int, Field(gt=0)] = 512  # [C]
    views_together: bool = True  # False: one forward pass a view, as [C]
    size_px: Size = 352  # side of a view; 512 on CHD [C]; also [slices, rows, cols] in 3D
    spatial: Spatial = field(default_factory=Spatial)  # the chain of [C]


Views = views.TwoViews  # ``first`` and ``second`` of every slice or patch


@final
class Method(Pretext[Settings, Views]):
    """Encoder, global average pooling, Linear-ReLU-Linear; the positional mask; the loss."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        patch_px = patch_of(settings.size_px, backbone.dims)
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, patch_px=patch_px)
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices or patches -> 2N views -> the positional contrast of their 2N embeddings."""
        pair = self.views(batch, rng)
        images = [pair["first"].image, pair["second"].image]
        passes = [torch.cat(images)] if self.settings.views_together else images
        embedded = [self.project(self.backbone.encode(image)[-1]) for image in passes]
        z = processes.gather(torch.cat(embedded))  # (2N, embedding)
        position = processes.gather(batch.position.repeat(2))  # (2N,)
        close = near(position, self.settings.threshold)  # Lambda
        return contrasted(z, close, self.settings.temperature, self.settings.temperature_base)
