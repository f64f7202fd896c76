"""S3-Net: Self-supervised Semantic Segmentation: Consistency over Transformation. S. Karimijafarbigloo, R. Azad,
A. Kazerouni, Y. Velichko, U. Bagci, D. Merhof. ICCV Workshops 2023, https://arxiv.org/abs/2309.00143.

One network per image, from random weights, trained on that image alone. Its K outputs per pixel are scores of clusters,
of which fewer and fewer are left. S is the softmax of the scores, Y the one-hot argmax (no gradient), T an affine map:

    (4)  L_ce = -1/(HW) sum_i sum_j Y_ij log S_ij
    (5)  L_s  = sum_ij |Gx - Gy| + |Gx - Gxy| + |Gy - Gxy|,     Sobel's filters on the segmentation
    (6)  L_at = -1/(HW) sum_i sum_j (T Y)_ij log Y'_ij,         Y' the auxiliary head's softmax, through T as well
         L    = lambda_1 L_ce + lambda_2 L_at + lambda_3 L_s

Differences from the authors' code, where two of the three losses do nothing of what is printed: its L_s is made of the
painted label map and has no gradient, ours is taken on S; its T is a turn by 90 degrees of head and target alike, which
permutes pixels and leaves L_at as without it, ours is drawn anew each iteration and applied to the image, and pixels
from outside do not count. Its offsets and masks of the deformable convolution are free parameters, one per pixel; ours
are predicted from the features. Each is a setting, ``RELEASED`` has them all. An image whose pixels all get one label
starts anew from another seed. What predicts the offsets learns at a hundredth of the rate (``offset_rate``), which is
an addition of ours, also with the paper's values: at its full rate the offsets run away (docs/notebook/presets.md).

Left out, in ``RELEASED`` too: the released code's optional branch for lung CT (``color``). It multiplies K x K matrices
made of scores and of pixel values with a third factor, and our sources say neither what that is nor how the rows are
normalised. Its softmax without a dimension makes one factor all ones, so whatever the rest is, the scores of a pixel
would all follow one number. ``pixel_values`` is the paper's sentence, by a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lemis.contracts import Geometry, Segmented
from lemis.layers.deform import deform_conv
from lemis.one_image import solo
from lemis.parts import edges
from lemis.sampling import warping
from lemis.settings import PositiveRange


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("a kernel has an odd size, so that it has a middle")
    return size


Kernel = Annotated[int, Field(gt=0), AfterValidator(_odd)]
Branches = Annotated[tuple[tuple[Kernel, Annotated[int, Field(gt=0)]], ...], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Deformable = Literal["predicted", "free", "none"]
Affine = Literal["input", "feature", "released"]
Spatial = Literal["sobel", "tv", "released"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[P] the paper; [C] the released code; INFERRED our reading where neither says."""

    clusters: Annotated[int, Field(gt=1)] = 64  # K, width of all layers and most clusters there can be [C]
    blocks: Count = 2  # N, of I-LKA [P]
    branches: Branches = ((3, 1), (5, 2), (7, 3))  # (kernel, dilation) of I-LKA [C]; [[7, 3]] alone is VAN's LKA
    inception: bool = True  # False: branches and their 1x1 convolution are one 3x3 convolution, ablation [P]
    deformable: Deformable = "predicted"  # INFERRED; free: parameters per pixel [C]; none: a convolution, ablation [P]
    offset_rate: Positive = 0.01  # ours: of the learning rate, for what predicts offsets and masks; 1: as the rest
    pixel_values: bool = False  # beside the scores; True on lung CT [P], by a 1x1 convolution INFERRED
    weight_cross_entropy: NotNegative = 1.2  # lambda_1 [P]; 3.5 [C]
    weight_affine: NotNegative = 0.3  # lambda_2 [P]; 0.2 [C]
    weight_spatial: NotNegative = 0.3  # lambda_3 [P]; 4 [C]
    spatial: Spatial = "sobel"  # (5) on S, INFERRED; tv: |Gx| + |Gy| of S; released: no gradient, so left out [C]
    spatial_over: Literal["sum", "mean"] = "sum"  # clusters, INFERRED; over pixels it is a mean [C]
    affine: Affine = "input"  # INFERRED; feature: of the auxiliary scores [P]; released: those, by 90 degrees [C]
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 90.0  # at most, either way, INFERRED: no ranges in [P]
    translation: Annotated[float, Field(ge=0, lt=0.5)] = 0.1  # at most, share of the side, INFERRED
    scale: PositiveRange = (0.8, 1.2)  # drawn between, INFERRED; below 1 magnifies
    shear_deg: Annotated[float, Field(ge=0, lt=90)] = 10.0  # at most, either way, INFERRED
    learning_rate: Positive = 0.36  # SGD [P]; 0.2 [C]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # [P]
    max_iterations: Count = 50  # [P]
    stop_labels: Count = 3  # an image with so many labels or fewer is finished [C]
    least_iterations: Count = 6  # but not before [C]
    restarts: Annotated[int, Field(ge=0)] = 3  # where all pixels have one label, INFERRED
    starts: Count = 1  # networks an image; the one that explains most of it is kept, ours


