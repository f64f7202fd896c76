"""Losses between predicted and reference label maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_dice_loss(
    logits: Tensor, label: Tensor, smooth: float = 1e-5, *, squared: bool = False, background: bool = False
) -> Tensor:
    """1 - mean over classes of the soft Dice of the whole batch (Milletari et al. 2016, pooled).

    Dice_c = (2 sum p_c g_c + smooth) / (sum p_c^q + sum g_c^q + smooth), sums over batch and space.

    Args:
        logits: (B, K, *space).
        label: (B, *space) int64 in 0..K-1.
        smooth: Added above and below, so that a class that nobody sees has the Dice 1.
        squared: q = 2, as V-Net prints it, and Voxel Siamese (3); else q = 1.
        background: Class 0 counts as the others do, as in Voxel Siamese (3).
    """
    probability = logits.float().softmax(1)
    truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = [0, *range(2, logits.dim())]
    overlap = (probability * truth).sum(axes)
    size = ((probability.square() if squared else probability) + truth).sum(axes)
    dice = (2 * overlap + smooth) / (size + smooth)
    return 1 - dice[0 if background else 1 :].mean()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean multi-class cross-entropy over batch and space, in float32."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float(), label)
