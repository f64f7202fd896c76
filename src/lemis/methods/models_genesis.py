"""Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis. Z. Zhou, V. Sodha, M. M. Rahman Siddiquee,
R. Feng, N. Tajbakhsh, M. B. Gotway, J. Liang. MICCAI 2019, https://arxiv.org/abs/1908.06912. On slices
and on volumes.

A slice or a volume is spoilt, and the network restores it:

    L = mean over pixels of ( decoder(encoder(spoilt x)) - x )^2

    shuffled    p 0.5   pixels change places within small blocks, of sides 1 to a tenth of the image's
    non-linear  p 0.9   grey value v in [0, 1] becomes that of a cubic Bezier curve from (0, 0) to (1, 1) through two
                        random control points, which half of the curves descend
    painted     p 0.9   with noise of U(0, 1):  p 0.2 inside up to five boxes of 1/6 to 1/3 of each side (in-painting),
                        else outside the union of up to five of 3/7 to 4/7 (out-painting)

Followed: the corruptions, their order and the numbers of the released code [C]. Differences: blocks of [C] are 10,000
random ones that cover each other, ours are the cells between random rows and columns (and slices), each shuffled once;
grey values are those between the least and the greatest of a slice, or of the region that a volume is read from ([C]:
-1,000 to 1,000 HU), the network reads and restores z-scores, without a sigmoid, and pixels that no scan has are not
counted; the PCL protocol's views take the place of mirroring, and in 2D of sub-volumes. Encoder and decoder are
transferred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from lemis import contracts
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.layers.unet import all_parts
from lemis.parts.corrupt import covered, value_range
from lemis.parts.pretext import Pretext
from lemis.parts.restore import Restore, error_of_nothing, squared_error
from lemis.sampling import views
from lemis.sampling.spatial import Spatial, patch_of
from lemis.settings import Probability

DIMS = (2, 3)
TRAINS = ("encoder", "decoder 1", "decoder 2", "decoder 3", "decoder 4")

BLOCKS = 10  # times the largest block's side is the image's [C]
BOXES = 5  # painted, or left unpainted, at most [C]
GOES_ON = 0.95  # chance of one more box [C]
MARGIN = 3  # pixels between a box and the image's edge [C]
POINTS = 1001  # of a curve, between which it is straight

Side = Annotated[int, Field(ge=16)]  # fewer pixels leave no place for a box and its margins
Size = Side | tuple[Side, Side, Side]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """[C] is the released code; the frame is the PCL protocol's."""

    batch_size: Annotated[int, Field(gt=0)] = 32  # slices or volumes, as PCL; 6 volumes [C]
    p_shuffle: Probability = 0.5  # of local pixel shuffling [C]
    p_nonlinear: Probability = 0.9  # of another curve of grey values [C]
    p_paint: Probability = 0.9  # of in-painting or out-painting [C]
    p_inpaint: Probability = 0.2  # given the above: in-painting; out-painting otherwise [C]
    size_px: Size = 352  # side of a view, as PCL; [32, 64, 64] is [C] in 3D
    spatial: Spatial = field(default_factory=Spatial)  # as PCL; mirrored only [C]


@final
class Views(contracts.Views[Settings]):
    """One geometric view of every slice or volume, sound and spoilt."""

    def __call__(self, batch: Batch, rng: Draw) -> dict[str, View]:
        """``target`` and ``spoilt``, each (B, C, *out)."""
        how, batch = self.settings, views.all_inside(batch)
        target = views.random_view(how.spatial, batch, how.size_px, rng)
        low, span = value_range(batch.image, batch.inside)
        grey = ((target.image - low) / span).clamp(0, 1)
        changes: list[tuple[float, Callable[[Tensor, Draw], Tensor]]] = [
            (how.p_shuffle, shuffle),
            (how.p_nonlinear, bend),
            (how.p_paint, lambda image, rng: paint(image, how.p_inpaint, rng)),
        ]
        for probability, change in changes:
            on = _rows(rng.uniform(len(grey)) < probability, grey)
            grey = torch.where(on, change(grey, rng), grey)
        return {"target": target, "spoilt": target._replace(image=low + span * grey)}


@final
class Method(Pretext[Settings, Views]):
    """Encoder, decoder, a 1x1 convolution, and the squared error of every pixel."""

    def __init__(self, backbone: contracts.Backbone, settings: Settings) -> None:
        patch_px = patch_of(settings.size_px, backbone.dims)
        super().__init__(backbone, settings, Views(settings), trains=all_parts(backbone), patch_px=patch_px)
        self.restore = Restore(backbone)

    def forward(self, batch: Batch, rng: Draw) -> Outcome:
        """N spoilt slices or volumes -> N restored ones -> their error."""
        target, spoilt = self.views(batch, rng).values()
        assert target.inside is not None
        restored = self.restore(self.backbone.decode(self.backbone.encode(spoilt.image)))
        loss = squared_error(restored, target.image, target.inside)
        return Outcome({"restoration": loss}, {}, {"restoration": error_of_nothing(target.image, target.inside)})


