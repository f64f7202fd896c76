"""A weight that grows while a network in training learns to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor


def ramp_up(progress: Tensor, share: float) -> Tensor:
    """exp(-5 (1 - min(t, R) / R)^2), the Gaussian ramp of Laine and Aila (ICLR 2017): 0.007 at first, 1 from R on.

    Args:
        progress: () t, the share of training that is done.
        share: R, of training; 0 is no ramp.
    """
    if share == 0:
        return torch.ones_like(progress)
    left: Tensor = 1 - (progress / share).clamp(max=1)
    return (-5 * left.square()).exp()
