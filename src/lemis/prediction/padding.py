"""Images of any size through a network that takes only some."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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
    wanted = [-(-side // divisor) * divisor for side, divisor in zip(image.shape[2:], backbone.divisors, strict=True)]
    before = [(new - old) // 2 for new, old in zip(wanted, image.shape[2:], strict=True)]
    after = [new - old - lead for new, old, lead in zip(wanted, image.shape[2:], before, strict=True)]
    padding: Sequence[int] = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    if keypoints is None and isinstance(backbone, KeypointBackbone) and backbone.keypoint_channels:
        keypoints = backbone.find(image)
    if keypoints is not None:
        keypoints = keypoints + keypoints.new_tensor(before)
    whole = _logits(backbone, nn.functional.pad(image, list(padding)), keypoints)
    for axis, (lead, size) in enumerate(zip(before, image.shape[2:], strict=True), start=2):
        whole = whole.narrow(axis, lead, size)
    out: Tensor = whole.float()
    return out


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
    padded = nn.functional.pad(image, padding)
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
