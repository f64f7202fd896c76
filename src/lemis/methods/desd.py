"""DeSD: Self-Supervised Learning with Deep Self-Distillation for 3D Medical Image Segmentation. Y. Ye, J. Zhang,
Z. Chen, Y. Xia. MICCAI 2022, https://doi.org/10.1007/978-3-031-16440-8_52. As the PCL protocol runs it on slices.

Every depth of the student's encoder learns to say of one view what the teacher's deepest says of the other:

    L    = 1/M sum_m mean over views v != w of - sum_k P_k(v) log softmax_k( h_m(GAP(student map m of w)) / tau_s )
    P(v) = softmax( (h'(GAP(deepest teacher map of v)) - c) / tau_t ),   no gradient
    c   <- 0.9 c + 0.1 mean of the teacher's answers;   teacher <- m teacher + (1 - m) student, m from 0.996 to 1

Each h is a head of DINO: three linear layers with GELU between them, a unit vector, and its cosine with K unit vectors.
Followed: losses, heads, temperatures, centre and momentum of the released code, and the transfer of the teacher. The M
depths are the deepest maps of the encoder. The views are the protocol's (PCL, MICCAI 2021): geometric, of slices, where
the paper crops 3D patches and changes their intensities. Left out: output layers that rest during the first epoch, and
the growing weight decay. Differs: both views go through a network together, so batch statistics are over 2N images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.basic import BatchNorm, pool, precise, unit
from lemis.parts.momentum import follow, follower, towards_one
from lemis.parts.pretext import Pretext, together
from lemis.sampling import views
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The released code's values [C] for the method, the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 32 patches on each GPU [C]
    depths: Annotated[int, Field(gt=0)] = 4  # M, the deepest maps of the encoder, all where it has fewer; 4 stages [C]
    outputs: Annotated[int, Field(gt=1)] = 65536  # K [C], for 125,000 patches
    hidden: Annotated[int, Field(gt=0)] = 2048  # width inside a head [C]
    embedding: Annotated[int, Field(gt=0)] = 256  # length of the unit vector [C]
    batch_norm: bool = True  # inside a head: an option of [C], off there; on this U-Net a head without it collapses
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau_s [C]
    temperature_teacher: Annotated[float, Field(gt=0)] = 0.04  # tau_t [C]
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996  # m at the start; 1 at the end [C]
    momentum_centre: Annotated[float, Field(ge=0, le=1)] = 0.9  # of c [C]
    transfer: Literal["teacher", "student"] = "teacher"  # whose encoder is kept at the end of training [C]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL
    spatial: Spatial = field(default_factory=Spatial)  # as PCL


Views = views.TwoViews  # ``first`` and ``second`` of every slice


@final
class Method(Pretext[Settings, Views]):
    """The student: encoder and a head at each depth. The teacher: a slow copy of the encoder and its deepest head."""

    centre: Tensor

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=TRAINS)
        self.heads = nn.ModuleList([_Head(width, settings) for width in backbone.channels[-settings.depths :]])
        self.teacher, self.teacher_head = follower(backbone), follower(self.heads[-1])
        self.register_buffer("centre", torch.zeros(settings.outputs))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 2N views -> at each depth the cross-entropy with the teacher's answer to the other view."""
        how, images = self.settings, together(self.views(batch, rng))
        with torch.no_grad():
            _, answer = self.teacher_head(self.teacher.encode(images)[-1])  # (2N, K)
            target = ((answer - self.centre) / how.temperature_teacher).softmax(1)
            self.move_centre(answer)
        maps = self.backbone.encode(images)
        weight = 1 / len(self.heads)
        losses = {}
        for depth, head in enumerate(self.heads, start=len(maps) - len(self.heads)):
            z, cosines = head(maps[depth])
            losses[f"depth {depth + 1}"] = weight * distillation(cosines / how.temperature, target)
        return Outcome(losses, {"global": z.detach()}, dict.fromkeys(losses, weight * log(how.outputs)))

    def move_centre(self, answer: Tensor) -> None:
        """c follows the mean of the teacher's answers, of all processes."""
        mean = processes.total(answer.sum(0)) / (len(answer) * processes.count())
        self.centre.lerp_(mean, 1 - self.settings.momentum_centre)

    def after_step(self, progress: float) -> None:
        """The teacher follows, ever more slowly; at the end its encoder is the one that is kept."""
        momentum = towards_one(self.settings.momentum, progress)
        follow(self.teacher, self.backbone, momentum)
        follow(self.teacher_head, self.heads[-1], momentum)
        if progress == 1 and self.settings.transfer == "teacher":
            self.backbone.load_state_dict(self.teacher.state_dict())


@final
class _Head(nn.Module):
    """Global average pooling, three linear layers, unit length, and the cosine with K learned directions."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside in (channels, settings.hidden):
            layers += [nn.Linear(inside, settings.hidden)]
            layers += [BatchNorm(settings.hidden)] if settings.batch_norm else []
            layers += [nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(settings.hidden, settings.embedding))
        self.directions = nn.Parameter(torch.randn(settings.outputs, settings.embedding))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, *space) -> unit vectors (B, embedding) and cosines (B, K)."""
        z = unit(self.layers(pool(x)))
        with torch.autocast(z.device.type, enabled=False):
            return z, z @ unit(self.directions).T


def distillation(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the student's (2N, K) with the teacher's (2N, K) of the other view."""
    other = torch.cat(target.chunk(2)[::-1])
    return -(other * precise(logits).log_softmax(1)).sum(1).mean()
