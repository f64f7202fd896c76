"""GLCL: Contrastive Learning of Global and Local Features for Medical Image Segmentation with Limited Annotations.
K. Chaitanya, E. Erdil, N. Karani, E. Konukoglu. NeurIPS 2020, https://arxiv.org/abs/2006.10511. Both stages.

    l(a, b)  = -log [ e^(s_ab/tau) / (e^(s_ab/tau) + sum_{n in Neg(a)} e^(s_an/tau)) ],  s = cosine
    L_global = G^D, mean of l over pairs of embeddings g1(encoder):  two views of a slice; first (second) views of the
               same part of two scans (each is cut into S parts along its slices);  Neg(a): every other part
    L_local  = mean over slices, the two views and 13 regions r of  l(f_r, f'_r),
               f_r the 3x3 cells of g2(decoder) at r, made a vector;  Neg(r): its 5 nearest regions, in both views

The encoder learns from L_global alone, the first decoder blocks from L_local alone, with the encoder as a constant.
The local views differ in intensities only, so that regions correspond.

Followed: both losses, g2, the regions, the number of blocks, tau. Differences: the original trains the encoder to its
end and then the decoder on it; ``stages="together"`` does both in every step (our choice: one schedule), ``"one after
the other"`` follows the original's order: what rests takes no step, and the encoder that rests normalises by its
running statistics, which rest too. Global views, head and batches are the PCL protocol's (as in gcl.py). Which five
regions are the negatives is our reading (nearest, those listed first among equals), and so is the strength of
brightness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm
from lemis.layers.unet import parts_to
from lemis.parts import heads
from lemis.parts.contrast import pair_contrast, partition, same
from lemis.parts.pretext import Pretext
from lemis.sampling import intensity, views
from lemis.sampling.spatial import CROP_ONLY, Spatial
from lemis.settings import PositiveRange

DIMS = (2,)
TRAINS = ("encoder", "decoder 1", "decoder 2", "decoder 3")

SIDE = 3  # cells of a region
GRID = 4  # quarters of the way that a region can be moved along each axis
PLACES = [(r, c) for r in (0, 2, 4) for c in (0, 2, 4)] + [(r, c) for r in (1, 3) for c in (1, 3)]  # in quarters


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper and its code, [C] PCL's protocol."""

    stages: Literal["together", "one after the other"] = "together"  # the second is [P], the first ours
    local_from: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of training where the second stage begins [P]
    partitions: Annotated[int, Field(gt=1)] = 4  # S [P]
    batch_size: Annotated[int, Field(gt=1)] = 32  # slices [C]; 12 [P]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau of both losses [P]
    embedding: Annotated[int, Field(gt=0)] = 512  # of g1 [C]; 128 [P]
    decoder_blocks: Annotated[int, Field(gt=0)] = 3  # trained by the local loss [P]
    neighbours: Annotated[int, Field(gt=0, lt=len(PLACES))] = 5  # regions in Neg(r), each in both views [P]
    local_embedding: Annotated[int, Field(gt=0)] = 128  # of a region [P]
    brightness: Annotated[float, Field(ge=0)] = 1.2  # largest shift: 0.3 of the grey range [P], 4 deviations wide
    contrast_factor: PositiveRange = (0.7, 1.3)  # [P]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view [C]
    spatial: Spatial = field(default_factory=Spatial)  # of the global views [C]


@final
class Views(contracts.Views[Settings]):
    """Two geometric views of every slice, and one crop in two brightnesses and contrasts."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.intensity = intensity.Intensity(
            p_brightness=1.0,
            brightness_factor=(1.0, 1.0),
            brightness_shift=(0.0, settings.brightness),
            p_contrast=1.0,
            contrast_factor=settings.contrast_factor,
        )

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first``, ``second``, ``local first``, ``local second``, each (B, C, size_px, size_px)."""
        drawn = views.two_views(self.settings.spatial, batch, self.settings.size_px, rng)
        crop = views.random_view(CROP_ONLY, batch, self.settings.size_px, rng)
        for name in ("local first", "local second"):
            changed = intensity.augment(crop.image, self.intensity, rng)
            drawn[name] = crop._replace(image=changed.to(crop.image.dtype))
        return drawn


