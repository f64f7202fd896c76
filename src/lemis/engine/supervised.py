"""Fine-tuning: the objective that takes a labelled batch, and its score on held-out slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from lemis.contracts import Backbone, Batch, Draw, Outcome
from lemis.data import intensity, views
from lemis.data.samples import Slices
from lemis.measure.scores import PooledDice, pooled_dice
from lemis.parts.overlap import cross_entropy, soft_dice_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL protocol's fine-tuning, by default."""

    batch_size: Annotated[int, Field(gt=0)] = 10  # slices
    loss: Literal["cross_entropy", "dice_and_cross_entropy"] = "cross_entropy"
    size_px: int = 352  # side of a training view
    spatial: views.Spatial = field(default_factory=views.Spatial)  # views.CROP_ONLY's values on CHD
    intensity: intensity.Intensity = field(default_factory=intensity.Intensity)  # none, as in the protocol


@final
class Objective(nn.Module):
    """Backbone, augmented view, cross-entropy (and soft Dice)."""

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """A labelled batch -> its loss terms."""
        view = views.random_view(self.settings.spatial, batch, self.settings.size_px, rng)
        image = intensity.augment(view.image, self.settings.intensity, rng)
        logits = self.backbone(image)
        assert view.label is not None, "fine-tuning needs labels"
        losses = {"cross_entropy": cross_entropy(logits, view.label)}
        if self.settings.loss == "dice_and_cross_entropy":
            losses["dice"] = soft_dice_loss(logits, view.label)
        return Outcome(losses)


@torch.no_grad()
def network_grid_dice(backbone: Backbone, slices: Slices, num_classes: int, batch_size: int = 32) -> PooledDice:
    """Dice pooled over all slices, on the grid the network sees (the ``paper`` protocol), in evaluation mode."""
    was_training = backbone.training
    backbone.eval()
    order = np.arange(len(slices))
    batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    score = pooled_dice(_maps(backbone, slices, batches), num_classes)
    backbone.train(was_training)
    return score


def _maps(backbone: Backbone, slices: Slices, batches: Sequence[NDArray]) -> Iterator[tuple[NDArray, NDArray]]:
    for batch in slices.stream(batches):
        assert batch.label is not None, "a score needs labels"
        predicted = padded_logits(backbone, batch.image).argmax(1)
        yield predicted.cpu().numpy(), batch.label.cpu().numpy()


def padded_logits(backbone: Backbone, image: Tensor) -> Tensor:
    """Logits (B, K, *space) float32 for an image of any size: zero-padded, centred, to what the network divides by."""
    divisor = max(backbone.strides)
    wanted = [-(-side // divisor) * divisor for side in image.shape[2:]]
    before = [(new - old) // 2 for new, old in zip(wanted, image.shape[2:], strict=True)]
    after = [new - old - lead for new, old, lead in zip(wanted, image.shape[2:], before, strict=True)]
    padding: Sequence[int] = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    logits = backbone(nn.functional.pad(image, list(padding)))
    for axis, (lead, size) in enumerate(zip(before, image.shape[2:], strict=True), start=2):
        logits = logits.narrow(axis, lead, size)
    out: Tensor = logits.float()
    return out
