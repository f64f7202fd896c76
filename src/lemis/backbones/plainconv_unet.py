"""nnU-Net's U-Net, in two and three dimensions (Isensee et al., nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation, Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z).

Each stage is two convolutions with instance normalisation and LeakyReLU, the first of them with the stride. Settings
have the names of a nnU-Net plan, kernels and strides differ along the axes where a plan says so; with
``backbone.plans=plans.json backbone.configuration=3d_fullres`` they are read from one. Weights go to nnU-Net and come
from it: their keys are nnU-Net's, and the network gives its logits.

Differences: nnU-Net plans the number of stages for each data set; here it is a setting. Its heads on the inner maps
belong to training here (``objective.deep_supervision``), and not to the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

from pydantic import Field
from torch import nn

from lemis.formats import nnunet_plans
from lemis.layers import nnunet, nnunet_shape

DIMS = (2, 3)
READS = {"plans": "a plans.json of nnU-Net that describes the network", "configuration": "of that plan: 3d_fullres"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As in a plan. [C] is nnU-Net's planner."""

    dims: Literal[2, 3] = 2  # slices, or volumes
    n_stages: Annotated[int, Field(ge=2, le=10)] = 5  # maps; [C] plans it
    base_width: Annotated[int, Field(gt=0, le=4096)] = 32  # of the finest stage, doubled from one to the next [C]
    features_per_stage: nnunet_shape.PerStage | None = None  # None: of base_width, up to 512 in 2D, 320 in 3D [C]
    kernel_sizes: nnunet_shape.PerAxis = 3  # [C]
    strides: nnunet_shape.PerAxis | None = None  # of the stages; None: 1, then 2 [C]
    n_conv_per_stage: nnunet_shape.PerStage = 2  # [C]
    n_conv_per_stage_decoder: nnunet_shape.PerStage = 2  # [C], deepest first
    conv_bias: bool = True  # [C]
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5  # of instance normalisation [C]
    norm_affine: bool = True  # [C]


def expand_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """``plans`` and ``configuration`` as the settings that they stand for."""
    return nnunet_plans.expand(given, "plainconv_unet")


def counts_of(settings: Settings) -> tuple[int, ...]:
    """Convolutions of each stage, finest first."""
    return nnunet_shape.per_stage("n_conv_per_stage", settings.n_conv_per_stage, settings.n_stages)


@final
class Backbone(nnunet.Network):
    """``encode`` gives a map for each stage; ``decode`` joins them again."""

    def __init__(self, settings: Settings, *, in_channels: int, num_classes: int) -> None:
        shape, kind = nnunet_shape.shape_of(settings), nnunet.kind_of(settings)
        inputs = (in_channels, *shape.features)
        stages = [
            nn.Sequential(nnunet.Convolutions(kind, *sizes))
            for sizes in zip(inputs, shape.features, shape.kernels, shape.strides, counts_of(settings), strict=False)
        ]
        super().__init__(settings, nnunet.Encoder(stages), num_classes)
