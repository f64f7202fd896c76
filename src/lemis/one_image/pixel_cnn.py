"""The three-layer CNN that tells the pixels of one image apart (Kanezaki 2018; SGSCN, Ahn et al. 2021), N at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.one_image import solo


@final
class Trunk(nn.Module):
    """Its first two layers, Conv3x3-ReLU-BN each, in each of N networks; the image is padded with zeros.

    The last one is a 1x1 convolution and another in every method.
    """

    def __init__(self, rngs: Sequence[torch.Generator], in_channels: int, width: int) -> None:
        super().__init__()
        self.first = solo.Conv(rngs, in_channels, width, 3, padding=1)
        self.second = solo.Conv(rngs, width, width, 3, padding=1)
        self.norms = nn.ModuleList([solo.Norm(len(rngs), width) for _ in range(2)])

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H, W)."""
        x: Tensor = self.norms[0](F.relu(self.first(images)))
        out: Tensor = self.norms[1](F.relu(self.second(x)))
        return out
