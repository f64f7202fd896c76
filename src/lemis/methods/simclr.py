"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations. T. Chen, S. Kornblith, M. Norouzi,
G. Hinton. ICML 2020, https://arxiv.org/abs/2002.05709. As the PCL protocol runs it on slices; on patches of volumes.

    l_i = -log [ exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) ],  j the other view of slice or patch i,  s = cosine

Followed: the NT-Xent loss, its two-layer head, and the geometric views of the protocol (PCL, MICCAI 2021), so that only
the positives differ from PCL. Left out: colour distortion and LARS, which the protocol does not use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, final

from pydantic import Field

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome
from lemis.parts import heads
from lemis.parts.contrast import contrasted, same
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views
from lemis.sampling.spatial import Size, Spatial, patch_of

DIMS = (2, 3)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The PCL protocol's values."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices or patches
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # PCL: the loss times tau / 0.07; None: as printed
    embedding: Annotated[int, Field(gt=0)] = 512  # as PCL
    size_px: Size = 352  # side of a view, as PCL; also [slices, rows, cols] in 3D
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` and ``second`` of every slice or patch


@final
class Method(Pretext[Settings, Views]):
    """Encoder, pooled MLP, and a contrast in which only the other view is positive."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        patch_px = patch_of(settings.size_px, backbone.dims)
        super().__init__(backbone, settings, Views(settings), trains=TRAINS, patch_px=patch_px)
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices or patches -> 2N views -> NT-Xent."""
        images = together(self.views(batch, rng))
        z = processes.gather(self.project(self.backbone.encode(images)[-1]))  # (2N, embedding)
        slice_of = processes.gather(batch.index.repeat(2))  # (2N,)
        return contrasted(z, same(slice_of), self.settings.temperature, self.settings.temperature_base)
