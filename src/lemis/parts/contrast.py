"""Contrast of pooled embeddings: one loss, and the mask of positives that each paper makes its own."""

from __future__ import annotations

import torch
from torch import Tensor

from lemis.parts.layers import unit


def contrast(z: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of the mean over positives of -log softmax (Khosla et al. 2020, eq. 2).

    L_i = -1/|P(i)| sum_{j in P(i)} [ s_ij / tau - log sum_{k != i} exp(s_ik / tau) ],  s = cosine.

    Positives stay in the denominator. Anchors without a positive are left out of the mean.

    Args:
        z: (N, D) embeddings, not normalised; computed in float32, or float64 where that comes in.
        positives: (N, N) bool; the diagonal is ignored.
        temperature: tau.

    Returns:
        Scalar; log(N - 1) when all embeddings are equal, whatever the positives.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    directions = unit(z)
    with torch.autocast(z.device.type, enabled=False):
        similarity = directions @ directions.T / temperature
    log_probability = similarity.masked_fill(itself, -torch.inf).log_softmax(1)
    wanted = positives & ~itself
    per_anchor = -log_probability.masked_fill(~wanted, 0).sum(1) / wanted.sum(1).clamp(min=1)
    anchors = wanted.any(1)
    return per_anchor.masked_fill(~anchors, 0).sum() / anchors.sum().clamp(min=1)


def base_factor(temperature: float, base: float | None) -> float:
    """tau / tau_base, by which the code base of supervised contrast, and so PCL's, scales its loss; 1 without one."""
    return 1.0 if base is None else temperature / base


def near(position: Tensor, threshold: float) -> Tensor:
    """Pairs of slices whose relative positions differ by less than ``threshold``: (N,) -> (N, N) bool."""
    # The tolerance keeps 0.65 - 0.3 < 0.35 false in float32, as it is in exact arithmetic.
    return (position[:, None] - position[None]).abs() < threshold - 1e-6


def same(label: Tensor) -> Tensor:
    """Pairs with equal labels: (N,) -> (N, N) bool."""
    return label[:, None] == label[None]