@final
class Method(Pretext[Settings, Views]):
    """Encoder with pooled MLP (g1), and decoder blocks with two 1x1 convolutions and a linear layer (g2)."""

    progress: Tensor
    negatives: Tensor

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        _refuse_shapes(backbone, settings)
        super().__init__(backbone, settings, Views(settings), trains=parts_to(settings.decoder_blocks))
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)
        width = backbone.decoder_channels[settings.decoder_blocks - 1]
        self.local = nn.Sequential(
            nn.Conv2d(width, width, 1, bias=False), BatchNorm(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False)
        )
        self.embed_region = nn.Linear(SIDE**2 * width, settings.local_embedding, bias=False)
        # What the global loss trains, and the local one.
        self._of_encoder = (*self._parameters_of("encoder"), *self.project.parameters())
        own = (*self.local.parameters(), *self.embed_region.parameters())
        self._of_decoder = (*self._parameters_of("decoder"), *own)
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("negatives", nearest(settings.neighbours).repeat(2, 2), persistent=False)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> global contrast of 2N views for the encoder, local contrast of 2N others for the decoder."""
        drawn = self.views(batch, rng)
        stage = self._stage()
        losses, watched, uninformed = {}, {}, {}
        # The global pass is first: autocast keeps its copies of the weights, with their gradients.
        if stage != "local":
            z, positives, negatives = self.embed(drawn, batch)
            losses["global"] = pair_contrast(z, positives, negatives, self.settings.temperature)
            watched["global"] = z.detach()
            uninformed["global"] = float(pair_contrast(torch.zeros_like(z), positives, negatives, 1.0))
        else:
            losses["global"] = _still(self._of_encoder)
        if stage != "global":
            z = self.regions(drawn)
            views_of = torch.arange(2, device=z.device).repeat_interleave(len(PLACES))
            region = torch.arange(len(PLACES), device=z.device).repeat(2)
            positives = same(region) & ~same(views_of)
            losses["local"] = pair_contrast(z, positives, self.negatives, self.settings.temperature)
            watched["regions"] = processes.gather(z.detach().flatten(0, 1))
            uninformed["local"] = log(1 + 2 * self.settings.neighbours)
        else:
            losses["local"] = _still(self._of_decoder)
        return Outcome(losses, watched, uninformed)

    def embed(self, drawn: dict[str, View], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (2N, embedding) of the global views, and their positives and negatives in G^D."""
        images = torch.cat([drawn["first"].image, drawn["second"].image])
        z = processes.gather(self.project(self.backbone.encode(images)[-1]))
        index, scan, position = (processes.gather(row.repeat(2)) for row in (batch.index, batch.scan, batch.position))
        view = processes.gather(torch.arange(2, device=scan.device).repeat_interleave(len(batch.scan)))
        part = same(partition(position, self.settings.partitions))
        return z, (same(index) & ~same(view)) | (part & ~same(scan) & same(view)), ~part

    def regions(self, drawn: dict[str, View]) -> Tensor:
        """(B, 26, local_embedding): 13 regions of the first local view, then those of the second."""
        images = torch.cat([drawn["local first"].image, drawn["local second"].image])
        self.backbone.train(self.training and self._stage() != "local")
        with torch.no_grad():
            maps = self.backbone.encode(images)
        self.backbone.train(self.training)
        x = self.local(self.backbone.decode(maps, self.settings.decoder_blocks))
        vectors: Tensor = self.embed_region(cut(x))  # (2B, 13, local_embedding)
        return torch.cat(vectors.chunk(2), 1)

    def resting(self) -> tuple[nn.Parameter, ...]:
        """The decoder and g2 in the first stage, the encoder and g1 in the second."""
        return {"both": (), "global": self._of_decoder, "local": self._of_encoder}[self._stage()]

    def _stage(self) -> Literal["both", "global", "local"]:
        """Whose loss there is now."""
        if self.settings.stages == "together":
            return "both"
        return "local" if float(self.progress) >= self.settings.local_from else "global"

    def _parameters_of(self, part: str) -> Iterator[nn.Parameter]:
        for name, parameter in self.backbone.named_parameters():
            of = self.backbone.part_of(name)
            if of in self.trains and of.startswith(part):
                yield parameter

    def after_step(self, progress: float) -> None:
        """Remembers how far training is, for the second stage."""
        self.progress.fill_(progress)


def cut(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 13, 9 C): regions at the corners, the middles of the edges, the centre and the quarters."""
    height, width = x.shape[2:]
    starts = [((height - SIDE - 1) * r // GRID, (width - SIDE - 1) * c // GRID) for r, c in PLACES]
    return torch.stack([x[:, :, r : r + SIDE, c : c + SIDE].flatten(1) for r, c in starts], 1)


def nearest(count: int) -> Tensor:
    """(13, 13) bool: the ``count`` regions nearest to each; among equals those first in ``PLACES``."""
    places = torch.tensor(PLACES)
    distance = (places[:, None] - places[None]).square().sum(-1).fill_diagonal_(10 * GRID**2)
    order = distance.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros(len(PLACES), len(PLACES), dtype=torch.bool).scatter_(1, order, torch.ones_like(order).bool())


def _still(parameters: Sequence[nn.Parameter]) -> Tensor:
    # 0 with a gradient of 0: a parameter without any would stop several processes.
    return 0.0 * torch.stack([parameter.sum() for parameter in parameters]).sum()


def _refuse_shapes(backbone: contracts.Backbone, settings: Settings) -> None:
    blocks, most = settings.decoder_blocks, len(backbone.decoder_channels)
    if blocks > most:
        raise UsageError(
            f"decoder_blocks={blocks}, and the network has {most}",
            allowed=f"1 to {most} decoder blocks",
            next=f"method.decoder_blocks={most}",
        )
    stride, cells = backbone.decoder_strides[blocks - 1], SIDE + 1 + GRID
    if settings.size_px // stride < cells:
        raise UsageError(
            f"size_px={settings.size_px}, which after {blocks} decoder blocks is {settings.size_px // stride} cells",
            allowed=f"at least {cells} cells, so that no two regions are the same",
            next=f"method.size_px={max(cells * stride, backbone.strides[-1])}",
        )
