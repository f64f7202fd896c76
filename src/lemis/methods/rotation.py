"""Rotation: Unsupervised Representation Learning by Predicting Image Rotations. S. Gidaris, P. Singh, N. Komodakis.
ICLR 2018, https://arxiv.org/abs/1803.07728. As the PCL protocol runs it on slices; on patches of volumes, turned in the
plane of the slices.

    L = 1/(4N) sum_i sum_{r = 0..3} CE( head(encoder(rotate(x_i, 90 r degrees))), r )

Every slice or patch is seen in all four rotations in one batch; no other augmentation. The batch, the head (pooled
MLP) and the optimiser are those of the PCL authors' next repository. Left out: nothing of the method; the RotNet
architecture is not used, the backbone is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.parts import heads
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views, warping
from lemis.sampling.spatial import CROP_ONLY, Size, patch_of

DIMS = (2, 3)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL authors' values for this baseline."""

    batch_size: Annotated[int, Field(gt=0)] = 16  # slices or patches; four times as many images
    size_px: Size = 352  # side of a view, as PCL; also [slices, rows, cols] in 3D, with rows = cols


@final
class Views(contracts.Views[Settings]):
    """The four in-plane rotations of one randomly placed crop; the view number is the class."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``0`` to ``3``: quarter turns of the same crop, each (B, C, *out)."""
        crop = views.random_view(CROP_ONLY, batch, self.settings.size_px, rng)
        return {str(turns): warping.quarter_turns(crop, turns) for turns in range(4)}


@final
class Method(Pretext[Settings, Views]):
    """Encoder, pooled MLP, four classes."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        patch_px = patch_of(settings.size_px, backbone.dims, square=True)
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, patch_px=patch_px)
        self.classify = heads.PooledMLP(backbone.channels[-1], 4)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices or patches -> 4N rotated ones -> cross-entropy of the predicted turn."""
        features = self.backbone.encode(together(self.views(batch, rng)))[-1]
        logits = self.classify(features).float()  # (4N, 4)
        turn = torch.arange(4, device=logits.device).repeat_interleave(len(batch.image))
        return Outcome({"rotation": F.cross_entropy(logits, turn)}, {}, {"rotation": log(4)})