def shuffle(image: Tensor, rng: Draw) -> Tensor:
    """(B, C, *space) -> the same, pixels of each cell of a random grid in random order, the same for all channels."""
    rows, channels, *space = image.shape
    cell = torch.zeros(rows, 1, dtype=torch.long, device=image.device)
    for side in space:
        along = strips(rows, side, side // BLOCKS, rng)
        cell = (cell[:, :, None] * side + along[:, None]).flatten(1)  # (B, pixels), in the end
    chance = (rng.uniform(rows, prod(space)) * 2**24).long()  # all bits of a float32 in [0, 1)
    to = cell.argsort(dim=1, stable=True)
    source = ((cell << 24) + chance).argsort(dim=1, stable=True)  # by cell too, within it at random
    to, source = (order[:, None].expand(-1, channels, -1) for order in (to, source))
    flat = image.flatten(2)
    return torch.empty_like(flat).scatter_(2, to, flat.gather(2, source)).view(image.shape)


def strips(rows: int, side: int, widest: int, rng: Draw) -> Tensor:
    """(rows, side) int64, the strip that each pixel of a line lies in; their widths are 1 to ``widest``."""
    ends = (1 + (rng.uniform(rows, side) * widest).long()).cumsum(1)
    pixels = torch.arange(side, device=ends.device).expand(rows, side).contiguous()
    return torch.searchsorted(ends, pixels, right=True)


def bend(grey: Tensor, rng: Draw) -> Tensor:
    """(B, C, *space) in [0, 1] -> the same range, each row through a curve of its own."""
    controls = rng.uniform(len(grey), 2, 2)  # (B, x and y, two points)
    falls = rng.uniform(len(grey)) < 0.5
    x, y = bezier(controls.to(grey.dtype)).unbind(1)
    y = torch.where(falls[:, None], y.flip(1), y)
    v = grey.flatten(1)
    after = torch.searchsorted(x.contiguous(), v).clamp(1, POINTS - 1)
    x0, x1 = x.gather(1, after - 1), x.gather(1, after)
    y0, y1 = y.gather(1, after - 1), y.gather(1, after)
    weight = ((v - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(y0, y1, weight).view(grey.shape)


def bezier(controls: Tensor) -> Tensor:
    """(B, 2, POINTS): x and y of cubic curves from (0, 0) to (1, 1); within [0, 1] neither ever falls.

    Args:
        controls: (B, 2, 2) in [0, 1]: x of the two control points, and y.
    """
    t = torch.linspace(0, 1, POINTS, device=controls.device, dtype=controls.dtype)
    first, second = controls[..., :1], controls[..., 1:]
    curve = 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3
    return curve.cummax(-1).values  # against rounding, where the curve stands still


def paint(grey: Tensor, p_inpaint: float, rng: Draw) -> Tensor:
    """(B, C, *space) in [0, 1] -> the same, noise inside some small boxes or outside of some large ones."""
    rows, space = len(grey), grey.shape[2:]
    inner = _rows(rng.uniform(rows) < p_inpaint, grey)
    inside = covered(*boxes(rows, [(side // 6, side // 3) for side in space], space, rng, at_least=0), space)
    window = [(side - 4 * side // 7, side - 3 * side // 7) for side in space]
    outside = ~covered(*boxes(rows, window, space, rng, at_least=1), space)
    return torch.where(torch.where(inner, inside, outside), rng.uniform(*grey.shape).to(grey.dtype), grey)


def boxes(
    rows: int, sides: list[tuple[int, int]], space: tuple[int, ...], rng: Draw, *, at_least: int
) -> tuple[Tensor, Tensor]:
    """First pixel and size (rows, BOXES, d) int64 of boxes inside the margin; those after the last one have size 0.

    Args:
        rows: B.
        sides: Least and greatest side along each axis, both possible.
        space: Shape of the image.
        rng: Random numbers.
        at_least: How many boxes there are without a chance; each further one has the chance ``GOES_ON``.
    """
    chance = rng.uniform(rows, BOXES, len(space))
    least, most = torch.tensor(sides, device=chance.device).unbind(1)  # (d,)
    size = _integers(least, most, chance)
    last = torch.tensor(space, device=size.device) - MARGIN - size
    first = _integers(torch.full_like(size, MARGIN), last, rng.uniform(rows, BOXES, len(space)))
    goes_on = rng.uniform(rows, BOXES) < GOES_ON
    goes_on[:, :at_least] = True
    return first, size * goes_on.cumprod(1)[..., None]


def _integers(low: Tensor, high: Tensor, chance: Tensor) -> Tensor:
    """Whole numbers from ``low`` to ``high``, both possible, all alike."""
    return torch.minimum(low + (chance * (high - low + 1)).long(), high)


def _rows(which: Tensor, image: Tensor) -> Tensor:
    # (B,), made to broadcast over the rows of an image.
    return which.view(-1, *[1] * (image.dim() - 1))
