"""SAL: Self-supervised Alignment Learning for Medical Image Segmentation. H. Li, Y. Ouyang, X. Wan. ISBI 2024,
https://arxiv.org/abs/2406.15699.

Adjacent slices look alike, so each place in one has a like place in the other, near by. For slices i and j of one scan
with |i - j| / n < t, unit feature vectors x and windows r (``parts/alignment.py``):

    L_WLA(i, j) = mean_{r, a} | 1 - max_b < x_i^r[a], x_j^r[b] > |
    L           = L_PCL(z) + lambda / |P| sum_{(i,j) in P} L_WLA(i, j)        (L_PCL: positional contrast of PCL)

No code was published. Each batch is of two scans of two subjects (``scans_per_batch=2``), and the global head is one
linear layer (``projection="linear"``); the paper's presets have both, the defaults are PCL's. The text leaves open
which map is aligned, the width and bias of its linear embedding, how many slices a scan gives and how geometry is
drawn; each is a setting whose default is our reading of the paper.

What the paper does not have, and what the presets of ours use: ``geometry="independent"`` draws every view's geometry
on its own, carries the feature maps back to the source grid by ``View.geometry`` and matches windows there. With a
geometry shared by all slices of a scan, a feature that only knows where in the view it lies aligns perfectly and says
nothing of anatomy; and one linear map to a constant vector does as well (the loss has no negatives), which ``centring``
takes away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome, Sampling, View
from lemis.layers.basic import centre, unit
from lemis.parts import heads
from lemis.parts.alignment import alignment_loss
from lemis.parts.contrast import base_factor, contrast, near, same
from lemis.parts.pretext import Pretext
from lemis.sampling import views
from lemis.sampling.correspondence import carry_back
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] is stated in the paper; the rest is our reading of it, or PCL's value."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; at most so many where scans_per_batch is given
    scans_per_batch: Annotated[int, Field(gt=0)] | None = None  # of as many subjects: 2 [P]; None: until batch_size
    per_scan: Annotated[int, Field(gt=1)] = 16  # slices of each scan; the number is lost in the text
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau
    threshold: Annotated[float, Field(gt=0)] = 0.35  # t of both terms [P]; 0.35 on ACDC, 0.1 on CHD as in PCL
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # PCL: the loss times tau / 0.07; None: as printed
    projection: Literal["mlp", "linear"] = "mlp"  # global head: "linear" is the text's word, "mlp" is PCL's head
    embedding: Annotated[int, Field(gt=0)] = 512  # as PCL
    alignment_weight: Annotated[float, Field(ge=0)] = 80.0  # lambda, best of Table 3
    window: Annotated[int, Field(gt=0)] | None = 4  # cells; None is the full alignment loss LA
    window_mm: Annotated[float, Field(gt=0)] | None = None  # instead: whatever the pixels; 4 cells on ACDC are 40 mm
    level: Annotated[int, Field(ge=0, le=4)] = 3  # encoder map that is aligned: 3 is "s = 4" [P] at stride 8; or 4
    local_channels: int | None = None  # of the linear embedding E; None is the width of the map
    local_bias: bool = True  # of E
    centring: Literal["none", "mean", "batch"] = "none"  # before the unit norm: minus the mean; and over the std
    stop_gradient: bool = False  # the matched slice is a constant
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of training over which lambda grows from 0
    geometry: Literal["shared", "independent"] = "shared"  # by all slices of a scan in a view, or none
    same_slice: bool = False  # independent geometry: the two views of one slice are a pair too
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


@final
class Views(contracts.Views[Settings]):
    """Two geometric views of every slice, with one geometry per scan and view, or one per slice and view."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``first`` and ``second``, each (B, C, size_px, size_px)."""
        draw = _OfScans(rng, batch.scan) if self.settings.geometry == "shared" else rng
        return views.two_views(self.settings.spatial, batch, self.settings.size_px, draw)


@final
class _OfScans:
    """Random numbers in which every slice has those of the first slice of its scan, whichever process holds that."""

    def __init__(self, rng: Draw, scan: Tensor) -> None:
        rows = len(scan)
        first = same(processes.gather(scan)).int().argmax(1)
        self.rng, self.first = rng, first[processes.rank() * rows :][:rows]

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return processes.gather(self.rng.uniform(rows, *shape, low=low, high=high))[self.first]

    def normal(self, rows: int, *shape: int) -> Tensor:
        return processes.gather(self.rng.normal(rows, *shape))[self.first]


