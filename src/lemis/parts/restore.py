"""Restoring an image from a decoder's map, and how wrong that is."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lemis.contracts import Backbone
from lemis.parts import processes
from lemis.parts.corrupt import image_channels
from lemis.parts.layers import precise


@final
class Restore(nn.Module):
    """A 1x1 convolution from a decoder's last map to the image; where that map is coarser, a cell gives all its pixels.

    Args:
        backbone: Of two dimensions; how wide and how fine its last map is, and how many channels its images have.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        stride = backbone.decoder_strides[-1]
        self.layer = nn.Conv2d(backbone.decoder_channels[-1], image_channels(backbone) * stride**2, 1)
        self.spread = nn.PixelShuffle(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, decoder channels, H, W) -> (B, image channels, stride H, stride W), float32 under autocast too."""
        return precise(self.spread(self.layer(x)))


def squared_error(guess: Tensor, image: Tensor, where: Tensor) -> Tensor:
    """Mean of (guess - image)^2 over the channels of the pixels ``where``, those of all processes together.

    Args:
        guess: (B, C, *space), or something that broadcasts to it.
        image: (B, C, *space).
        where: (B, 1, *space) bool.
    """
    wrong = ((guess - image).square() * where).sum()
    count = (where.sum() * image.shape[1]).to(wrong.dtype)
    of_all, count_of_all = processes.total(torch.stack([wrong, count])).unbind()
    return of_all / count_of_all.clamp(min=1)


def error_of_nothing(image: Tensor, where: Tensor) -> float:
    """``squared_error`` of a network that knows nothing, and so says 0: the mean of a prepared scan."""
    return float(squared_error(image.new_zeros(()), image, where))