RELEASED = Settings(
    deformable="free", weight_cross_entropy=3.5, weight_affine=0.2, weight_spatial=4.0, spatial="released",
    affine="released", learning_rate=0.2,
)  # fmt: skip
LUNG = Settings(pixel_values=True, weight_cross_entropy=1.0, weight_affine=0.5, weight_spatial=0.6)  # weights [P]
# Without references, by how much of the image the clusters explain and how alike two seeds are (docs/notebook); a
# quarter of the channels is also several times as fast, and pays for three starts.
SMALL = Settings(clusters=16, starts=3)
# "paper": the paper's values, but for what it does not say (INFERRED above); ``offset_rate`` is ours; T is applied to
# the image, where the paper speaks of transformed features (``affine=feature``, in benchmarks/plans/s3net-paper.yaml).
PRESETS = {"small": SMALL, "paper": Settings(), "released": RELEASED, "lung": LUNG}


def segment(images: Tensor, settings: Settings, seeds: Sequence[int]) -> Segmented:
    """Images (N, C, H, W) in [0, 1], one seed each -> labels of each image by its own network."""
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    return solo.train(lambda seeds: Networks(settings, shape, seeds), images, seeds, settings)


@final
class Networks(solo.Networks):
    """N networks: a stem, the I-LKA blocks, the auxiliary head, the deformable layer and the main head."""

    def __init__(self, settings: Settings, shape: tuple[int, int, int], seeds: Sequence[int]) -> None:
        super().__init__(seeds)
        self.settings = settings
        n, k, rngs = len(seeds), settings.clusters, self.rngs
        self.stem = nn.Sequential(solo.Conv(rngs, shape[0], k, 3, padding=1), solo.Norm(n, k))
        self.blocks = nn.Sequential(*[Block(rngs, settings) for _ in range(settings.blocks)])
        self.auxiliary = nn.Sequential(solo.Conv(rngs, k, k, 1), solo.Norm(n, k))
        self.deformable = nn.Sequential(_deformable(rngs, settings, shape[1:]), solo.Norm(n, k))
        self.main = nn.Sequential(solo.Conv(rngs, k, k, 1), solo.Norm(n, k))
        if settings.pixel_values:
            self.colour = nn.Sequential(solo.Conv(rngs, k + shape[0], k, 1), solo.Norm(n, k))

    def forward(self, images: Tensor) -> solo.Step:
        """(N, C, H, W) -> the three losses, those with a weight, and the argmax of the main head."""
        how = self.settings
        x = self.encode(images)
        scores = self.score(x, images)  # (N, K, H, W)
        cross_entropy, labels = solo.self_labelling(scores)
        losses = {"cross_entropy": how.weight_cross_entropy * cross_entropy}
        if how.weight_affine > 0:
            losses["affine"] = how.weight_affine * self._affine(images, x, scores.detach())
        if how.weight_spatial > 0 and how.spatial != "released":
            losses["spatial"] = how.weight_spatial * spatial_loss(scores.softmax(1), how.spatial, how.spatial_over)
        return solo.Step(losses, labels)

    def encode(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the shared features (N, K, H, W)."""
        x: Tensor = self.blocks(self.stem(images))
        return x

    def score(self, x: Tensor, images: Tensor) -> Tensor:
        """Shared features -> scores of the clusters (N, K, H, W), by the main head."""
        scores: Tensor = self.main(self.deformable(x))
        if self.settings.pixel_values:
            scores = self.colour(torch.cat([scores, F.instance_norm(images)], 1))
        return scores

    def _affine(self, images: Tensor, x: Tensor, scores: Tensor) -> Tensor:
        """(6): the auxiliary head against the main head's argmax (no gradient), both through T."""
        how = self.settings
        if how.affine == "released":
            told = torch.rot90(self.auxiliary(x), 1, (2, 3))
            return cross_entropy(told, torch.rot90(scores, 1, (2, 3)).argmax(1))
        geometry = draw_affine(how, self.rngs, images)
        inside = torch.ones_like(images[:, :1], dtype=torch.bool)
        target = warping.apply(geometry, scores, inside=inside)
        if how.affine == "feature":
            told = warping.apply(geometry, self.auxiliary(x)).image
        else:
            # Outside is the image's mean, not black: normalisation sees all pixels, those that do not count too.
            mean = images.mean((2, 3), keepdim=True)
            told = self.auxiliary(self.encode(warping.apply(geometry, images - mean).image + mean))
        return cross_entropy(told, target.image.argmax(1), target.inside)


@final
class Block(nn.Module):
    """x -> Norm(x + Conv1x1(I-LKA(GELU(Conv1x1(x)))))."""

    def __init__(self, rngs: Sequence[torch.Generator], settings: Settings) -> None:
        super().__init__()
        k = settings.clusters
        self.attend = nn.Sequential(
            solo.Conv(rngs, k, k, 1), nn.GELU(), Attention(rngs, settings), solo.Conv(rngs, k, k, 1)
        )
        self.norm = solo.Norm(len(rngs), k)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) -> the same shape."""
        out: Tensor = self.norm(x + self.attend(x))
        return out


@final
class Attention(nn.Module):
    """I-LKA (1)-(3): u -> u * a, with a from depth-wise convolutions of several sizes side by side."""

    def __init__(self, rngs: Sequence[torch.Generator], settings: Settings) -> None:
        super().__init__()
        k = settings.clusters
        self.near = solo.Conv(rngs, k, k, 5, padding=2, depthwise=True)
        self.branches = nn.ModuleList()
        if settings.inception:
            for kernel, dilation in settings.branches:
                padding = kernel // 2 * dilation
                self.branches.append(solo.Conv(rngs, k, k, kernel, padding=padding, dilation=dilation, depthwise=True))
            self.mix = solo.Conv(rngs, k * len(self.branches), k, 1)
        else:
            self.mix = solo.Conv(rngs, k, k, 3, padding=1)

    def forward(self, u: Tensor) -> Tensor:
        """(N, K, H, W) -> the same shape."""
        a = self.near(u)
        if self.branches:
            a = torch.cat([branch(a) for branch in self.branches], 1)
        out: Tensor = u * self.mix(a)
        return out


def _deformable(rngs: Sequence[torch.Generator], settings: Settings, shape: Sequence[int]) -> nn.Module:
    k = settings.clusters
    if settings.deformable == "none":
        return solo.Conv(rngs, k, k, 3, padding=1, bias=False)
    if settings.deformable == "free":
        return FreeDeformable(rngs, k, shape)
    return Deformable3x3(rngs, k, settings.offset_rate)


@final
class Deformable3x3(nn.Module):
    """Deformable convolution whose offsets (0 at first) and masks (1/2 at first) a 3x3 convolution predicts.

    What predicts learns more slowly than the rest, as in X. Zhu et al., CVPR 2019 (there at a tenth): at the paper's
    rate of 0.36 the offsets ran away, and the labels had little to do with the image any more (docs/notebook).
    """

    def __init__(self, rngs: Sequence[torch.Generator], k: int, rate: float) -> None:
        super().__init__()
        # From zero, SGD on a layer whose output is scaled is SGD at the square of the scale times the learning rate.
        self.scale = rate**0.5
        self.taps = solo.Conv(rngs, k, k, 3, bias=False)  # its weight; it is not called
        self.predict = solo.Conv(rngs, k, 27, 3, padding=1)
        for parameter in self.predict.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) -> the same shape."""
        offset, mask = (self.scale * self.predict(x)).split([18, 9], 1)
        return deform_conv(x, offset, mask.sigmoid(), self.taps.weight)


