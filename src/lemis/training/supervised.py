"""Fine-tuning: the objective that takes a labelled batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lemis.contracts import Auxiliary, Backbone, Batch, Draw, KeypointBackbone, Outcome
from lemis.parts.overlap import cross_entropy, soft_dice_loss
from lemis.sampling import intensity, views
from lemis.sampling.spatial import Size, Spatial
from lemis.settings import Probability, ordered

Share = Annotated[tuple[Probability, Probability], AfterValidator(ordered)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL protocol's fine-tuning, by default."""

    batch_size: Annotated[int, Field(gt=0)] = 10  # slices, or patches of volumes
    # dice_squared: over all classes with squares in the denominator, as V-Net prints it (Voxel Siamese, equation 3).
    loss: Literal["cross_entropy", "dice_and_cross_entropy", "dice_squared"] = "cross_entropy"
    size_px: Size = 352  # of a training view; in 3D also [slices, rows, cols]
    foreground_share: Probability = 1 / 3  # 3D: of a batch's patches, at a labelled voxel; nnU-Net v2's
    keypoint_share: Share = (1.0, 1.0)  # of a view's keypoints that the network is given; KAF's code: a random part
    spatial: Spatial = field(default_factory=Spatial)  # CROP_ONLY's values on CHD
    intensity: intensity.Intensity = field(default_factory=intensity.Intensity)  # none, as in the protocol


@final
class Objective(nn.Module):
    """Backbone, augmented view, cross-entropy or soft Dice or both, and an auxiliary loss where there is one."""

    def __init__(self, backbone: Backbone, settings: Settings, auxiliary: Auxiliary | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.auxiliary = auxiliary

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """A labelled batch -> its loss terms."""
        view = views.random_view(self.settings.spatial, batch, self.settings.size_px, rng)
        image = intensity.augment(view.image, self.settings.intensity, rng)
        keypoints = _some(view.keypoints, self.settings.keypoint_share, rng)
        maps = _maps(self.backbone, image, keypoints)
        logits = self.backbone.head(self.backbone.decode(maps))
        assert view.label is not None, "fine-tuning needs labels"
        losses = self._losses(logits, view.label)
        if self.auxiliary is None:
            return Outcome(losses)
        extra: Outcome = self.auxiliary(maps, view.label, logits, rng)
        return extra._replace(losses={**losses, **extra.losses})

    def _losses(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        if self.settings.loss == "dice_squared":
            return {"dice": soft_dice_loss(logits, label, squared=True, background=True)}
        losses = {"cross_entropy": cross_entropy(logits, label)}
        if self.settings.loss == "dice_and_cross_entropy":
            losses["dice"] = soft_dice_loss(logits, label)
        return losses


def _some(keypoints: Tensor | None, share: tuple[float, float], rng: Draw) -> Tensor | None:
    """A random share of the keypoints (B, K, 2) of each view, the others NaN: so that none of them is relied on."""
    if keypoints is None or share == (1.0, 1.0):
        return keypoints
    rows, most = keypoints.shape[:2]
    dropped = rng.uniform(rows, most) >= rng.uniform(rows, 1, low=share[0], high=share[1])
    return keypoints.masked_fill(dropped[..., None], torch.nan)


def _maps(backbone: Backbone, image: Tensor, keypoints: Tensor | None) -> list[Tensor]:
    return backbone.encode(image, keypoints) if isinstance(backbone, KeypointBackbone) else backbone.encode(image)
