"""A second network that follows the one in training slowly: the key encoder of MoCo, the target of BYOL, a teacher."""

from __future__ import annotations

from copy import deepcopy
from math import cos, pi
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from lemis.contracts import Backbone
from lemis.parts.pretext import HowPretext, Pretext, Seen

Network = TypeVar("Network", bound=nn.Module)


def follower(leader: Network) -> Network:
    """A copy with the same weights and buffers that asks for no gradient.

    Keep it as a module of the method, so that it is saved with it, and call ``follow`` after each step.
    """
    return deepcopy(leader).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, leader: nn.Module, momentum: float, *, buffers: bool = False) -> None:
    """slow <- momentum * slow + (1 - momentum) * leader, parameter by parameter, in place.

    Buffers are the slow network's own, by default: it normalises by the batches that it sees itself, as in the
    authors' code of MoCo and BYOL.

    Args:
        slow: What ``follower(leader)`` gave.
        leader: The network in training.
        momentum: 1 leaves ``slow`` as it is, 0 makes it equal to ``leader``.
        buffers: Follow these too, and copy those that count: of a network that is used in evaluation mode.
    """
    for behind, ahead in zip(slow.parameters(), leader.parameters(), strict=True):
        behind.lerp_(ahead, 1 - momentum)
    if buffers:
        for own, theirs in zip(slow.buffers(), leader.buffers(), strict=True):
            if own.is_floating_point():
                own.lerp_(theirs, 1 - momentum)
            else:
                own.copy_(theirs)


def warmed(momentum: float, steps: int) -> float:
    """min(1 - 1 / (n + 1), momentum) after n steps: the follower begins as the true mean of all that it followed."""
    return min(1 - 1 / (steps + 1), momentum)


def towards_one(base: float, progress: float) -> float:
    """BYOL's momentum, 1 - (1 - base) (cos(pi progress) + 1) / 2: ``base`` at the start of training, 1 at its end."""
    return 1 - (1 - base) * (cos(pi * progress) + 1) / 2


class HowFollowed(HowPretext, Protocol):
    """What ``MomentumPair`` reads of a method's settings."""

    @property
    def momentum(self) -> float:
        """Of the slow copies; constant."""


How = TypeVar("How", bound=HowFollowed)


class MomentumPair(Pretext[How, Seen]):
    """MoCo's encoder and head for queries, and a slow copy of each, which gives the keys.

    A subclass makes ``project``, and then the copies with ``follower``.
    """

    project: nn.Module
    slow_backbone: Backbone
    slow_project: nn.Module

    @torch.no_grad()
    def key(self, image: Tensor) -> Tensor:
        """(N, C, *space) -> what the slow copies say of it, (N, embedding)."""
        k: Tensor = self.slow_project(self.slow_backbone.encode(image)[-1])
        return k

    def after_step(self, progress: float) -> None:  # noqa: ARG002  the momentum is constant
        """The slow copies follow."""
        follow(self.slow_backbone, self.backbone, self.settings.momentum)
        follow(self.slow_project, self.project, self.settings.momentum)
