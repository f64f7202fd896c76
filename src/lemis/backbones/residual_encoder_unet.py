"""nnU-Net's U-Net with a residual encoder, in two and three dimensions (Isensee et al., nnU-Net Revisited: A Call for
Rigorous Validation in 3D Medical Image Segmentation, MICCAI 2024, https://arxiv.org/abs/2404.09556).

A convolution as stem, then stages of blocks: two convolutions with instance normalisation and LeakyReLU between them,
added to the block's input before the last LeakyReLU. Where a block makes its map smaller, its input is averaged over
the stride, and where it makes it wider, convolved 1x1 without bias and normalised (as ResNet-D, He et al. 2019,
https://arxiv.org/abs/1812.01187). The decoder is that of ``plainconv_unet``, and so is all else that its file says:
settings have the names of a nnU-Net plan and can be read from one, weights go to nnU-Net and come from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

from pydantic import Field
from torch import Tensor, nn

from lemis.formats import nnunet_plans
from lemis.layers import nnunet, nnunet_shape

DIMS = (2, 3)
READS = {"plans": "a plans.json of nnU-Net that describes the network", "configuration": "of that plan: 3d_fullres"}

BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)  # of each stage [C]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As in a plan. [C] is nnU-Net's planner."""

    dims: Literal[2, 3] = 2  # slices, or volumes
    n_stages: Annotated[int, Field(ge=2, le=10)] = 5  # maps; [C] plans it
    base_width: Annotated[int, Field(gt=0, le=4096)] = 32  # of the finest stage, doubled from one to the next [C]
    features_per_stage: nnunet_shape.PerStage | None = None  # None: of base_width, up to 512 in 2D, 320 in 3D [C]
    kernel_sizes: nnunet_shape.PerAxis = 3  # [C]
    strides: nnunet_shape.PerAxis | None = None  # of the stages; None: 1, then 2 [C]
    n_blocks_per_stage: nnunet_shape.PerStage | None = None  # None: 1, 3, 4, then 6 [C]
    n_conv_per_stage_decoder: nnunet_shape.PerStage = 1  # [C], deepest first
    conv_bias: bool = True  # [C]
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5  # of instance normalisation [C]
    norm_affine: bool = True  # [C]
    begin_as_identity: bool = True  # the last normalisation of a block begins at 0, if it has parameters [C]


def expand_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """``plans`` and ``configuration`` as the settings that they stand for."""
    return nnunet_plans.expand(given, "residual_encoder_unet")


def counts_of(settings: Settings) -> tuple[int, ...]:
    """Blocks of each stage, finest first."""
    given = settings.n_blocks_per_stage
    wanted = BLOCKS[: settings.n_stages] if given is None else given
    return nnunet_shape.per_stage("n_blocks_per_stage", wanted, settings.n_stages)


@final
class Backbone(nnunet.Network):
    """``encode`` gives a map for each stage; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        shape, kind = nnunet_shape.shape_of(settings), nnunet.kind_of(settings)
        first = shape.features[0]
        stem = nnunet.Convolutions(kind, in_channels, first, shape.kernels[0], None, 1)
        sizes = zip(
            (first, *shape.features), shape.features, shape.kernels, shape.strides, counts_of(settings), strict=False
        )
        super().__init__(settings, nnunet.Encoder([_Stage(kind, *one) for one in sizes], stem), num_classes)
        if settings.begin_as_identity:
            for block in self.modules():
                for parameter in block.conv2.norm.parameters() if isinstance(block, _Block) else ():
                    nn.init.zeros_(parameter)


@final
class _Stage(nn.Module):
    """``count`` blocks, one after the other; the first one has the stride."""

    def __init__(
        self, kind: nnunet.Kind, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int],
        count: int,
    ) -> None:  # fmt: skip
        super().__init__()
        first = _Block(kind, in_channels, out_channels, kernel, stride)
        whole = (1,) * kind.dims
        self.blocks = nn.Sequential(
            first, *(_Block(kind, out_channels, out_channels, kernel, whole) for _ in range(count - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *space) -> (B, out, *space / stride)."""
        out: Tensor = self.blocks(x)
        return out


@final
class _Block(nn.Module):
    """Two convolutions, added to the input, which is averaged and convolved where its shape is another."""

    def __init__(
        self, kind: nnunet.Kind, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = nnunet.ConvNorm(kind, in_channels, out_channels, kernel, stride)
        self.conv2 = nnunet.ConvNorm(kind, out_channels, out_channels, kernel, active=False)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            average: type[nn.AvgPool2d | nn.AvgPool3d] = nn.AvgPool2d if kind.dims == 2 else nn.AvgPool3d
            skip.append(average(tuple(stride), tuple(stride)))  # type: ignore[arg-type]
        if in_channels != out_channels:
            single = (1,) * kind.dims
            skip.append(nnunet.ConvNorm(kind._replace(bias=False), in_channels, out_channels, single, active=False))
        self.skip = nn.Sequential(*skip)
        self.active = nn.LeakyReLU(nnunet.SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *space) -> (B, out, *space / stride)."""
        out = self.conv2(self.conv1(x))
        out += self.skip(x)
        added: Tensor = self.active(out)
        return added
