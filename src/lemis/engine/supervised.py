"""Fine-tuning: the objective that takes a labelled batch, and its score on held-out slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lemis.contracts import Backbone, Batch, Draw, KeypointBackbone, Outcome
from lemis.data import intensity, views
from lemis.data.samples import Slices
from lemis.measure.scores import PooledDice, pooled_dice
from lemis.parts.overlap import cross_entropy, soft_dice_loss

Share = Annotated[tuple[views.Probability, views.Probability], AfterValidator(views.ordered)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL protocol's fine-tuning, by default."""

    batch_size: Annotated[int, Field(gt=0)] = 10  # slices
    loss: Literal["cross_entropy", "dice_and_cross_entropy"] = "cross_entropy"
    size_px: int = 352  # side of a training view
    keypoint_share: Share = (1.0, 1.0)  # of a view's keypoints that the network is given; KAF's code: a random part
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
        logits = _logits(self.backbone, image, _some(view.keypoints, self.settings.keypoint_share, rng))
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
        predicted = padded_logits(backbone, batch.image, batch.keypoints).argmax(1)
        yield predicted.cpu().numpy(), batch.label.cpu().numpy()


def padded_logits(backbone: Backbone, image: Tensor, keypoints: Tensor | None = None) -> Tensor:
    """Logits of images of any size: zero-padded, centred, to what the network divides by.

    Args:
        backbone: In evaluation mode.
        image: (B, C, *space).
        keypoints: (B, K, d) in pixels of ``image``; where None, a network that looks at keypoints finds them itself,
            before the padding, which has edges of its own.

    Returns:
        (B, classes, *space) float32.
    """
    divisor = max(backbone.strides)
    wanted = [-(-side // divisor) * divisor for side in image.shape[2:]]
    before = [(new - old) // 2 for new, old in zip(wanted, image.shape[2:], strict=True)]
    after = [new - old - lead for new, old, lead in zip(wanted, image.shape[2:], before, strict=True)]
    padding: Sequence[int] = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    if keypoints is None and isinstance(backbone, KeypointBackbone) and backbone.keypoint_channels:
        keypoints = backbone.find(image)
    if keypoints is not None:
        keypoints = keypoints + keypoints.new_tensor(before)
    logits = _logits(backbone, nn.functional.pad(image, list(padding)), keypoints)
    for axis, (lead, size) in enumerate(zip(before, image.shape[2:], strict=True), start=2):
        logits = logits.narrow(axis, lead, size)
    out: Tensor = logits.float()
    return out


def _some(keypoints: Tensor | None, share: tuple[float, float], rng: Draw) -> Tensor | None:
    """A random share of the keypoints (B, K, 2) of each view, the others NaN: so that none of them is relied on."""
    if keypoints is None or share == (1.0, 1.0):
        return keypoints
    rows, most = keypoints.shape[:2]
    dropped = rng.uniform(rows, most) >= rng.uniform(rows, 1, low=share[0], high=share[1])
    return keypoints.masked_fill(dropped[..., None], torch.nan)


def _logits(backbone: Backbone, image: Tensor, keypoints: Tensor | None) -> Tensor:
    logits: Tensor = backbone(image, keypoints) if isinstance(backbone, KeypointBackbone) else backbone(image)
    return logits
