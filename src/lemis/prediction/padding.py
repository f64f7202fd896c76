"""Images of any size through a network that takes only some."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from lemis.contracts import Backbone, KeypointBackbone


def padded_logits(backbone: Backbone, image: Tensor, keypoints: Tensor | None = None) -> Tensor:
    """Logits of images of any size: zero-padded, centred, to what the network divides by.

    Args:
        backbone: In evaluation mode.
        image: (B, C, *space).
        keypoints: (B, K, d) in pixels of ``image``; where None, a network that looks at keypoints finds them itself,
            before the padding, which has edges of its own.

    Returns:
        (B, classes, *space) float32.
    """
    margins = centred(image.shape[2:], backbone.divisors)
    if keypoints is None and isinstance(backbone, KeypointBackbone) and backbone.keypoint_channels:
        keypoints = backbone.find(image)
    if keypoints is not None:
        keypoints = keypoints + keypoints.new_tensor([before for before, _ in margins])
    return within(lambda whole: _logits(backbone, whole, keypoints), image, margins)


def centred(sides: Sequence[int], multiples_of: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after an image along each axis, so that its sides are multiples and it is in the middle."""
    lacking = [-side % divisor for side, divisor in zip(sides, multiples_of, strict=True)]
    return [(lack // 2, lack - lack // 2) for lack in lacking]


def within(network: Callable[[Tensor], Tensor], image: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """What a network makes of an image with zeros around it, where the image is; float32.

    Args:
        network: (B, C, *space) -> (B, K, *space).
        image: (B, C, *space).
        margins: Of zeros, before and after along each axis.
    """
    out = network(F.pad(image, [part for margin in reversed(margins) for part in margin]))
    for axis, ((before, _), side) in enumerate(zip(margins, image.shape[2:], strict=True), start=2):
        out = out.narrow(axis, before, side)
    return out.float()


def padded_maps(backbone: Backbone, image: Tensor) -> list[Tensor]:
    """Maps of the encoder for images of any size, padded with zeros behind the last row, column and slice.

    Args:
        backbone: Its keypoints, if it looks at any, are found before the padding, which has edges of its own.
        image: (B, C, *space).

    Returns:
        Finest first, (B, channels, *cells): cell k of an axis lies over its pixels from k * stride on; cells that see
        nothing but padding are cut off.
    """
    sides = image.shape[2:]
    ends = [-side % divisor for side, divisor in zip(sides, backbone.divisors, strict=True)]
    padding = [margin for end in reversed(ends) for margin in (0, end)]
    padded = F.pad(image, padding)
    if isinstance(backbone, KeypointBackbone) and backbone.keypoint_channels:
        maps = backbone.encode(padded, backbone.find(image))
    else:
        maps = backbone.encode(padded)
    return [
        _cut(one, [-(-side // stride) for side, stride in zip(sides, strides, strict=True)])
        for one, strides in zip(maps, backbone.axis_strides, strict=True)
    ]


def _cut(x: Tensor, sides: Sequence[int]) -> Tensor:
    for axis, side in enumerate(sides, start=2):
        x = x.narrow(axis, 0, side)
    return x


def _logits(backbone: Backbone, image: Tensor, keypoints: Tensor | None) -> Tensor:
    out: Tensor = backbone(image, keypoints) if isinstance(backbone, KeypointBackbone) else backbone(image)
    return out
