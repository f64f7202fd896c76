"""MACL: Multi-level Asymmetric Contrastive Learning for Volumetric Medical Image Segmentation Pre-training. S. Zeng,
L. Zhu, X. Zhang, M. C. Nnamdi, W. Shi, J. B. Tamo, Q. Chen, H. He, L. Jin, Z. Tian, Q. Ren, Z. Xie, Y. Lu. IEEE Journal
of Biomedical and Health Informatics 2025, https://arxiv.org/abs/2309.11876.

Encoder and decoder are pre-trained together. The auxiliary branch (~) sees a slice in full size and stops at the
bottleneck; the dominant branch sees it r = 2^-b times as large and goes on through b decoder blocks, so that its map
ends at the size of that bottleneck. e encoder, d decoder blocks, g projectors, I fixed and V varied views of a slice:

    Y~ = e(I2),         Z~l = g~_pix(Y~),         Z~g = g~_ins(e(V2))
    Y  = e(down(I1)),   Zl  = d_1..b(Y),          Zg  = g_ins(d_1..b(e(down(V1))))

    Omega(i) = { j : |p_i - p_j| < t },  p = (slice index + 1) / number of slices
    L_g = sum_i -1/|Omega(i)| sum_{j in Omega(i)} log [ exp(s(Zg_i, Z~g_j) / tau) / sum_k exp(s(Zg_i, Z~g_k) / tau) ]
    L_d = the same of Zl and Z~l at each place of the map, which meets that place of other slices only; mean over places
    L_ER = || Y - down(Y~) ||_1
    L   = L_g + 0.5 L_d + L_ER

``form="released"`` is the authors' code: the vectors of both branches are one set, every one is an anchor and meets all
others; L_g and L_d are times tau / 0.07. ``form="article"`` is what is printed: anchors are the dominant vectors, which
meet the auxiliary ones. In both they are means over anchors as in the code; ``reduction="sum"`` is Eq. 9 and 10 as
printed, N times as much, for which no learning rate here was chosen. The norm is the mean over elements, as in the
code; a sum would outweigh the rest ten thousand times. g_ins follows the decoder, as in the code and Eq. 4; Eq. 7 has
it on the encoder.

Two heads, and no normalisation before them: at first each says nearly one vector of all slices, and the two are not the
same one. In the released form L_g then starts far above the value of a network that knows nothing, falls to it by
making all vectors alike, and stays there. Two settings learn it: ``form="article"``, in which an offset between the
branches cancels, and ``batch_norm`` before the heads. Defaults are the authors', ``form="article"`` is in the presets
of ours.

L_ER halves maps as images are halved, bilinearly with corners on corners, and reads few places of a large map: 8 x 8 of
the 32 x 32 of a view of 512 px, the four corners of the 8 x 8 of one of 128 px. ``down_map="area"`` is the mean of each
block, of all places.

Differences from the authors' code: all slices of a batch are contrasted, also those of other processes; the views of a
branch share batch statistics, over all processes (SyncBatchNorm) but over one part of ``accumulate`` only, so that two
parts of 16 slices, which are contrasted apart as on the authors' two GPUs, do not have the statistics of all 32 as
there; V are read from the whole slice in one resampling; only the decoder blocks that are trained are run; jittered
slices keep their range of values. On BraTS the code has other views: ``photometric="brats"``, and the ``spatial`` of
those presets ``paper/macl-*`` that are pre-trained there. Left out: the two-stage form of Table VI, and the rounding to
8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm, log
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lemis import contracts, processes
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.errors import UsageError
from lemis.layers.basic import kaiming, precise, unit
from lemis.layers.unet import SLOPE, block, parts_to
from lemis.parts import heads
from lemis.parts.contrast import base_factor, near
from lemis.parts.momentum import follow, follower
from lemis.parts.pretext import Pretext
from lemis.sampling import views, warping
from lemis.sampling.intensity import Intensity, augment
from lemis.sampling.spatial import CROP_ONLY, Spatial

DIMS = (2,)
TRAINS = ("encoder", "decoder 1", "decoder 2")

# The released code on slices in [0, 1]; its Gaussian of sigma 1 to 3 in three pixels has a true sigma of about 0.8.
RELEASED = Intensity(
    p_brightness=1.0,
    brightness_factor=(1e-3, 1.0),
    p_contrast=1.0,
    contrast_factor=(0.8, 1.2),
    p_blur=1.0,
    blur_sigma_px=(0.74, 0.80),
)
BRATS = Intensity(p_brightness=1.0, brightness_factor=(0.8, 1.2))  # the same on BraTS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] is stated in the article, [C] seen in the released code; both where nothing is said."""

    batch_size: Annotated[int, Field(gt=1)] = 32  # slices; [C] has 16 on each of two GPUs, contrasted apart
    blocks: Literal[0, 1, 2, 3, 4] = 2  # b, decoder blocks that are trained; Table IV
    form: Literal["released", "article"] = "released"  # of the losses, see above
    reduction: Literal["mean", "sum"] = "mean"  # of L_g and L_d over anchors: mean [C], sum [P]
    temperature: Annotated[float, Field(gt=0)] = 0.1  # tau
    temperature_base: Annotated[float, Field(gt=0)] | None = 0.07  # [C]: released L_g and L_d times tau / 0.07; None: 1
    threshold: Annotated[float, Field(gt=0)] = 0.1  # t: 0.1 on CHD and KiTS, 0.05 on BraTS; PCL's 0.35 on ACDC
    embedding: Annotated[int, Field(gt=0)] = 128  # of g_ins and g~_ins, hidden layer included
    batch_norm: bool = False  # of the pooled maps before g_ins and g~_ins; ours, see above
    weight_global: Annotated[float, Field(ge=0)] = 1.0  # lambda 1, of L_g
    weight_equivariance: Annotated[float, Field(ge=0)] = 1.0  # of L_ER; Table V
    weight_dense: Annotated[float, Field(ge=0)] = 0.5  # of L_d; Table V
    down_map: Literal["corners", "area"] = "corners"  # of Y~ in L_ER: as images [C], or the mean of each block
    encoder: Literal["shared", "independent", "ema"] = "shared"  # of the auxiliary branch; Table VI
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of the EMA encoder; not published, MoCo's
    photometric: Literal["identity", "released", "brats"] = "identity"  # of all views: none [P]; [C] of CHD, of BraTS
    size_px: Annotated[int, Field(gt=0)] = 384  # side of a view; 512 [C]; the PCL protocol's 352 is no multiple of 64
    spatial: Spatial = field(default_factory=Spatial)  # of V1 and V2, the chain of [C]


