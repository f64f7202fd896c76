"""Restoring an image from a decoder's map, and how wrong that is."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lemis import processes
from lemis.contracts import Backbone
from lemis.layers.basic import precise
from lemis.parts.corrupt import image_channels


@final
class Restore(nn.Module):
    """A 1x1 convolution from a decoder's last map to the image; where that map is coarser, a cell gives all its pixels.

    Args:
        backbone: How wide and how fine its last map is, how many dimensions it has, and its images how many channels.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.stride = backbone.decoder_strides[-1]
        convolution = nn.Conv3d if backbone.dims == 3 else nn.Conv2d
        outputs = image_channels(backbone) * self.stride**backbone.dims
        self.layer = convolution(backbone.decoder_channels[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, decoder channels, *cells) -> (B, image channels, *(stride cells)), float32 under autocast too."""
        return precise(spread(self.layer(x), self.stride))


def spread(x: Tensor, stride: int) -> Tensor:
    """(B, C stride^d, *cells) -> (B, C, *(stride cells)): PyTorch's ``pixel_shuffle``, in any number of dimensions."""
    cells = x.shape[2:]
    d = len(cells)
    x = x.unflatten(1, (-1, *[stride] * d))  # (B, C, *(stride), *cells)
    x = x.permute(0, 1, *(axis for k in range(d) for axis in (2 + d + k, 2 + k)))  # each cell's pixels behind it
    return x.reshape(*x.shape[:2], *(stride * n for n in cells))


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
