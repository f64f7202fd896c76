"""ContrastiveCrop: Crafting Better Contrastive Views for Siamese Representation Learning. X. Peng, K. Wang, Z. Zhu,
M. Wang, Y. You. CVPR 2022, https://arxiv.org/abs/2202.03278. With the loss of SimCLR, as in SAL's comparison.

Views are crops of the part of a slice that the network looks at, and more often from its edges than from its middle:

    heat map  M = sum over channels of the last encoder map of the whole slice, from 0 to 1
    box       rows and columns in which M, read at every pixel, exceeds k
    crop      area ~ U(0.2, 1) of the slice, log(width / height) ~ U(log 3/4, log 4/3), until it fits;
              its centre along each axis between the box's ends at a share ~ Beta(alpha, alpha), moved into the slice
    loss      l_i = -log [ exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) ],  j the other view of the slice,  s = cosine

Boxes are whole slices until a fifth of training is over, and are made anew at each fifth: here of each slice on its
own, the first time that it is drawn after that, so that no pass over the data set is needed and the network is up to an
epoch older. The map is that of the network in evaluation, of the slice as it is stored.

Followed: the crop of the authors' code, with flips. Left out: change of colour, as in all baselines of the protocol
(PCL, MICCAI 2021). SAL does not say what its loss and schedule are; SimCLR's, and the protocol's, are our reading.
Crops are not rounded to whole pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Geometry, Outcome, View
from lemis.layers.basic import precise
from lemis.parts import heads, memory
from lemis.parts.contrast import contrasted, same
from lemis.parts.pretext import Pretext, together
from lemis.sampling import geometries, warping
from lemis.settings import PositiveRange, Probability

DIMS = (2,)
TRAINS = ("encoder",)

_ATTEMPTS = 10  # to draw a crop that fits [C]
_STEPS = 2048  # of the table of Beta(alpha, alpha): quantiles to better than 1e-4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] the authors' code; the frame is the PCL protocol's."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau, as PCL; 0.5 on CIFAR [C]
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # PCL: the loss times tau / 0.07; None: as printed
    embedding: Annotated[int, Field(gt=0)] = 512  # as PCL
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    area_share: PositiveRange = (0.2, 1.0)  # of the slice [C]
    width_to_height: PositiveRange = (3 / 4, 4 / 3)  # [C]
    p_mirror: Probability = 0.5  # each axis on its own, as PCL
    alpha: Annotated[float, Field(gt=0)] = 0.6  # of Beta; below 1 the ends are favoured; 0.6 default, 0.1 CIFAR [C]
    box_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1  # k [C]
    refresh_every: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of training [C]
    boxes: Annotated[int, Field(gt=0)] = 32768  # entries, at least as many as slices; ours


@final
class Views(contracts.Views[Settings]):
    """Two crops of every slice, placed by its box."""

    def __call__(self, batch: Batch, rng: Draw, box: Tensor | None = None) -> dict[str, View]:
        """``first`` and ``second``, each (B, C, size_px, size_px).

        Args:
            batch: The slices.
            rng: Random numbers.
            box: (B, 2, 2) first and last edge (row, col) of each box, as shares of the slice; whole slices by default.
        """
        if box is None:
            box = _whole(len(batch.image), batch.image.device)
        crops = [self.crop(box, batch.image.shape[2:], rng) for _ in range(2)]
        shown = [warping.apply(crop, batch.image, batch.label, batch.inside) for crop in crops]
        return dict(zip(("first", "second"), shown, strict=True))

    def crop(self, box: Tensor, shape: tuple[int, ...], rng: Draw) -> Geometry:
        """A random crop of each slice of that shape."""
        rows, given = len(box), self.settings
        whole = torch.tensor(shape, device=box.device, dtype=torch.float32)
        area = whole.prod() * rng.uniform(rows, _ATTEMPTS, low=given.area_share[0], high=given.area_share[1])
        low, high = given.width_to_height
        ratio = rng.uniform(rows, _ATTEMPTS, low=log(low), high=log(high)).exp()
        size = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], -1)  # (B, attempts, 2)
        fits = (size <= whole).all(-1)
        size = size.take_along_dim(fits.int().argmax(1)[:, None, None], 1)[:, 0]  # the first that fits
        share = symmetric_beta(rng.uniform(rows, 2), given.alpha)
        ends = box * whole - size[:, None] / 2  # (B, 2, 2), lower edge of the crop for either end of the box
        first, last = ends.clamp(min=0).minimum((whole - size)[:, None]).unbind(1)
        first = first + (last - first) * share
        # None of ten: the largest crop of an allowed shape, in the middle.
        largest = torch.stack([whole[0].minimum(whole[1] / low), whole[1].minimum(whole[0] * high)])
        none = ~fits.any(1, keepdim=True)
        size, first = torch.where(none, largest, size), torch.where(none, (whole - largest) / 2, first)
        mirror = 1 - 2 * (rng.uniform(rows, 2) < given.p_mirror).float()
        return geometries.of_box(first - 0.5, size, (given.size_px, given.size_px), mirror)


@final
class Method(Pretext[Settings, Views]):
    """Encoder, pooled MLP, SimCLR's contrast; and a box of every slice, from the encoder's own heat map."""

    boxes: Tensor  # (boxes, 2, 2) as in ``Views``
    made: Tensor  # (boxes,) int64, how many times boxes were due when that of a slice was made; 0 is a whole slice
    due: Tensor  # () int64, how many times boxes were due so far

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)
        self.register_buffer("boxes", _whole(settings.boxes, "cpu").contiguous())
        self.register_buffer("made", torch.zeros(settings.boxes, dtype=torch.int64))
        self.register_buffer("due", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices, their boxes -> 2N crops -> NT-Xent."""
        self.refresh(batch)
        images = together(self.views(batch, rng, self.boxes[batch.index]))
        z = processes.gather(self.project(self.backbone.encode(images)[-1]))  # (2N, embedding)
        slice_of = processes.gather(batch.index.repeat(2))  # (2N,)
        return contrasted(z, same(slice_of), self.settings.temperature, self.settings.temperature_base)

    @torch.no_grad()
    def refresh(self, batch: Batch) -> None:
        """New boxes for the slices of this step, of all processes, where any of theirs is older than it should be."""
        every = memory.entries(batch.index, self.settings.boxes, "boxes")
        if bool((self.made[every] < self.due).any()):
            self.boxes[every] = processes.gather(self.box_of(batch.image)).to(self.boxes.dtype)
            self.made[every] = self.due

    def box_of(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2, 2): where the heat map exceeds k; the whole slice where it does nowhere."""
        shape = image.shape[2:]
        short = [-n % by for n, by in zip(shape, self.backbone.divisors, strict=True)]
        image = F.pad(image, (0, short[1], 0, short[0]))
        training = self.backbone.training
        self.backbone.eval()
        # Not under autocast, which would keep its copies of the weights, made here without gradients, for the crops.
        with torch.autocast(image.device.type, enabled=False):
            heat = self.backbone.encode(precise(image))[-1].sum(1, keepdim=True)
        self.backbone.train(training)
        low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
        heat = (heat - low) / (high - low).clamp(min=1e-12)
        heat = F.interpolate(heat, image.shape[2:], mode="bilinear", align_corners=False)[:, 0, : shape[0], : shape[1]]
        over = heat > self.settings.box_threshold
        edges = []
        for axis, n in zip((2, 1), shape, strict=True):
            used = over.any(axis).int()  # (B, n)
            edges.append(torch.stack([used.argmax(1) / n, 1 - used.flip(1).argmax(1) / n], 1))
        return torch.stack(edges, 2)

    def after_step(self, progress: float) -> None:
        """Counts how many times boxes were due."""
        self.due.fill_(int(progress / self.settings.refresh_every + 1e-6))


def symmetric_beta(quantile: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) at its ``quantile`` in [0, 1], any shape: uniform numbers become Beta's.

    The lower half of the density, x^(alpha - 1) (1 - x)^(alpha - 1), is integrated over s = x^p with p = min(alpha, 1),
    in which it is x^(alpha - p) (1 - x)^(alpha - 1) and has no pole.
    """
    p = min(alpha, 1.0)
    s = torch.linspace(0, 0.5**p, _STEPS, dtype=torch.float64, device=quantile.device)
    x = s ** (1 / p)
    mass = torch.cumulative_trapezoid(x ** (alpha - p) * (1 - x) ** (alpha - 1), s)
    mass = F.pad(mass, (1, 0)) / (2 * mass[-1])
    lower = torch.minimum(quantile, 1 - quantile).double()
    above = torch.searchsorted(mass, lower).clamp(1, _STEPS - 1)
    part = (lower - mass[above - 1]) / (mass[above] - mass[above - 1])
    x = (s[above - 1] + part * (s[above] - s[above - 1])) ** (1 / p)
    return torch.where(quantile < 0.5, x, 1 - x).to(quantile.dtype)


def _whole(rows: int, device: torch.device | str) -> Tensor:
    return torch.tensor([[0.0, 0.0], [1.0, 1.0]], device=device).expand(rows, 2, 2)
