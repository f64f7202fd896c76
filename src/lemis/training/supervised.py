"""Fine-tuning: the objective that takes a labelled batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from lemis.contracts import Auxiliary, Backbone, Batch, Draw, KeypointBackbone, Outcome, Trained, View
from lemis.parts.keypoint_share import ALL, Share, some
from lemis.parts.overlap import cross_entropy, soft_dice_loss
from lemis.parts.paste import as_many
from lemis.sampling import intensity, views
from lemis.sampling.spatial import Size, Spatial
from lemis.settings import Probability
from lemis.training.deep_supervision import DeepSupervision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL protocol's fine-tuning, by default."""

    batch_size: Annotated[int, Field(gt=0)] = 10  # slices, or patches of volumes
    # dice_squared: over all classes with squares in the denominator, as V-Net prints it (Voxel Siamese, equation 3).
    loss: Literal["cross_entropy", "dice_and_cross_entropy", "dice_squared"] = "cross_entropy"
    deep_supervision: bool = False  # losses on inner maps of the decoder too, as nnU-Net; on labels alone
    size_px: Size = 352  # of a training view; in 3D also [slices, rows, cols]
    foreground_share: Probability = 1 / 3  # 3D: of a batch's patches, at a labelled voxel; nnU-Net v2's
    keypoint_share: Share = ALL  # of a view's keypoints that the network is given; KAF's authors: "poorest"
    spatial: Spatial = field(default_factory=Spatial)  # CROP_ONLY's values on CHD
    intensity: intensity.Intensity = field(default_factory=intensity.Intensity)  # none, as in the protocol


@final
class Objective(Trained):
    """Backbone, augmented view, cross-entropy or soft Dice or both, and an auxiliary loss where there is one.

    It is a ``contracts.Labelled``, which ways to use unlabelled scans too are built on.

    Args:
        backbone: The network in training.
        settings: Of the objective.
        auxiliary: An extra loss.
        another: Builds a second network, for a way that trains two.
        deep: Of inner maps of the decoder, where these have losses too.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        auxiliary: Auxiliary | None = None,
        another: Callable[[], Backbone] | None = None,
        deep: DeepSupervision | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.auxiliary = auxiliary
        self.deep = deep
        self._another = another

    @property
    def predicts(self) -> Backbone:
        """The network that is scored, kept and used: the one in training."""
        return self.backbone

    def another(self) -> Backbone:
        """A second network, begun as the first one was."""
        assert self._another is not None, "given where a way that trains two networks is built"
        return self._another()

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """A labelled batch -> its loss terms."""
        view = self.view(batch, rng)
        maps = _maps(self.backbone, view.image, view.keypoints)
        assert view.label is not None, "fine-tuning needs labels"
        if self.deep is None:
            logits = self.backbone.head(self.backbone.decode(maps))
            losses = self.losses(logits, view.label)
        else:
            decoded = list(self.backbone.decoded(maps))
            logits = self.backbone.head(decoded[-1])
            losses = self.deep(decoded, logits, view.label, self.losses)
        if self.auxiliary is None:
            return Outcome(losses)
        extra: Outcome = self.auxiliary(maps, view.label, logits, rng)
        return extra._replace(losses={**losses, **extra.losses})

    def view(self, batch: Batch, rng: Draw) -> View:
        """As the network sees a batch: geometry, intensities, and of its keypoints those that it is given."""
        return self.strong(self.weak(batch, rng), rng)

    def weak(self, batch: Batch, rng: Draw) -> View:
        """The geometry of a view alone."""
        return views.random_view(self.settings.spatial, batch, self.settings.size_px, rng)

    def strong(self, view: View, rng: Draw) -> View:
        """The rest of it: intensities, and of the keypoints those that the network is given."""
        image = intensity.augment(view.image, self.settings.intensity, rng)
        return view._replace(image=image, keypoints=some(view.keypoints, self.settings.keypoint_share, rng))

    def logits(self, *views: View, network: Backbone | None = None) -> tuple[Tensor, ...]:
        """(B, classes, *space) of each view, all of them in one pass."""
        network = self.backbone if network is None else network
        maps = _maps(network, torch.cat([view.image for view in views]), _joined([view.keypoints for view in views]))
        logits: Tensor = network.head(network.decode(maps))
        of_each: tuple[Tensor, ...] = torch.split(logits, [len(view.image) for view in views])
        return of_each

    def losses(self, logits: Tensor, label: Tensor, counts: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms of logits (B, classes, *space); pixels count as ``counts`` (B, *space) says, by default alike."""
        if self.settings.loss == "dice_squared":
            return {"dice": soft_dice_loss(logits, label, squared=True, background=True, counts=counts)}
        losses = {"cross_entropy": cross_entropy(logits, label, counts)}
        if self.settings.loss == "dice_and_cross_entropy":
            losses["dice"] = soft_dice_loss(logits, label, counts=counts)
        return losses


def _joined(keypoints: Sequence[Tensor | None]) -> Tensor | None:
    """(B, K, 2) of several views below each other, NaN where one has fewer; None where one says nothing of its own."""
    given = [places for places in keypoints if places is not None]
    if len(given) < len(keypoints):
        return None
    return torch.cat(as_many(given))


def _maps(backbone: Backbone, image: Tensor, keypoints: Tensor | None) -> list[Tensor]:
    return backbone.encode(image, keypoints) if isinstance(backbone, KeypointBackbone) else backbone.encode(image)
