"""MAE: Masked Autoencoders Are Scalable Vision Learners. K. He, X. Chen, S. Xie, Y. Li, P. Dollar, R. Girshick.
CVPR 2022, https://arxiv.org/abs/2111.06377. For convolutional encoder-decoders, on the PCL protocol's slices, and on
volumes.

Most patches of a slice are hidden, and the network fills them in from the others:

    M  = a random share ``ratio`` of the patches of patch_px x patch_px pixels (in 3D blocks, patch_px along each axis)
    L  = mean over pixels of M of ( decoder(encoder(x with M set to 0)) - x )^2

0 is the mean of a prepared scan. Pixels that no scan has (padding, turned-in corners) are not counted.

Followed: random patches, their size and share, and the loss on hidden pixels alone. Differences: the paper's encoder is
a transformer that never sees the hidden patches. Here they are zeros that a dense network reads, as in the MAE of
OpenMind (Wald et al., ICCV 2025, https://arxiv.org/abs/2412.17041); SparK (Tian et al., ICLR 2023,
https://arxiv.org/abs/2301.03580) makes the convolutions sparse instead, and hides 0.6. The decoder is the segmentation
network's, with its skip connections, and is transferred with the encoder. Views are the protocol's. Left out: targets
normalised patch by patch, which in the flat background of a scan would be targets of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, final

from pydantic import Field
from torch import Tensor

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.errors import UsageError
from lemis.layers.unet import all_parts
from lemis.parts.pretext import Pretext
from lemis.parts.restore import Restore, error_of_nothing, squared_error
from lemis.sampling import views
from lemis.sampling.spatial import Size, Spatial, patch_of, shape_of

DIMS = (2, 3)
TRAINS = ("encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper; the frame is the PCL protocol's."""

    batch_size: Annotated[int, Field(gt=0)] = 32  # slices or volumes, as PCL; 4,096 [P]
    patch_px: Size = 16  # side of a hidden patch [P], and of a block in OpenMind; also [slices, rows, cols] in 3D
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75  # share of the patches that is hidden [P]
    size_px: Size = 352  # side of a view, as PCL; 224 [P]; also [slices, rows, cols] in 3D
    spatial: Spatial = field(default_factory=Spatial)  # as PCL; [P]: a resized crop, mirrored or not


@final
class Views(contracts.Views[Settings]):
    """One geometric view of every slice or volume, whole and with patches hidden."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``target``, and ``masked``, zero and not ``inside`` where hidden; each (B, C, *out)."""
        how, batch = self.settings, views.all_inside(batch)
        target = views.random_view(how.spatial, batch, how.size_px, rng)
        assert target.inside is not None
        hidden = hide(len(target.image), target.geometry.shape, how.patch_px, how.ratio, rng)
        image, inside = target.image.masked_fill(hidden, 0), target.inside & ~hidden
        return {"target": target, "masked": target._replace(image=image, inside=inside)}


@final
class Method(Pretext[Settings, Views]):
    """Encoder, decoder, a 1x1 convolution, and the squared error of what was hidden."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        _refuse_patches(settings.patch_px, shape_of(settings.size_px, backbone.dims))
        patch_px = patch_of(settings.size_px, backbone.dims)  # of the whole view, not of what is hidden in it
        super().__init__(backbone, settings, Views(settings), trains=all_parts(backbone), patch_px=patch_px)
        self.restore = Restore(backbone)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices or volumes -> N filled-in ones -> the error where they had been hidden."""
        target, masked = self.views(batch, rng).values()
        assert target.inside is not None
        assert masked.inside is not None
        hidden = target.inside & ~masked.inside
        restored = self.restore(self.backbone.decode(self.backbone.encode(masked.image)))
        loss = squared_error(restored, target.image, hidden)
        return Outcome({"restoration": loss}, {}, {"restoration": error_of_nothing(target.image, hidden)})


def hide(rows: int, shape: Sequence[int], patch_px: Size, ratio: float, rng: Draw) -> Tensor:
    """(rows, 1, *shape) bool: the same number of patches in every row, all choices alike; border patches may be cut."""
    sides = shape_of(patch_px, len(shape))
    grid = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    count = min(max(round(ratio * prod(grid)), 1), prod(grid) - 1)
    order = rng.uniform(rows, prod(grid)).argsort(1).argsort(1)  # each patch's place among the shuffled ones
    hidden = (order < count).view(rows, 1, *grid)
    for axis, (n, side) in enumerate(zip(shape, sides, strict=True), start=2):
        hidden = hidden.repeat_interleave(side, axis).narrow(axis, 0, n)
    return hidden


def _refuse_patches(patch_px: Size, view: Sequence[int]) -> None:
    """Raises UsageError: Three sides for slices, or patches of which a view has only one."""
    if not isinstance(patch_px, int) and len(patch_px) != len(view):
        raise UsageError(
            f"patch_px={list(patch_px)} for a network of {len(view)} dimensions",
            allowed="one number for slices; one, or [slices, rows, cols], for volumes",
            next=f"method.patch_px={patch_px[-1]}",
        )
    if all(n <= side for n, side in zip(view, shape_of(patch_px, len(view)), strict=True)):
        raise UsageError(
            f"patch_px={patch_px} in views of {' x '.join(map(str, view))} pixels, which are one patch",
            allowed="patches smaller than a view, so that some are hidden and some are seen",
            next=f"method.patch_px={max(view) // 2}",
        )