@final
class Method(Pretext[Settings, Views]):
    """One encoder; a pooled embedding for the positions and a 1x1 embedding for the alignment."""

    progress: Tensor

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        sampling = Sampling(
            kind="groups", batch_size=settings.batch_size, per_scan=settings.per_scan,
            scans_per_batch=settings.scans_per_batch,
        )  # fmt: skip
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, sampling=sampling)
        width, local = backbone.channels[-1], backbone.channels[settings.level]
        head = heads.PooledMLP if settings.projection == "mlp" else heads.PooledLinear
        self.project = head(width, settings.embedding)
        if settings.alignment_weight:  # a layer without a gradient would stop several processes
            self.embed_local = nn.Conv2d(local, settings.local_channels or local, 1, bias=settings.local_bias)  # E
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views -> positional contrast of the pooled maps, alignment of the local ones."""
        views_of = self.views(batch, rng).values()
        maps = self.backbone.encode(torch.cat([view.image for view in views_of]))
        position, scan, index = (processes.gather(row.repeat(2)) for row in (batch.position, batch.scan, batch.index))
        view_number = processes.gather(torch.arange(2, device=scan.device).repeat_interleave(len(batch.scan)))
        close = near(position, self.settings.threshold)

        z = processes.gather(self.project(maps[-1]))  # (2N, embedding)
        scale = base_factor(self.settings.temperature, self.settings.temperature_base)
        losses = {"contrast": scale * contrast(z, close, self.settings.temperature)}
        watched = {"global": z.detach()}

        if self.settings.alignment_weight:
            x, valid = self.local(maps[self.settings.level], list(views_of), batch)
            x, valid = processes.gather(x), processes.gather(valid)  # (2N, c, h, w), (2N, h, w)
            pairs = close & same(scan) & ~same(index)
            if self.settings.geometry == "shared":
                pairs = pairs & same(view_number)  # only these lie on one grid
            elif self.settings.same_slice:
                pairs = pairs | (same(index) & ~same(view_number))
            spacing_mm = processes.gather(batch.spacing_mm.repeat(2, 1))
            losses["alignment"] = self.weight() * self.align(x, valid, scan, pairs, spacing_mm)
            watched["local"] = x.detach().flatten(2).mT.flatten(0, 1)[:: max(1, x[:, 0].numel() // 1024)]
        return Outcome(losses, watched, {"contrast": scale * log(len(z) - 1)})

    def local(self, features: Tensor, views_of: list[View], batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit local vectors (2N, c, h, w) on the grid where they are matched, and which cells count (2N, h, w)."""
        x = self.embed_local(features)
        if self.settings.centring != "none":
            x = centre(x, scale=self.settings.centring == "batch")
        if self.settings.geometry == "independent":
            halves, strides = zip(x.chunk(2), views_of, strict=True), self.backbone_strides()
            carried = [carry_back(half, view.geometry, strides, batch.image.shape[2:]) for half, view in halves]
            x, valid = torch.cat([c[0] for c in carried]), torch.cat([c[1] for c in carried])[:, 0]
        else:
            valid = torch.ones_like(x[:, 0], dtype=torch.bool)
        return unit(x), valid

    def align(self, x: Tensor, valid: Tensor, scan: Tensor, pairs: Tensor, spacing_mm: Tensor) -> Tensor:
        """Mean of L_WLA over the pair set P; scans are taken one by one, since no pair joins two of them."""
        target = x.detach() if self.settings.stop_gradient else None
        total, count = x.new_zeros(()), 0
        for s in torch.unique(scan):
            rows = (scan == s).nonzero()[:, 0]
            number = int(pairs[rows][:, rows].sum())
            loss = alignment_loss(
                x[rows],
                pairs[rows][:, rows],
                self.window(spacing_mm[rows[0]]),
                valid[rows],
                None if target is None else target[rows],
            )
            total, count = total + number * loss, count + number
        return total / max(count, 1)

    def window(self, spacing_mm: Tensor) -> int | tuple[int, int] | None:
        """Cells of a window on a scan with pixels of ``spacing_mm`` (2,): the number nearest to ``window_mm``."""
        if self.settings.window_mm is None:
            return self.settings.window
        sides_mm = zip(self.backbone_strides(), spacing_mm.tolist(), strict=True)
        row, col = (self.settings.window_mm / (stride * one) for stride, one in sides_mm)
        return max(1, int(row + 0.5)), max(1, int(col + 0.5))  # of two as near the larger

    def weight(self) -> Tensor | float:
        """lambda, or what the warm-up has reached of it."""
        if not self.settings.warm_up:
            return self.settings.alignment_weight
        return self.settings.alignment_weight * (self.progress / self.settings.warm_up).clamp(max=1)

    def backbone_strides(self) -> tuple[int, ...]:
        """Source pixels per cell of the aligned map, along each axis."""
        return self.backbone.axis_strides[self.settings.level]

    def after_step(self, progress: float) -> None:
        """Remembers how far training is, for the warm-up."""
        self.progress.fill_(progress)
