"""Which place of the source a pixel of a view shows, and where in a view a place of the source is seen.

From the geometry of two views alone follows which of their pixels correspond.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis.contracts import Geometry
from lemis.layers.basic import precise
from lemis.sampling.elastic import displacement, displacement_and_slope
from lemis.sampling.geometries import full_precision

_NEWTON_STEPS = 4  # from a fixed-point start; at the strongest default 3e-5 of all points miss 1e-3 px
_FOUND_PX = 0.5  # of the source: a keypoint whose place in a folded view leads back further away than this is dropped


def source_of(geometry: Geometry, points: Tensor) -> Tensor:
    """Points (B, K, d) of the view -> the places (B, K, d) of the source that they were read from."""
    d = points.shape[-1]
    with full_precision(points):
        if geometry.elastic is not None:
            points = points + displacement(geometry.elastic, points)
        moved: Tensor = points @ geometry.to_source[..., :d].mT + geometry.to_source[:, None, :, d]
        return moved


def view_of(geometry: Geometry, points: Tensor) -> Tensor:
    """Points (B, K, d) of the source -> where in the view (B, K, d) they are seen; also outside the view.

    Exact without elastic; with it y + e(y) = z is solved by Newton's method, to better than 1e-3 px wherever
    the displacement does not fold the image (at the default strength: practically everywhere).
    """
    d = points.shape[-1]
    linear, shift = geometry.to_source[..., :d], geometry.to_source[:, None, :, d]
    with full_precision(points):
        straight: Tensor = (points - shift) @ torch.linalg.inv(linear).mT
        elastic = geometry.elastic
        if elastic is None:
            return straight
        y = straight - displacement(elastic, straight)
        longest = elastic.sigma_px[:, None, None] / 2  # a step further than this leaves where the slope is known
        for _ in range(_NEWTON_STEPS):
            value, slope = displacement_and_slope(elastic, y)
            step = _solve(slope + torch.eye(d, device=y.device), y + value - straight)
            length = step.norm(dim=-1, keepdim=True)
            y = y - step * (longest / length.clamp(min=1e-12)).clamp(max=1)
        return y


def shown_at(geometry: Geometry, keypoints: Tensor) -> Tensor:
    """``view_of`` (B, K, d), NaN where the view does not show the keypoint or there is none."""
    points = keypoints.to(geometry.to_source.dtype)
    seen = view_of(geometry, points)
    # Every comparison with NaN is false, so what was NaN is not kept.
    kept = ((seen >= -0.5) & (seen < torch.tensor(geometry.shape, device=seen.device) - 0.5)).all(-1)
    if geometry.elastic is not None:
        kept &= (source_of(geometry, seen) - points).norm(dim=-1) < _FOUND_PX
    return seen.masked_fill(~kept[..., None], torch.nan).to(keypoints.dtype)


def carry_back(
    features: Tensor,
    geometry: Geometry,
    stride: int | Sequence[int],
    source_shape: Sequence[int],
    out_cells: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Feature maps of views, carried back to one regular grid over the source, where they can be compared.

    Args:
        features: (B, C, *f); cell k covers the view's pixels [k stride, (k + 1) stride).
        geometry: Of the views.
        stride: View pixels per feature cell, and source pixels per cell of the result, along all axes or along each.
        source_shape: Of the source, d numbers.
        out_cells: Cells g of the result along each axis, centred on the source; ``source_shape // stride`` by
            default.

    Returns:
        (B, C, *g) float32, read bilinearly, and (B, 1, *g) bool, False where a cell's centre is not in view.
    """
    d, device = len(source_shape), features.device
    strides = (stride,) * d if isinstance(stride, int) else tuple(stride)
    whole = tuple(max(1, n // by) for n, by in zip(source_shape, strides, strict=True))
    cells = whole if out_cells is None else tuple(out_cells)
    with full_precision(features), torch.no_grad():
        centres = [
            (n - 1) / 2 + by * (torch.arange(g, device=device) - (g - 1) / 2)
            for n, g, by in zip(source_shape, cells, strides, strict=True)
        ]
        points = torch.cartesian_prod(*centres).view(1, -1, d).expand(len(features), -1, -1)
        seen = view_of(geometry, points)  # (B, K, d)
        shape = torch.tensor(geometry.shape, device=device)
        inside = ((seen >= -0.5) & (seen <= shape - 0.5)).all(-1)
        covered = torch.tensor([n * by for n, by in zip(features.shape[2:], strides, strict=True)], device=device)
        grid = ((seen + 0.5) * (2 / covered) - 1).flip(-1).view(-1, *cells, d)
    with full_precision(features):
        # ``border``: between the outermost cell centres and the view's edge there is only the outermost cell.
        features = precise(features)
        carried = F.grid_sample(features, grid.to(features.dtype), "bilinear", "border", align_corners=False)
    return carried, inside.view(-1, 1, *cells)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """(..., d, d) and (..., d) -> (..., d) by Cramer's rule, 0 where singular; LAPACK is slow when tiny."""
    a = matrix.unbind(-1)  # columns
    if len(a) == 2:
        det = a[0][..., 0] * a[1][..., 1] - a[1][..., 0] * a[0][..., 1]
        rows = [
            torch.stack([a[1][..., 1], -a[1][..., 0]], -1),
            torch.stack([-a[0][..., 1], a[0][..., 0]], -1),
        ]
    else:
        rows = [torch.linalg.cross(a[(k + 1) % 3], a[(k + 2) % 3]) for k in range(3)]
        det = (a[0] * rows[0]).sum(-1)
    solved = torch.stack([(row * right).sum(-1) for row in rows], dim=-1) / det[..., None]
    return solved.nan_to_num(0.0, 0.0, 0.0)
