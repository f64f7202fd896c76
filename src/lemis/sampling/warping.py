"""Warping: a view is read from its source in one resampling on the device: images, labels, masks and keypoints.

``apply`` reads a whole batch through its geometry; ``quarter_turns`` turns what was read, without resampling again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.contracts import Geometry, View
from lemis.errors import UsageError
from lemis.sampling import elastic
from lemis.sampling.correspondence import shown_at
from lemis.sampling.geometries import full_precision, quarter_turn
from lemis.sampling.spatial import Interpolation

Follow = Literal["exact", "index_map"]


def apply(
    geometry: Geometry,
    image: Tensor,
    label: Tensor | None = None,
    inside: Tensor | None = None,
    *,
    interpolation: Interpolation = "bilinear",
    keypoints: Tensor | None = None,
    follow: Follow = "exact",
) -> View:
    """Read images through a geometry; zero outside the source.

    Args:
        geometry: Of B views.
        image: (B, C, *space) of any float type; the view is float32 or float64.
        label: (B, *space) integers, read at the nearest pixel.
        inside: (B, 1, *space) bool, read at the nearest pixel.
        interpolation: Of the image.
        keypoints: (B, K, d) float, pixels of ``image``, NaN rows where there are fewer. A keypoint that the view does
            not show is NaN in it.
        follow: ``exact``: each keypoint goes where its source pixel is seen. ``index_map``, KAF's way: the keypoints'
            numbers are drawn into a label image, which is read at the nearest pixel, and a keypoint lies at the mean of
            the pixels with its number, cut to whole pixels; one that no pixel was read from is lost, and of several
            at one source pixel only the first is kept.

    Raises:
        UsageError: Bicubic in 3D.
    """
    d = image.dim() - 2
    if interpolation == "bicubic" and d == 3:
        raise UsageError(
            "bicubic interpolation of a 3D image",
            allowed="bilinear in 3D (it is trilinear there)",
            next="method.spatial.interpolation=bilinear, or objective.spatial.interpolation=bilinear to fine-tune",
        )
    if image.dtype != torch.float64:
        image = image.float()
    drawn: dict[str, Tensor] = {}  # (B, 1, *space) each, read at the nearest pixel
    if label is not None:
        drawn["label"] = label[:, None]
    if inside is not None:
        drawn["inside"] = inside
    if keypoints is not None and follow == "index_map":
        drawn["index"] = _index_map(keypoints, image.shape[2:])
    with full_precision(image):
        grid = _grid(geometry, image.shape[2:]).to(image.dtype)
        seen = F.grid_sample(image, grid, interpolation, align_corners=False)
        if drawn:
            stacked = torch.cat([values.to(image.dtype) for values in drawn.values()], dim=1)
            nearest = F.grid_sample(stacked, grid, "nearest", align_corners=False)
            drawn = dict(zip(drawn, nearest.split(1, dim=1), strict=True))
    moved = None
    if keypoints is not None:
        moved = _read_indices(drawn["index"], keypoints) if "index" in drawn else shown_at(geometry, keypoints)
    return View(
        seen,
        geometry,
        label=drawn["label"][:, 0].long() if "label" in drawn else None,
        inside=drawn["inside"] > 0.5 if "inside" in drawn else None,
        keypoints=moved,
    )


def quarter_turns(view: View, turns: int) -> View:
    """A view turned by ``turns`` times 90 degrees in the plane of its last two axes; its geometry follows."""
    for _ in range(turns % 4):
        view = View(
            view.image.rot90(1, (-2, -1)),
            quarter_turn(view.geometry),
            None if view.label is None else view.label.rot90(1, (-2, -1)),
            None if view.inside is None else view.inside.rot90(1, (-2, -1)),
            None if view.keypoints is None else _turned(view.keypoints, view.geometry.shape[-1]),
        )
    return view


def _turned(points: Tensor, columns: int) -> Tensor:
    """Points of a view that many columns wide, a quarter turn later."""
    *before, row, column = points.unbind(-1)
    return torch.stack([*before, columns - 1 - column, row], dim=-1)


def _grid(geometry: Geometry, source_shape: Sequence[int]) -> Tensor:
    """(B, *out, d) as grid_sample wants it: last axis first, -1 and 1 at the image's outer edges."""
    to_source, d = geometry.to_source, len(geometry.shape)
    size = torch.tensor(source_shape, device=to_source.device)
    centre_px = torch.cat([torch.zeros(d, d, device=size.device), (size[:, None] - 1) / 2], dim=1)
    affine = ((to_source - centre_px) * (2 / size)[:, None]).flip(1)  # (B, d, d + 1), normalised on the small side
    places = [torch.arange(n, device=size.device, dtype=torch.float32) for n in geometry.shape]
    grid = affine[..., d].reshape(-1, d, *[1] * d)
    for axis, place in enumerate(places):
        along = place.view([-1 if a == axis else 1 for a in range(d)])
        grid = grid + affine[..., axis].reshape(-1, d, *[1] * d) * along
    if geometry.elastic is not None:
        noise = torch.einsum("bij,bj...->bi...", affine[..., :d], geometry.elastic.noise)
        grid += elastic.on_grid(geometry.elastic._replace(noise=noise), places)
    return grid.movedim(1, -1)


def _index_map(keypoints: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, 1, *shape) int64: 1 + the number of the first keypoint in each pixel, 0 where there is none."""
    rows, k, _ = keypoints.shape
    size = torch.tensor(shape, device=keypoints.device)
    pixel = keypoints.round()
    there = ((pixel >= 0) & (pixel < size)).all(-1)  # also False for NaN
    pixel = pixel.masked_fill(~there[..., None], 0).long()
    flat = torch.zeros_like(pixel[..., 0])
    for axis, n in enumerate(shape):
        flat = flat * n + pixel[..., axis]
    none = k + 1
    number = torch.arange(1, none, device=flat.device).expand(rows, k).masked_fill(~there, none)
    drawn = torch.full((rows, int(size.prod())), none, device=flat.device)
    drawn = drawn.scatter_reduce(1, flat, number, "amin")
    return drawn.masked_fill(drawn == none, 0).view(rows, 1, *shape)


def _read_indices(index: Tensor, keypoints: Tensor) -> Tensor:
    """Mean place of the pixels of each number in ``index`` (B, 1, *out): (B, K, d) whole pixels, NaN where none is."""
    rows, k, d = keypoints.shape
    row, _, *place = index.nonzero().unbind(1)  # few pixels have a number; whole numbers add up exactly, in any order
    slot = row * k + index[index != 0].long() - 1
    total = torch.zeros(rows * k, d, dtype=torch.long, device=index.device).index_add_(0, slot, torch.stack(place, 1))
    count = torch.zeros(rows * k, 1, dtype=torch.long, device=index.device)
    count.index_add_(0, slot, torch.ones_like(slot)[:, None])
    mean = (total // count.clamp(min=1)).to(keypoints.dtype).masked_fill(count == 0, torch.nan)
    return mean.view(rows, k, d)
