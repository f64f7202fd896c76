"""U-Net with keypoint-augmented fusion layers: KAF. Z. Yang, M. Ren, K. Ding, G. Gerig, Y. Wang. Keypoint-Augmented
Self-Supervised Learning for Medical Image Segmentation with Limited Annotation. NeurIPS 2023,
https://arxiv.org/abs/2310.01680.

After each of the four encoder levels the map is read at its keypoints, these attend to each other over any distance,
and what they say is spread on the map and laid beside it (``layers/fusion.py``):

    level l: F_l (C_l = f 2^(l-1) channels) -> [F_l, diffuse(scatter(attend(gather(F_l))))], 2 C_l channels

which goes to the pooling and to the skip connection, so that bottleneck and decoder are those of a U-Net of width 2 f.
A level without the layer passes [F_l, F_l]; without any, this is the paper's widened U-Net, "UNet(c2)".

Differences from the authors' code: each image uses all its keypoints, whatever the rest of the batch has; colliding
keypoints write their mean; places are divided by rows and columns in their order; the unused last projection and bin
score of each layer (65,793 numbers) are not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lemis import contracts
from lemis.layers import unet
from lemis.layers.basic import kaiming
from lemis.layers.fusion import Placed, fusion_layers, sorted_levels
from lemis.preparation import keypoints as detection
from lemis.sampling.keypoint_tensors import found_in, given_or_found

DIMS = (2,)

Levels = Annotated[tuple[int, ...], AfterValidator(partial(sorted_levels, most=unet.LEVELS))]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's network; numbers it contradicts itself in are those that its parameter counts prove."""

    base_width: Annotated[int, Field(gt=0)] = 48  # f on ACDC; 32 on CHD
    levels: Levels = (1, 2, 3, 4)  # with a layer; Table 2, rows B to F
    pairs: Annotated[int, Field(gt=0)] = 8  # T: 8 by the printed counts; the text says 6, Table 2 ends with 9
    keypoint_width: Annotated[int, Field(gt=0, multiple_of=8)] = 256  # of a keypoint's feature
    heads: Annotated[int, Field(gt=0)] = 4  # divides keypoint_width
    place_px: Annotated[int, Field(gt=0)] | None = None  # unit of places; None: the image's longer side [C]
    keypoints: detection.Settings = field(default_factory=detection.Settings)  # detector, and how many of an image


@final
class Backbone(unet.UShaped, contracts.KeypointBackbone):
    """``encode`` gives maps of 2f, 4f, 8f, 16f, 32f channels at strides 1, 2, 4, 8, 16; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        f = settings.base_width
        *widths, _ = unet.channels_of(f)
        doubled = [2 * width for width in widths]
        self.dims = 2
        self.channels = (*doubled, 32 * f)
        self.strides = unet.STRIDES
        self.decoder_channels = tuple(reversed(doubled))
        self.decoder_strides = tuple(reversed(self.strides[:-1]))
        self.keypoint_channels = tuple(settings.keypoint_width for _ in settings.levels)
        self.most_keypoints = settings.keypoints.most
        self.encoder = nn.ModuleList(
            [unet.block(i, o) for i, o in zip([in_channels, *widths[1:]], widths, strict=True)]
            + [unet.bottleneck(16 * f, 32 * f)]
        )
        self.fusion = fusion_layers(
            settings.levels, widths, settings.keypoint_width, settings.pairs, settings.heads, settings.place_px
        )
        self.decoder = nn.ModuleList([unet.Up(2 * width, width) for width in reversed(doubled)])
        self.head = nn.Conv2d(2 * f, num_classes, 1, bias=False)
        kaiming(self, unet.SLOPE)

    def find(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> keypoints (B, K, 2), strongest first, NaN rows where an image has fewer."""
        return found_in(x, self.settings.keypoints)

    def encode_keypoints(self, x: Tensor, keypoints: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Five maps, of twice a U-Net's channels whether or not a level has a layer; H and W are multiples of 16."""
        unet.check_divisible(x)
        at = Placed.of(given_or_found(keypoints, x, self.settings.keypoints if self.fusion else None))
        maps, features = [], []
        for level, convolve in enumerate(self.encoder[:-1], start=1):
            x = convolve(x)
            if str(level) in self.fusion:
                x, d = self.fusion[str(level)](x, at, self.strides[level - 1])
                features.append(d)
            else:
                x = torch.cat([x, x], 1)
            maps.append(x)
            x = nn.functional.max_pool2d(x, 2)
        maps.append(self.encoder[-1](x))
        return maps, features
