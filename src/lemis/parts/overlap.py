"""Losses between predicted and reference label maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis import processes
from lemis.layers.basic import precise


def soft_dice_loss(
    logits: Tensor,
    label: Tensor,
    smooth: float = 1e-5,
    *,
    squared: bool = False,
    background: bool = False,
    counts: Tensor | None = None,
) -> Tensor:
    """1 - mean over classes of the soft Dice of the whole batch (Milletari et al. 2016, pooled).

    Dice_c = (2 sum p_c g_c + smooth) / (sum p_c^q + sum g_c^q + smooth), sums over space and all processes' batches.

    Args:
        logits: (B, K, *space).
        label: (B, *space) int64 in 0..K-1.
        smooth: Added above and below, so that a class that nobody sees has the Dice 1.
        squared: q = 2, as V-Net prints it, and Voxel Siamese (3); else q = 1.
        background: Class 0 counts as the others do, as in Voxel Siamese (3).
        counts: (B, *space) what a pixel counts for in every sum; all of them 1 by default.
    """
    probability = precise(logits).softmax(1)
    truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = [0, *range(2, logits.dim())]
    both, either = probability * truth, (probability.square() if squared else probability) + truth
    if counts is not None:
        both, either = both * counts[:, None], either * counts[:, None]
    overlap, size = processes.total(torch.stack([both.sum(axes), either.sum(axes)]))
    dice = (2 * overlap + smooth) / (size + smooth)
    loss: Tensor = 1 - dice[0 if background else 1 :].mean()
    return loss


def cross_entropy(logits: Tensor, label: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean multi-class cross-entropy over batch and space, at least in float32.

    Args:
        logits: (B, K, *space).
        label: (B, *space) int64 in 0..K-1.
        counts: (B, *space) the weight of a pixel in the mean over the batch of all processes; all of them 1 by
            default. Where none counts the loss is 0 and has a gradient.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if counts is None:
            return F.cross_entropy(precise(logits), label)
        of_pixel = F.cross_entropy(precise(logits), label, reduction="none") * counts
        summed, counted = processes.total(torch.stack([of_pixel.sum(), counts.sum().to(of_pixel.dtype)]))
        loss: Tensor = summed / counted.detach().clamp(min=torch.finfo(of_pixel.dtype).tiny)
        return loss
