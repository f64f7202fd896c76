"""DiRA: Discriminative, Restorative, and Adversarial Learning for Self-supervised Medical Image Analysis. F. Haghighi,
M. R. Hosseinzadeh Taher, M. B. Gotway, J. Liang. CVPR 2022, https://arxiv.org/abs/2204.10437. With MoCo v2, as the PCL
protocol runs it on slices; the adversary by gradient reversal (Y. Ganin, V. Lempitsky. ICML 2015,
https://arxiv.org/abs/1409.7495).

A network tells slices apart, restores distorted ones, and is to deceive a discriminator D about which are restored:

    L       = lambda_dis L_dis + lambda_res L_res + lambda_adv L_adv,   weights 1, 10 and 0.001
    L_dis   = -log [ exp(q k+ / tau) / ( exp(q k+ / tau) + sum_{k in queue} exp(q k / tau) ) ],   q, k unit vectors
    L_res   = mean over pixels of ( x' - x )^2,   x view 1 in [0, 1],  x' = sigmoid(decoder(encoder(distorted view 1)))
    L_adv   = E[ log D(x) ] + E[ log (1 - D(x')) ],   which D maximises and the network minimises
    theta_k <- m theta_k + (1 - m) theta_q

In one step and one sum: ``adversarial`` is -L_adv, which D descends; on the way from D to the network its gradient is
multiplied by -lambda_adv. This replaces the released code's alternating updates, D's own optimiser, and its squared
error in place of the logarithms. Like there, the adversary comes last: before ``adversarial_from`` only D learns of it.

Followed: the losses and weights, the distortions and intensity changes, D's layers of the released code [C]; the size
of boxes and blur goes with that of the view. Encoder and decoder are transferred. Geometry, batch and schedule are the
protocol's (PCL, MICCAI 2021). Differences: in [C] a view may be mirrored after its target was taken, here the target
has the view's geometry; grey values are those of the slice between its least and its greatest value, and the network
reads them on the scale of fine-tuning (z-scores); every channel is restored; keys of the slice itself are no negatives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome
from lemis.layers.basic import precise
from lemis.layers.unet import all_parts
from lemis.parts import corrupt, heads
from lemis.parts.momentum import MomentumPair, follower
from lemis.parts.queue import Queue, contrast_then_add
from lemis.parts.restore import Restore
from lemis.sampling.distorted import DistortedViews
from lemis.sampling.spatial import Spatial

DIMS = (2,)
TRAINS = ("encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's values for the method ([C] its code), the PCL protocol's for what it is run on."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices, as PCL; 256, and 16 once the adversary acts [C]
    discrimination_weight: Annotated[float, Field(gt=0)] = 1.0  # lambda_dis [C]
    restoration_weight: Annotated[float, Field(gt=0)] = 10.0  # lambda_res [C]
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.001  # lambda_adv [C]
    adversarial_from: Annotated[float, Field(ge=0, le=1)] = 0.75  # share of training: the last 400 of 1,600 epochs [C]
    temperature: Annotated[float, Field(gt=0)] = 0.2  # tau [C]
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999  # m, of the key encoder [C]
    queue: Annotated[int, Field(gt=0)] = 2048  # keys: about the slices of ACDC; 65,536 [C]
    embedding: Annotated[int, Field(gt=0)] = 128  # [C]
    photometric: Literal["released", "identity"] = "released"  # jitter and blur of [C], or none as in PCL
    distortion: corrupt.Distortion = field(default_factory=corrupt.Distortion)  # [C]
    size_px: Annotated[int, Field(gt=0)] = 352  # side of a view, as PCL; 224 [C]
    spatial: Spatial = field(default_factory=Spatial)  # as PCL; [C]: a resized crop, mirrored or not


Views = DistortedViews  # ``query``, ``key``, and ``target``: the query before it was distorted


@final
class Method(MomentumPair[Settings, Views]):
    """As MoCo: encoder, pooled MLP, slow copies, queue. Decoder and a layer that gives grey; the discriminator."""

    progress: Tensor

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings, Views(settings), trains=all_parts(backbone))
        self.project = heads.PooledMLP(backbone.channels[-1], settings.embedding)
        self.slow_backbone, self.slow_project = follower(self.backbone), follower(self.project)
        self.queue = Queue(settings.queue, settings.embedding)
        self.restore = Restore(backbone)
        self.discriminate = discriminator(corrupt.image_channels(backbone))
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> N queries, N keys and N restored slices -> the three losses; the queue takes the keys."""
        how = self.settings
        drawn = self.views(batch, rng)
        target = drawn["target"].image
        maps = self.backbone.encode(drawn["query"].image)
        q = self.project(maps[-1])  # (N, embedding)
        k = self.key(drawn["key"].image)  # (N, embedding)
        discrimination = contrast_then_add(q, k, batch.index, self.queue, how.temperature)
        restored = self.restore(self.backbone.decode(maps)).sigmoid()
        deceive = how.adversarial_weight * (self.progress >= how.adversarial_from)  # lambda_adv, or 0
        real, fake = self.discriminate(torch.cat([target, reverse(restored, deceive)])).chunk(2)
        losses = {
            "discrimination": how.discrimination_weight * discrimination,
            "restoration": how.restoration_weight * F.mse_loss(restored, target),
            "adversarial": adversarial(real, fake),
        }
        nothing = {"discrimination": how.discrimination_weight * log(how.queue + 1)}
        return Outcome(losses, {"global": q.detach()}, nothing)

    def after_step(self, progress: float) -> None:
        """The key encoder follows; the adversary may have its turn."""
        super().after_step(progress)
        self.progress.fill_(progress)


def reverse(x: Tensor, factor: Tensor | float) -> Tensor:
    """x itself, exactly; a gradient that comes back is multiplied by -factor."""
    still = x.detach()
    return still + factor * (still - x)


def adversarial(real: Tensor, fake: Tensor) -> Tensor:
    """-L_adv of D's logits: - mean log D(x) - mean log (1 - D(x')), D = sigmoid(logit); 2 log 2 where D cannot tell."""
    return F.softplus(-precise(real)).mean() + F.softplus(precise(fake)).mean()


def discriminator(channels: int) -> nn.Sequential:
    """D of [C]: (B, channels, H, W) -> a logit for every patch, (B, 1, H / 8, W / 8)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for width, out, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
        # No bias: the normalisation that follows would take it away.
        conv = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.InstanceNorm2d(out), nn.LeakyReLU(0.2)]
    layers.append(nn.Conv2d(512, 1, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return nn.Sequential(*layers)
