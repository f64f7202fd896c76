"""Contrast of pooled embeddings: one loss, and the mask of positives that each paper makes its own."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lemis.contracts import Outcome
from lemis.layers.basic import precise, unit


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
    if len(z) < 2:  # nothing to tell apart; 0, with a gradient of 0
        return precise(z).sum() * 0
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


def contrasted(z: Tensor, positives: Tensor, temperature: float, base: float | None) -> Outcome:
    """What a method says whose one term is ``contrast``, times ``base_factor``; arguments as of these two."""
    scale = base_factor(temperature, base)
    loss = scale * contrast(z, positives, temperature)
    return Outcome({"contrast": loss}, {"global": z.detach()}, {"contrast": scale * log(len(z) - 1)})


def near(position: Tensor, threshold: float) -> Tensor:
    """Pairs of slices whose relative positions differ by less than ``threshold``: (N,) -> (N, N) bool."""
    # The tolerance keeps 0.65 - 0.3 < 0.35 false in float32, as it is in exact arithmetic.
    return (position[:, None] - position[None]).abs() < threshold - 1e-6


def same(label: Tensor) -> Tensor:
    """Pairs with equal labels: (N,) -> (N, N) bool."""
    return label[:, None] == label[None]


def partition(position: Tensor, count: int) -> Tensor:
    """Which of ``count`` equal parts of its scan a slice lies in, 0 first: (N,) in (0, 1] -> (N,) int64.

    A slice belongs to the part that its far side lies in: ceil(count * position) - 1, position = (slice + 1) / slices.
    """
    # The tolerance keeps ceil(4 * 0.25) at 1 in float32.
    return ((count * position - 1e-5).ceil().long() - 1).clamp(0, count - 1)


def pair_contrast(z: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean over ordered positive pairs (a, b) of -log [e^(s_ab/tau) / (e^(s_ab/tau) + sum_{n in Neg(a)} e^(s_an/tau))].

    Other positives of a are not in the denominator, unlike in ``contrast``. s is the cosine.

    Args:
        z: (..., N, D) embeddings, not normalised; computed in float32, or float64 where that comes in.
        positives: (N, N) bool, or what broadcasts to (..., N, N): which b are positives of a (row).
        negatives: The same of Neg(a).
        temperature: tau.

    Returns:
        Scalar; where all embeddings are equal, the mean over pairs of log(1 + |Neg(a)|). 0 without a pair.
    """
    directions = unit(z, -1)
    with torch.autocast(z.device.type, enabled=False):
        similarity = directions @ directions.mT / temperature
    against = similarity.masked_fill(~negatives, -torch.inf).logsumexp(-1, keepdim=True)
    pairs = positives.expand(similarity.shape)
    per_pair = softplus(against - similarity).masked_fill(~pairs, 0)
    return per_pair.sum() / pairs.sum().clamp(min=1)