@final
class FreeDeformable(nn.Module):
    """As released: offsets, masks and weights are parameters, all from U(0, 1), for images of one size."""

    def __init__(self, rngs: Sequence[torch.Generator], k: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.offset = nn.Parameter(solo.uniform(rngs, 18, *shape))
        self.mask = nn.Parameter(solo.uniform(rngs, 9, *shape))
        self.weight = nn.Parameter(solo.uniform(rngs, k, k, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) -> the same shape."""
        return deform_conv(x, self.offset, self.mask, self.weight)


def cross_entropy(scores: Tensor, labels: Tensor, inside: Tensor | None = None) -> Tensor:
    """Scores (N, K, H, W) against labels (N, H, W), a mean over the pixels ``inside`` (N, 1, H, W): (N,)."""
    each = F.cross_entropy(scores, labels, reduction="none").flatten(1)
    if inside is None:
        return each.mean(1)
    counts = inside.flatten(1)
    return (each * counts).sum(1) / counts.sum(1).clamp(min=1)


def spatial_loss(s: Tensor, kind: Spatial, over: Literal["sum", "mean"]) -> Tensor:
    """(5), or total variation, of a softmax map s (N, K, H, W): (N,)."""
    each = edges.disagreement(s) if kind == "sobel" else edges.total_variation(s)
    return each.sum(1) if over == "sum" else each.mean(1)


def draw_affine(settings: Settings, rngs: Sequence[torch.Generator], images: Tensor) -> Geometry:
    """T, one per image: x = c + R Z (y - c) + t, with centre c, rotation R, shear and scale Z, translation t."""
    size = images.new_tensor(images.shape[2:], dtype=torch.float32)
    drawn = solo.uniform(rngs, 5, low=-1.0).to(images.device)
    angle = drawn[:, 0] * settings.rotation_deg * pi / 180
    lean = (drawn[:, 1] * settings.shear_deg * pi / 180).tan()
    low, high = settings.scale
    scale = (low + high) / 2 + drawn[:, 2] * (high - low) / 2
    shift = drawn[:, 3:] * settings.translation * size
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    one, zero = torch.ones_like(lean), torch.zeros_like(lean)
    linear = turn @ torch.stack([one, lean, zero, one], 1).view(-1, 2, 2) * scale[:, None, None]
    centre = (size - 1) / 2
    offset = centre + shift - linear @ centre
    return Geometry(torch.cat([linear, offset[:, :, None]], 2), (images.shape[2], images.shape[3]))
