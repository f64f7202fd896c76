"""PIRL: Self-Supervised Learning of Pretext-Invariant Representations. I. Misra, L. van der Maaten. CVPR 2020,
https://arxiv.org/abs/1912.01991. With the jigsaw puzzle, as the PCL protocol runs it on slices.

A memory bank holds a unit vector m_j per slice j. The slice itself gives v = f(x); nine patches of a 3x3 grid, each
embedded and then joined in random order, give v' = g(patches). K bank entries are drawn at random for each slice:

    CE(v)  = -log [ e^(v m_i/tau) / (e^(v m_i/tau) + sum_{k drawn} e^(v m_k/tau)) ],     v, v', m of length 1
    L      = (1 - lambda) CE(v) + lambda CE(v'),        m_i <- unit(mu m_i + (1 - mu) v)

f and g are two heads, and pooled maps of a network that has learned nothing are nearly one vector: without
``batch_norm`` before the heads all v and v' become one, the bank follows, and nothing is learned (``parts/heads.py``).
``bank_start="network"`` is nearer to [P], whose bank is filled before training: a slice that is new has what the
network says of it, not a random direction, and negatives are drawn from the slices that were seen. The presets of ours
use both.

Followed: [C], the PCL authors' next repository (same U-Net, head and optimiser), whose loss is this softmax where the
paper has its noise-contrastive form. The own entry may be among those drawn. Differences: the grid is cut from a second
geometric view of the protocol, in the plane and without further resampling; entries are drawn from those that the data
set can have filled so far (the bank may be larger), and the bank is updated from all processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm, log
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.errors import UsageError
from lemis.layers.basic import unit
from lemis.parts import heads, memory
from lemis.parts.pretext import Pretext
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)

SIDE = 3  # cells along each side of the puzzle


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] the PCL authors' next repository, [P] the paper (VISSL)."""

    batch_size: Annotated[int, Field(gt=0)] = 32  # slices [C]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau [C]; 0.07 [P]
    embedding: Annotated[int, Field(gt=0)] = 512  # [C]; 128 [P]
    batch_norm: bool = False  # of the pooled maps before both heads; ours, see above
    negatives: Annotated[int, Field(gt=0)] = 128  # K [C]; 32000 [P]
    bank: Annotated[int, Field(gt=0)] = 32768  # entries, at least as many as slices; ours
    bank_start: Literal["random", "network"] = "random"  # of its entries: directions [C], or see above
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5  # mu, of the old entry [C] [P]
    jigsaw_weight: Annotated[float, Field(ge=0, le=1)] = 0.5  # lambda [C] [P]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL; 256 [C]
    patch_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a cell, cut to whole strides: 80 px of 85 as [C]
    spatial: Spatial = field(default_factory=Spatial)  # of both views, as PCL


@final
class Views(contracts.Views[Settings]):
    """The slice, and the slice that the puzzle is cut from: two geometric views."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``image`` and ``jigsaw``, each (B, C, size_px, size_px)."""
        first, second = views.two_views(self.settings.spatial, batch, self.settings.size_px, rng).values()
        return {"image": first, "jigsaw": second}


