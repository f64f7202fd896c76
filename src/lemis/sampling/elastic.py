"""Elastic displacement (``contracts.Elastic``): evaluated at any points, on a whole grid, and its slope.

The displacement e(y) is the sum over the points of a coarse grid of white noise times a Gaussian of standard deviation
sigma. Gaussians are products over axes, so each axis is one small matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lemis.contracts import Elastic


def on_grid(elastic: Elastic, places: Sequence[Tensor]) -> Tensor:
    """e on the regular grid of ``places`` (one (n,) a axis): (B, d, *n), one small matrix product an axis."""
    field = elastic.noise
    for axis, place in enumerate(places):
        weights = _weights(elastic, axis, place.expand(len(field), -1))  # (B, n, coarse)
        # The first coarse axis is contracted, its pixels appended; after d rounds the axes are in order.
        rest = field.shape[3:]
        field = (field.flatten(3).mT @ weights.mT[:, None]).view(*field.shape[:2], *rest, -1)
    return field


def displacement(elastic: Elastic, points: Tensor) -> Tensor:
    """e at any points (B, K, d), in view pixels: (B, K, d)."""
    return _evaluate(elastic.noise, [_weights(elastic, axis, points[..., axis]) for axis in range(points.shape[-1])])


def displacement_and_slope(elastic: Elastic, points: Tensor) -> tuple[Tensor, Tensor]:
    """e (B, K, d) and its derivative (B, K, d, d), component first, direction last."""
    d = points.shape[-1]
    away = [_away(elastic, axis, points[..., axis]) for axis in range(d)]
    weights = [(-0.5 * u * u).exp() for u in away]
    slopes = []
    for axis, u in enumerate(away):
        rising = u * weights[axis] / -elastic.sigma_px[:, None, None]
        slopes.append(_evaluate(elastic.noise, [*weights[:axis], rising, *weights[axis + 1 :]]))
    return _evaluate(elastic.noise, weights), torch.stack(slopes, dim=-1)


def _evaluate(noise: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Sum over coarse points c of noise[:, k, c] prod_a weights_a[:, point, c_a].

    ``noise`` is (B, d, *coarse), ``weights`` d times (B, K, coarse_a); the result is (B, K, d).
    """
    first, *others = weights
    b, d = noise.shape[:2]
    value = (first @ noise.movedim(2, 1).flatten(2)).view(b, -1, d, *noise.shape[3:])  # (B, K, d, *other axes)
    for weight in others:
        value = torch.einsum("bkn,bkdn...->bkd...", weight, value)
    return value


def _weights(elastic: Elastic, axis: int, places: Tensor) -> Tensor:
    """exp(-(y - coarse point)^2 / (2 sigma^2)) along one axis: (B, N) -> (B, N, coarse)."""
    away = _away(elastic, axis, places)
    return (-0.5 * away * away).exp()


def _away(elastic: Elastic, axis: int, places: Tensor) -> Tensor:
    """(y - coarse point) / sigma along one axis: (B, N) -> (B, N, coarse)."""
    points = torch.arange(elastic.noise.shape[2 + axis], device=places.device) * elastic.step_px
    per_sigma = 1 / elastic.sigma_px[:, None, None]
    return places[..., None] * per_sigma - (points + elastic.origin_px[axis]) * per_sigma
