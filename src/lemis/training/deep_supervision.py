"""Deep supervision: maps of the decoder say the label too, each at its own size. C.-Y. Lee et al. Deeply-Supervised
Nets. AISTATS 2015, https://arxiv.org/abs/1409.5185; as nnU-Net has it, https://github.com/MIC-DKFZ/nnUNet.

    L = sum_i w_i L(logits_i, label_i),     w_i = 1/2^i / sum_j 1/2^j,     the coarsest left out of both sums

Level 0 is the network's own logits, level i the map i decoder blocks before the last, through a 1x1 (or 1x1x1)
convolution of its own. These convolutions belong to training: they are in its checkpoint, and not in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from lemis.contracts import Backbone
from lemis.errors import UsageError
from lemis.layers.basic import kaiming

FEWEST_BLOCKS = 3  # of a decoder: with two, the only inner map is the coarsest, which is left out
SLOPE = 0.01  # of the Kaiming initialisation; nnU-Net's

Terms = dict[str, Tensor]


def weights(levels: int) -> tuple[float, ...]:
    """1/2^i of so many levels, finest first, the coarsest left out with 0; their sum is 1."""
    halved = [*(0.5**i for i in range(levels - 1)), 0.0]
    return tuple(weight / sum(halved) for weight in halved)


def label_at(label: Tensor, shape: Sequence[int]) -> Tensor:
    """A label at the size of a coarser map, by nearest neighbour: the pixel at the middle of each cell.

    Where a cell has an even number of pixels, none is in its middle, and the one after it is taken. The first pixel of
    each cell would move structures by half a cell.

    Args:
        label: (B, *space) int64.
        shape: Of the map.

    Returns:
        (B, *shape) int64.
    """
    return F.interpolate(label[:, None].double(), tuple(shape), mode="nearest-exact")[:, 0].to(label.dtype)


@final
class DeepSupervision(nn.Module):
    """Convolutions on the inner maps of a decoder, and the losses of all levels.

    Args:
        backbone: The network in training, of three decoder blocks at least.
        num_classes: Of the logits, background included.

    Raises:
        UsageError: It has fewer.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        blocks = len(backbone.decoder_channels)
        if blocks < FEWEST_BLOCKS:
            raise UsageError(
                f"objective.deep_supervision=true on a network of {blocks} decoder blocks",
                allowed=f"networks of {FEWEST_BLOCKS} or more: there is no inner map but the coarsest, which counts 0",
                next="objective.deep_supervision=false, or another --backbone",
            )
        self.weights = weights(blocks)
        convolution = nn.Conv2d if backbone.dims == 2 else nn.Conv3d
        self.heads = nn.ModuleList([convolution(width, num_classes, 1) for width in backbone.decoder_channels[-2:0:-1]])
        kaiming(self, SLOPE)

    def forward(
        self, maps: Sequence[Tensor], logits: Tensor, label: Tensor, losses: Callable[[Tensor, Tensor], Terms]
    ) -> Terms:
        """Loss terms of all levels, weighted; those of inner ones are named ``level 1/...`` and so on.

        Args:
            maps: After each decoder block, deepest first.
            logits: (B, classes, *space), of the last one.
            label: (B, *space) int64.
            losses: Those of logits and a label of their size.
        """
        inner = [head(x) for head, x in zip(self.heads, maps[-2:0:-1], strict=True)]
        terms: Terms = {}
        for level, (weight, said) in enumerate(zip(self.weights, [logits, *inner], strict=False)):
            truth = label_at(label, said.shape[2:]) if level else label
            for name, loss in losses(said, truth).items():
                terms[f"level {level}/{name}" if level else name] = weight * loss
        return terms
