"""Corruptions of an image that a network learns to undo: random boxes, and what is done inside or outside of them.

Batched on the device, every row with its own numbers; 2D and 3D are one implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from operator import mul
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from lemis.contracts import Draw
from lemis.settings import Probability


def _share(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError("a range of shares is written [low, high] with 0 <= low <= high <= 1")
    return ends


Share = Annotated[tuple[float, float], AfterValidator(_share)]

MOST_BOXES = 10  # of a cut-out, of a cut-around, and swaps of a shuffling; CAiD's and DiRA's code
STOP = 0.1  # chance that no further box follows; the same


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """One of three distortions, or none. [C]: the authors' code of CAiD and of DiRA, for views of 224 px."""

    p_cut_out: Probability = 0.30  # boxes are blackened [C]
    p_cut_around: Probability = 0.05  # everything but some large boxes is blackened [C]
    p_shuffle: Probability = 0.30  # small boxes change places; nothing is done in the remaining 0.35 [C]
    cut_out_share: Share = (0.045, 0.3125)  # of each side of the view, a box: 10 to 70 px [C]
    cut_around_share: Share = (0.22, 0.3125)  # of each side, what a large box leaves out: 50 to 70 px [C]
    shuffle_share: Share = (0.045, 0.067)  # of each side, a box: 10 to 15 px [C]

    def __post_init__(self) -> None:
        if self.p_cut_out + self.p_cut_around + self.p_shuffle > 1 + 1e-9:
            raise ValueError("p_cut_out + p_cut_around + p_shuffle is at most 1, since one of the three is drawn")


def distort(image: Tensor, settings: Distortion, rng: Draw, black: float = 0.0) -> Tensor:
    """(B, C, *space) -> the same shape, each row cut out, cut around, shuffled, or left as it is.

    A cut-out and a cut-around have one to ten boxes: after each there is a chance of ``STOP`` that it was the last.
    The ten swaps of a shuffling read from the undistorted image, so a later one may cover an earlier one.
    """
    rows, space = len(image), image.shape[2:]
    chosen = rng.uniform(rows).view(-1, *[1] * (image.dim() - 1))
    ends = list(accumulate((settings.p_cut_out, settings.p_cut_around, settings.p_shuffle)))
    out = covered(*_some_boxes(rows, space, settings.cut_out_share, rng), space)
    window = (1 - settings.cut_around_share[1], 1 - settings.cut_around_share[0])
    around = ~covered(*_some_boxes(rows, space, window, rng), space)
    first, size = draw_boxes(rows, MOST_BOXES, space, settings.shuffle_share, rng)
    other = _place(size, space, rng)
    largest = [max(1, ceil(settings.shuffle_share[1] * n)) for n in space]
    distorted = torch.where(chosen < ends[2], swap(image, first, other, size, largest), image)
    distorted = torch.where(chosen < ends[1], image.masked_fill(around, black), distorted)
    return torch.where(chosen < ends[0], image.masked_fill(out, black), distorted)


def draw_boxes(
    rows: int, count: int, space: Sequence[int], share: tuple[float, float], rng: Draw
) -> tuple[Tensor, Tensor]:
    """First pixel and size (rows, count, d) int64 of random boxes inside an image of shape ``space``.

    Each side is a share of the image's, drawn on its own and rounded, at least one pixel; all places are alike.
    """
    sides = rng.uniform(rows, count, len(space), low=share[0], high=share[1])
    size = (sides * torch.tensor(space, device=sides.device)).round().clamp(min=1).long()
    return _place(size, space, rng), size


def covered(first: Tensor, size: Tensor, space: Sequence[int]) -> Tensor:
    """Pixels that lie in any of a row's boxes: first pixels and sizes (B, K, d) -> (B, 1, *space) bool.

    A box of size 0 covers nothing; what lies outside the image is cut off.
    """
    along = []
    for axis, n in enumerate(space):
        pixel = torch.arange(n, device=first.device)
        start = first[..., axis, None]
        along.append(((pixel >= start) & (pixel < start + size[..., axis, None])).float())  # (B, K, n)
    *before, last = along
    product = before[0]
    for line in before[1:]:
        product = (product[..., None] * line[:, :, None]).flatten(2)
    with torch.autocast(first.device.type, enabled=False):
        boxes = product.mT @ last  # how many boxes a pixel lies in
    return (boxes > 0.5).view(len(first), 1, *space)


def swap(image: Tensor, first: Tensor, second: Tensor, size: Tensor, largest: Sequence[int]) -> Tensor:
    """Pairs of boxes change places, pair after pair, each reading from ``image`` as it came.

    Args:
        image: (B, C, *space).
        first: (B, K, d) int64, first pixel of one box of each pair.
        second: (B, K, d) int64, of the other.
        size: (B, K, d) int64, of both.
        largest: Per axis, no ``size`` is above it.
    """
    space, channels = image.shape[2:], image.shape[1]
    step = torch.tensor([*accumulate(reversed(space[1:]), mul, initial=1)][::-1], device=image.device)
    inner = torch.cartesian_prod(*[torch.arange(n, device=image.device) for n in largest])  # (M, d)
    # Beyond the end of a smaller box stands its last pixel again: written twice, with one and the same value.
    inner = torch.minimum(inner, size[:, :, None] - 1)  # (B, K, M, d)
    one, other = (((start[:, :, None] + inner) * step).sum(-1) for start in (first, second))  # (B, K, M)
    flat = image.flatten(2)
    out = flat.clone()
    for k in range(one.shape[1]):
        for to, source in ((one[:, k], other[:, k]), (other[:, k], one[:, k])):
            to, source = (index[:, None].expand(-1, channels, -1) for index in (to, source))
            out.scatter_(2, to, flat.gather(2, source))
    return out.view(image.shape)


def value_range(image: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least value, and distance to the greatest, of each row and channel: (B, C, *space) -> (B, C, 1, ...) both.

    Args:
        image: Any intensities.
        inside: (B, 1, *space) bool, the pixels that count; all by default.
    """
    axes = tuple(range(2, image.dim()))
    low = (image if inside is None else image.masked_fill(~inside, torch.inf)).amin(axes, keepdim=True)
    high = (image if inside is None else image.masked_fill(~inside, -torch.inf)).amax(axes, keepdim=True)
    return low, (high - low).clamp(min=1e-6)


def image_channels(network: nn.Module) -> int:
    """Channels of the images that a network reads, as its first convolution has it: what a restoration gives back."""
    return next(layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d))


def _some_boxes(rows: int, space: Sequence[int], share: tuple[float, float], rng: Draw) -> tuple[Tensor, Tensor]:
    """``draw_boxes`` of one to ``MOST_BOXES`` boxes; those after the last one have size 0."""
    first, size = draw_boxes(rows, MOST_BOXES, space, share, rng)
    goes_on = (rng.uniform(rows, MOST_BOXES - 1) >= STOP).cumprod(1)
    goes_on = torch.cat([torch.ones_like(goes_on[:, :1]), goes_on], 1)
    return first, size * goes_on[..., None]


def _place(size: Tensor, space: Sequence[int], rng: Draw) -> Tensor:
    """(B, K, d) first pixels of boxes of this size that lie wholly inside; where one cannot, the first pixel is 0."""
    spare = (torch.tensor(space, device=size.device) - size).clamp(min=0)
    return torch.minimum((rng.uniform(*size.shape) * (spare + 1)).long(), spare)
