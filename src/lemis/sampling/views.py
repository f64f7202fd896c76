"""Views of a batch: a geometry is drawn for all its images at once, and applied in one resampling on the device.

``spatial.py`` draws geometries, ``warping.py`` applies them, ``correspondence.py`` says which places of two views
are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import torch
from torch import Tensor

from lemis.contracts import Batch, Draw, View
from lemis.sampling import warping
from lemis.sampling.spatial import Size, Spatial, draw, shape_of
from lemis.sampling.warping import Follow


def random_view(settings: Spatial, batch: Batch, size_px: Size, rng: Draw, *, follow: Follow = "exact") -> View:
    """One view of every image of a batch, with its label, mask and keypoints where the batch has them.

    Args:
        settings: How geometry is drawn.
        batch: In 2D its ``inside`` says which part of each image a random crop is taken from; in 3D its images are
            regions around the places that views are taken at.
        size_px: Of the view.
        rng: Random numbers.
        follow: How keypoints come along, see ``warping.apply``.
    """
    source_shape = tuple(batch.image.shape[2:])
    out_shape = shape_of(size_px, len(source_shape))
    box: Tensor | None
    if len(source_shape) == 3:
        box = _middle(len(batch.image), source_shape, out_shape, batch.image.device)
    else:
        box = None if batch.inside is None else _box_of(batch.inside)
    geometry = draw(settings, len(batch.image), source_shape, out_shape, rng, box)
    return warping.apply(
        geometry,
        batch.image,
        batch.label,
        batch.inside,
        interpolation=settings.interpolation,
        keypoints=batch.keypoints,
        follow=follow,
    )


def two_views(settings: Spatial, batch: Batch, size_px: Size, rng: Draw) -> dict[str, View]:
    """``first`` and ``second``: two views of every image of a batch, drawn one after the other."""
    return {name: random_view(settings, batch, size_px, rng) for name in ("first", "second")}


class HowTwo(Protocol):
    """What ``TwoViews`` reads of a method's settings."""

    @property
    def spatial(self) -> Spatial:
        """How the geometry of each view is drawn."""

    @property
    def size_px(self) -> Size:
        """Of a view."""


@final
class TwoViews:
    """Two independent geometric views of every slice or patch, intensities as they are: those of the PCL protocol."""

    def __init__(self, settings: HowTwo) -> None:
        self.settings = settings

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first`` and ``second``, each (B, C, *size_px)."""
        return two_views(self.settings.spatial, batch, self.settings.size_px, rng)


def all_inside(batch: Batch) -> Batch:
    """A batch that says which pixels are real: where it has no ``inside``, every pixel of its images is."""
    if batch.inside is not None:
        return batch
    return batch._replace(inside=torch.ones_like(batch.image[:, :1], dtype=torch.bool))


def _middle(rows: int, source_shape: Sequence[int], out_shape: Sequence[int], device: torch.device) -> Tensor:
    """(B, 2, d) first pixel and size of the middle of a region: a view, and a quarter of its side before and behind."""
    size = [min(n, out + 2 * (out // 4)) for n, out in zip(source_shape, out_shape, strict=True)]
    first = [(n - used) // 2 for n, used in zip(source_shape, size, strict=True)]
    return torch.tensor([first, size], device=device).expand(rows, 2, len(size))


def _box_of(inside: Tensor) -> Tensor:
    """(B, 1, *space) bool -> (B, 2, d) first pixel and size of the smallest box around what is inside."""
    d = inside.dim() - 2
    first, size = [], []
    for axis in range(d):
        used = inside.amax(dim=[1, *(a + 2 for a in range(d) if a != axis)]).int()  # (B, n)
        start, end = used.argmax(1), used.shape[1] - used.flip(1).argmax(1)
        first.append(start)
        size.append(end - start)
    return torch.stack([torch.stack(first, dim=1), torch.stack(size, dim=1)], dim=1)
