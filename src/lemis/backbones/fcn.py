"""FCN-8s with or without keypoint-augmented fusion layers (Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038;
KAF: Yang et al., NeurIPS 2023, https://arxiv.org/abs/2310.01680, Table 9).

Five blocks of two (Conv3x3, BatchNorm, LeakyReLU) with max-pooling between them; class scores of the blocks 5, 4 and 3
are up-sampled and added, and a transposed convolution brings the sum to full size. KAF's authors published neither
widths nor strides nor the fusion; blocks of f 2^k channels and the sum over three blocks are our reading.
A level with a keypoint layer hands on [F, what its keypoints say], twice the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lemis import contracts
from lemis.layers.basic import kaiming
from lemis.layers.fusion import Placed, fusion_layers, sorted_levels
from lemis.layers.unet import SLOPE, UShaped, block, check_divisible
from lemis.preparation import keypoints as detection
from lemis.sampling.keypoint_tensors import found_in, given_or_found

DIMS = (2,)

BLOCKS = 5
SCORED = (5, 4, 3)  # blocks whose scores are added, deepest first


Levels = Annotated[tuple[int, ...], AfterValidator(partial(sorted_levels, most=BLOCKS))]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Widths as of the U-Net of the PCL protocol."""

    base_width: Annotated[int, Field(gt=0)] = 32  # f of the U-Net on CHD, where Table 9 is from; not published
    levels: Levels = ()  # with a keypoint layer; (1, 2, 3, 4) is FCN + KAF
    pairs: Annotated[int, Field(gt=0)] = 8  # T, as in kaf_unet
    keypoint_width: Annotated[int, Field(gt=0, multiple_of=8)] = 256  # as in kaf_unet
    heads: Annotated[int, Field(gt=0)] = 4  # as in kaf_unet; divides keypoint_width
    place_px: Annotated[int, Field(gt=0)] | None = None  # unit of places; None: the image's longer side [C]
    keypoints: detection.Settings = field(default_factory=detection.Settings)  # detector, and how many of an image


@final
class Backbone(UShaped, contracts.KeypointBackbone):
    """``encode`` gives five maps at strides 1 to 16; ``decode`` gives class scores at strides 8 and 4."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.base_width * 2**level for level in range(BLOCKS)]
        passed = [width * (2 if level in settings.levels else 1) for level, width in enumerate(widths, start=1)]
        self.dims = 2
        self.channels = tuple(passed)
        self.strides = tuple(2**level for level in range(BLOCKS))
        self.decoder_channels = (num_classes, num_classes)
        self.decoder_strides = (8, 4)
        self.keypoint_channels = tuple(settings.keypoint_width for _ in settings.levels)
        self.most_keypoints = settings.keypoints.most
        self.encoder = nn.ModuleList([block(i, o) for i, o in zip([in_channels, *passed[:-1]], widths, strict=True)])
        self.fusion = fusion_layers(
            settings.levels, widths, settings.keypoint_width, settings.pairs, settings.heads, settings.place_px
        )
        deepest, *others = SCORED
        self.decoder = nn.ModuleList(
            [
                _Add(passed[deepest - 1] if number == 0 else None, passed[level - 1], num_classes)
                for number, level in enumerate(others)
            ]
        )
        self.head = nn.ConvTranspose2d(num_classes, num_classes, 8, stride=4, padding=2, bias=False)
        kaiming(self, SLOPE)
        _bilinear(self.head)

    def find(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> keypoints (B, K, 2), strongest first, NaN rows where an image has fewer."""
        return found_in(x, self.settings.keypoints)

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Five maps, of twice the channels where a level has a layer; H and W are multiples of 16."""
        check_divisible(x)
        at = Placed.of(given_or_found(keypoints, x, self.settings.keypoints if self.fusion else None))
        maps, features = [], []
        for level, convolve in enumerate(self.encoder, start=1):
            x = convolve(x if level == 1 else nn.functional.max_pool2d(x, 2))
            if str(level) in self.fusion:
                x, d = self.fusion[str(level)](x, at, self.strides[level - 1])
                features.append(d)
            maps.append(x)
        return maps, features

    def decoded(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """Five maps -> summed class scores (B, classes, H / 8, W / 8) after one block, (.., H / 4, W / 4) after two."""
        x = maps[-1]
        for add, level in zip(self.decoder, SCORED[1:], strict=True):
            x = add(x, maps[level - 1])
            yield x


@final
class _Add(nn.Module):
    """Scores of the deeper map, up-sampled, plus scores of the finer one; the deeper map may be scores already."""

    def __init__(self, deeper: int | None, finer: int, num_classes: int) -> None:
        super().__init__()
        self.deeper = nn.Identity() if deeper is None else nn.Conv2d(deeper, num_classes, 1)
        self.finer = nn.Conv2d(finer, num_classes, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = nn.functional.interpolate(self.deeper(x), scale_factor=2, mode="bilinear", align_corners=False)
        added: Tensor = up + self.finer(skip)
        return added


def _bilinear(layer: nn.ConvTranspose2d) -> None:
    """Begin as bilinear up-sampling of each class on its own, as FCN does."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    away = (torch.arange(size) - (size - 1) / 2).abs() / stride
    kernel = (1 - away).clamp(min=0)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight.diagonal()[:] = (kernel[:, None] * kernel)[..., None]
