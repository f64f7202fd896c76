"""A second network that follows the one in training slowly: the key encoder of MoCo, the target of BYOL, a teacher."""

from __future__ import annotations

from copy import deepcopy
from math import cos, pi
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def follower(leader: Network) -> Network:
    """A copy with the same weights and buffers that asks for no gradient.

    Keep it as a module of the method, so that it is saved with it, and call ``follow`` after each step.
    """
    return deepcopy(leader).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, leader: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * leader, parameter by parameter, in place.

    Buffers are the slow network's own: it normalises by the batches that it sees itself, as in the authors' code of
    MoCo and BYOL.

    Args:
        slow: What ``follower(leader)`` gave.
        leader: The network in training.
        momentum: 1 leaves ``slow`` as it is, 0 makes it equal to ``leader``.
    """
    for behind, ahead in zip(slow.parameters(), leader.parameters(), strict=True):
        behind.lerp_(ahead, 1 - momentum)


def towards_one(base: float, progress: float) -> float:
    """BYOL's momentum, 1 - (1 - base) (cos(pi progress) + 1) / 2: ``base`` at the start of training, 1 at its end."""
    return 1 - (1 - base) * (cos(pi * progress) + 1) / 2