@final
class Views(contracts.Views[Settings]):
    """Two views of every slice on one pixel grid, and two with a geometry of their own."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``fixed_1``, ``fixed_2``, ``varied_1`` and ``varied_2``, each (B, C, size_px, size_px)."""
        how = self.settings
        crop = views.random_view(CROP_ONLY, batch, how.size_px, rng)
        seen = {}
        for number in ("1", "2"):
            image = batch.image if how.photometric == "identity" else _changed(how.photometric, batch.image, rng)
            seen[f"fixed_{number}"] = crop
            if how.photometric != "identity":
                seen[f"fixed_{number}"] = warping.apply(crop.geometry, image, batch.label, batch.inside)
            seen[f"varied_{number}"] = views.random_view(how.spatial, batch._replace(image=image), how.size_px, rng)
        return seen


@final
class Method(Pretext[Settings, Views]):
    """One encoder, ``blocks`` decoder blocks, and a projector for each of Zg, Z~g and Z~l."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        shrink = _shrink(backbone, settings)
        compares = bool(settings.weight_global or settings.weight_dense)
        if not compares and not settings.weight_equivariance:
            raise UsageError("all three weights are 0", allowed="one above 0", next="method.weight_global=1")
        super().__init__(backbone, settings, Views(settings), trains=parts_to(settings.blocks if compares else 0))
        self.shrink = shrink
        if settings.encoder != "shared":
            self.second = follower(backbone)
        if settings.encoder == "independent":
            for name, parameter in self.second.named_parameters():
                parameter.requires_grad_(backbone.part_of(name) == "encoder")
        deepest = backbone.channels[-1]
        width = backbone.decoder_channels[settings.blocks - 1] if settings.blocks else deepest
        # A layer without a gradient would stop several processes, so what has no weight is not built.
        if settings.weight_global:
            out, normed = settings.embedding, settings.batch_norm
            self.project = heads.PooledMLP(width, out, hidden=out, batch_norm=normed)  # g_ins
            self.project_auxiliary = heads.PooledMLP(deepest, out, hidden=out, batch_norm=normed)  # g~_ins
        if settings.weight_dense:
            self.project_pixels = block(deepest, width)  # g~_pix
            kaiming(self.project_pixels, SLOPE)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N slices -> 4N views -> contrast of slices, contrast place by place, and equality of both bottlenecks."""
        how = self.settings
        seen = self.views(batch, rng)
        kinds = ["fixed"] * bool(how.weight_dense or how.weight_equivariance) + ["varied"] * bool(how.weight_global)
        auxiliary = self.encode_auxiliary(torch.cat([seen[f"{kind}_2"].image for kind in kinds]))
        maps = self.backbone.encode(self.down(torch.cat([seen[f"{kind}_1"].image for kind in kinds])))
        y2 = dict(zip(kinds, auxiliary.chunk(len(kinds)), strict=True))
        close = near(processes.gather(batch.position), how.threshold)  # (N, N), the diagonal included
        losses, watched, uninformed = {}, {}, {}
        if how.weight_global or how.weight_dense:
            decoded = self.backbone.decode(maps, how.blocks) if how.blocks else maps[-1]
            z1 = dict(zip(kinds, decoded.chunk(len(kinds)), strict=True))
        if how.weight_global:
            one = processes.gather(self.project(z1["varied"]))  # Zg, (N, embedding)
            other = processes.gather(self.project_auxiliary(y2["varied"]))  # Z~g
            losses["global"] = how.weight_global * self.contrast(one[None], other[None], close)
            watched["global"] = torch.cat([one, other]).detach()
            uninformed["global"] = how.weight_global * self.uninformed(len(one))
        if how.weight_dense:
            one, other = (_places(z) for z in (z1["fixed"], self.project_pixels(y2["fixed"])))  # Zl and Z~l, (S, N, D)
            losses["dense"] = how.weight_dense * self.contrast(one, other, close)
            vectors = torch.cat([one, other]).detach().flatten(0, 1)
            watched["dense"] = vectors[:: max(1, len(vectors) // 1024)]
            uninformed["dense"] = how.weight_dense * self.uninformed(one.shape[1])
        if how.weight_equivariance:
            y1 = maps[-1][: len(batch.image)]  # the fixed views come first
            apart = precise(y1) - self.down_map(precise(y2["fixed"]))
            losses["equivariance"] = how.weight_equivariance * apart.abs().mean()
        return Outcome(losses, watched, uninformed)

    def encode_auxiliary(self, images: Tensor) -> Tensor:
        """The bottleneck of full-size views."""
        if self.settings.encoder == "shared":
            return self.backbone.encode(images)[-1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.encoder == "independent"):
            return self.second.encode(images)[-1]

    def down(self, x: Tensor) -> Tensor:
        """To r times the size, bilinearly, corners on corners."""
        if max(self.shrink) == 1:
            return x
        size = [n // by for n, by in zip(x.shape[2:], self.shrink, strict=True)]
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    def down_map(self, y: Tensor) -> Tensor:
        """The auxiliary bottleneck at the size of the dominant one."""
        if self.settings.down_map == "corners":
            return self.down(y)
        return F.interpolate(y, [n // by for n, by in zip(y.shape[2:], self.shrink, strict=True)], mode="area")

    def contrast(self, one: Tensor, other: Tensor, close: Tensor) -> Tensor:
        """The positional contrast of N dominant and N auxiliary vectors (S, N, D) at each of S places."""
        how = self.settings
        if how.form == "article":
            return self.factor(one.shape[1]) * positional_contrast(one, other, close, how.temperature).mean()
        both = torch.cat([one, other], 1)
        itself = torch.eye(both.shape[1], dtype=torch.bool, device=both.device)
        each = positional_contrast(both, both, close.tile(2, 2), how.temperature, itself)
        return self.factor(both.shape[1]) * each.mean()

    def uninformed(self, slices: int) -> float:
        """``contrast`` where all vectors are equal."""
        if self.settings.form == "article":
            return self.factor(slices) * log(slices)
        return self.factor(2 * slices) * log(2 * slices - 1)

    def factor(self, anchors: int) -> float:
        """What a form and its reduction make of the mean over anchors."""
        how = self.settings
        base = how.temperature_base if how.form == "released" else None
        return base_factor(how.temperature, base) * (anchors if how.reduction == "sum" else 1)

    def after_step(self, progress: float) -> None:  # noqa: ARG002  the momentum is constant
        """The EMA encoder follows."""
        if self.settings.encoder == "ema":
            follow(self.second, self.backbone, self.settings.momentum)


def positional_contrast(
    anchors: Tensor, candidates: Tensor, positives: Tensor, temperature: float, left_out: Tensor | None = None
) -> Tensor:
    """For each place and anchor, the mean over its positives of -log softmax over the candidates.

    Args:
        anchors: (S, N, D), not normalised.
        candidates: (S, M, D).
        positives: (N, M) bool.
        temperature: tau.
        left_out: (N, M) bool, pairs that count neither as positives nor in the sum below; None is no pair.

    Returns:
        (S, N), at least float32.
    """
    directions, others = unit(anchors, 2), unit(candidates, 2)
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = directions @ others.mT / temperature
    if left_out is not None:
        similarity, positives = similarity.masked_fill(left_out, -torch.inf), positives & ~left_out
    # log_softmax of an excluded pair is -inf; it is no positive, so it never enters the sum.
    wanted = similarity.log_softmax(2).masked_fill(~positives, 0)
    return -wanted.sum(2) / positives.sum(1)


def _places(z: Tensor) -> Tensor:
    """(B, D, *space) -> (S, N, D): the vectors of all N slices of the batch, place by place."""
    return processes.gather(z).flatten(2).permute(2, 0, 1)


def _shrink(backbone: contracts.Backbone, settings: Settings) -> tuple[int, ...]:
    """1/r along each axis, by which the dominant branch's views are smaller.

    Raises:
        UsageError: The network has fewer blocks, or the sizes of both branches cannot meet.
    """
    blocks, deepest = settings.blocks, backbone.axis_strides[-1]
    if blocks > len(backbone.decoder_strides):
        raise UsageError(
            f"blocks={blocks}",
            allowed=f"0 to {len(backbone.decoder_strides)}, the decoder blocks of this network",
            next=f"method.blocks={len(backbone.decoder_strides)}",
        )
    reached = backbone.decoder_axis_strides[blocks - 1] if blocks else deepest
    shrink = tuple(of_map // after for of_map, after in zip(deepest, reached, strict=True))
    divisor = lcm(*(of_map * by for of_map, by in zip(deepest, shrink, strict=True)))
    if settings.size_px % divisor:
        raise UsageError(
            f"size_px={settings.size_px} with blocks={blocks}",
            allowed=f"multiples of {divisor}, so that both branches end at one size",
            next=f"method.size_px={-(-settings.size_px // divisor) * divisor}",
        )
    return shrink


def _changed(photometric: Literal["released", "brats"], image: Tensor, rng: Draw) -> Tensor:
    """The released code's changes of intensity, between the least and the greatest value of each slice.

    On CHD brightness, contrast and blur, after which a slice is spread over that range again; on BraTS brightness
    alone, and what would be brighter than the greatest value is as bright as that (INFERRED).
    """
    low, span = _range(image)
    if photometric == "brats":
        return augment((image - low) / span, BRATS, rng).clamp(max=1) * span + low
    changed = augment((image - low) / span, RELEASED, rng)
    bottom, top = _range(changed)
    return (changed - bottom) / top * span + low


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Least value, and distance to the greatest, of each slice and channel."""
    axes = tuple(range(2, image.dim()))
    low = image.amin(axes, keepdim=True)
    return low, (image.amax(axes, keepdim=True) - low).clamp(min=1e-6)