@final
class Method(Pretext[Settings, Views]):
    """One encoder; a head f for slices, a head and a linear layer g for puzzles; the bank."""

    bank: Tensor  # (bank, embedding), unit vectors; random directions where no slice was seen yet
    filled: Tensor  # () int64, the highest slice seen and one more
    seen: Tensor  # (bank,) bool, where the network fills it: the slices that were seen

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.patch_px = _patch_px(settings, lcm(*backbone.divisors))
        width, normed = backbone.channels[-1], settings.batch_norm
        self.project = heads.PooledMLP(width, settings.embedding, batch_norm=normed)
        self.project_patch = heads.PooledMLP(width, settings.embedding, batch_norm=normed)
        self.join = nn.Linear(SIDE**2 * settings.embedding, settings.embedding)
        self.register_buffer("bank", unit(torch.randn(settings.bank, settings.embedding)))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        if settings.bank_start == "network":
            self.register_buffer("seen", torch.zeros(settings.bank, dtype=torch.bool))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> N images and 9N patches -> both compared with the bank, which then learns from the images."""
        drawn = self.views(batch, rng)
        every = memory.entries(batch.index, self.settings.bank, "bank")
        image = unit(self.project(self.backbone.encode(drawn["image"].image)[-1]))  # v, (N, embedding)
        jigsaw = unit(self.embed_puzzle(drawn["jigsaw"].image, rng))  # v'
        known = self.known(every, processes.gather(image.detach()))
        place = (rng.uniform(len(image), self.settings.negatives) * len(known)).long()
        chosen = known[place.clamp(max=len(known) - 1)]
        # Copies, since the bank changes before the backward pass.
        compared = self.bank[torch.cat([batch.index[:, None], chosen], 1)]  # (N, 1 + K, embedding), own entry first
        weight = self.settings.jigsaw_weight
        losses = {
            "image": (1 - weight) * self.cross_entropy(image, compared),
            "jigsaw": weight * self.cross_entropy(jigsaw, compared),
        }
        self.remember(every, processes.gather(image.detach()))
        nothing = log(1 + self.settings.negatives)
        watched = {"global": processes.gather(image.detach()), "puzzle": processes.gather(jigsaw.detach())}
        return Outcome(losses, watched, {"image": (1 - weight) * nothing, "jigsaw": weight * nothing})

    def embed_puzzle(self, image: Tensor, rng: Draw) -> Tensor:
        """(N, C, size, size) -> (N, embedding): nine patches, one embedding each, joined in random order."""
        rows = len(image)
        patches = self.cut(image, rng.uniform(rows, SIDE**2, 2))  # (N, 9, C, patch, patch)
        one = self.project_patch(self.backbone.encode(patches.flatten(0, 1))[-1]).unflatten(0, (rows, SIDE**2))
        order = rng.uniform(rows, SIDE**2).argsort(1)
        joined: Tensor = self.join(one.take_along_dim(order[..., None], 1).flatten(1))
        return joined

    def cut(self, image: Tensor, place: Tensor) -> Tensor:
        """One patch from each cell of the grid, row by row.

        Args:
            image: (N, C, size, size).
            place: (N, 9, 2) in [0, 1), where in its cell each patch lies.

        Returns:
            (N, 9, C, patch, patch).
        """
        cell, patch = image.shape[-1] // SIDE, self.patch_px
        corner = torch.cartesian_prod(*[torch.arange(SIDE, device=image.device) * cell] * 2)  # (9, 2)
        spare = cell - patch + 1
        start = corner + (place * spare).long().clamp(max=spare - 1)  # (N, 9, 2)
        pixel = start[..., None] + torch.arange(patch, device=image.device)  # (N, 9, 2, patch)
        number = torch.arange(len(image), device=image.device).view(-1, 1, 1, 1)
        cells = image.movedim(1, -1)[number, pixel[:, :, 0, :, None], pixel[:, :, 1, None]]  # (N, 9, patch, patch, C)
        return cells.movedim(-1, 2)

    def cross_entropy(self, v: Tensor, compared: Tensor) -> Tensor:
        """Mean of CE(v): (N, embedding) with (N, 1 + K, embedding), the first of which is the right one."""
        with torch.autocast(v.device.type, enabled=False):
            logits = (compared @ v[..., None])[..., 0] / self.settings.temperature
        return (logits.logsumexp(1) - logits[:, 0]).mean()

    @torch.no_grad()
    def known(self, index: Tensor, v: Tensor) -> Tensor:
        """Entries that negatives are drawn from, once the slices of this step, of all processes, are counted in."""
        self.filled.clamp_(min=int(index.max()) + 1)
        if self.settings.bank_start == "random":
            return torch.arange(int(self.filled), device=index.device)
        new = ~self.seen[index]
        self.bank[index[new]] = v[new].to(self.bank.dtype)
        self.seen[index] = True
        return self.seen.nonzero()[:, 0]

    @torch.no_grad()
    def remember(self, index: Tensor, v: Tensor) -> None:
        """m <- unit(mu m + (1 - mu) v) for the slices of this step, of all processes."""
        self.bank[index] = unit(self.bank[index].lerp(v.to(self.bank.dtype), 1 - self.settings.bank_momentum))


def _patch_px(settings: Settings, stride: int) -> int:
    cell = settings.size_px // SIDE
    if cell < stride:
        raise UsageError(
            f"size_px={settings.size_px}, whose puzzle has cells of {cell} px",
            allowed=f"cells of at least {stride} px, the network's coarsest stride",
            next=f"method.size_px={SIDE * stride}",
        )
    return max(stride, int(settings.patch_share * cell) // stride * stride)
