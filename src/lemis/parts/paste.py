"""Pasting a box of one view into another: images, labels and keypoints alike.

Boxes are drawn first, one for each row, and applied after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis import processes
from lemis.contracts import Draw, View
from lemis.errors import UsageError


class Box(NamedTuple):
    """One box in each row; d = 2 or 3."""

    first: Tensor  # (B, d) int64, the first pixel
    size: Tensor  # (B, d) int64, pixels

    def rows(self, which: slice) -> Box:
        """Of some rows."""
        return Box(self.first[which], self.size[which])


def box_of_sides(rows: int, shape: tuple[int, ...], share: float, rng: Draw) -> Box:
    """Boxes whose every side is ``share`` of the view's, anywhere in it.

    As BCP's code draws the corner, it is uniform over 0 to n - size - 1: the last place is never drawn. Where a box
    fills its side it begins at 0.
    """
    drawn = rng.uniform(rows, len(shape))
    sides = drawn.new_tensor(shape).expand(rows, -1)
    size = (sides * share + 1e-4).long()  # 2/3 of 96 is 64, though not in floating point
    return Box((drawn * (sides - size)).long(), size)


def box_of_area(rows: int, shape: tuple[int, ...], area: tuple[float, float], aspect: float, rng: Draw) -> Box:
    """CutMix boxes: a share of the view drawn from ``area``, in a shape up to ``aspect`` times as long as wide.

    The box lies in the view with all its sides: of the shapes allowed those that fit are drawn, so that the share
    stays the one that was drawn. In 3D the share is spread evenly over the three axes, and rows and columns have the
    shape.
    """
    d = len(shape)
    drawn = rng.uniform(rows, 2 + d)
    sides = drawn.new_tensor(shape).expand(rows, -1)
    share = area[0] + drawn[:, 0] * (area[1] - area[0])
    in_plane = share ** (2 / d)  # of rows x columns
    # A box of this share fits where neither side is longer than the view's: a <= ratio <= 1 / a.
    least = torch.maximum(torch.full_like(in_plane, 1 / aspect), in_plane)
    most = torch.minimum(torch.full_like(in_plane, aspect), 1 / in_plane)
    ratio = least + drawn[:, 1] * (most - least)
    parts = [(in_plane * ratio).sqrt(), (in_plane / ratio).sqrt()]
    if d == 3:
        parts.insert(0, share ** (1 / 3))
    size = (sides * torch.stack(parts, 1)).long().clamp(min=1).minimum(sides.long())
    return Box((drawn[:, 2:] * (sides - size + 1)).long().minimum(sides.long() - size), size)


def mask(box: Box, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) bool, True in the box."""
    inside = torch.ones(len(box.first), *shape, dtype=torch.bool, device=box.first.device)
    for axis, n in enumerate(shape):
        place = torch.arange(n, device=box.first.device)
        first, size = box.first[:, axis, None], box.size[:, axis, None]
        along = (place >= first) & (place < first + size)  # (B, n)
        inside &= along.view(len(along), *[n if axis == a else 1 for a in range(len(shape))])
    return inside


def paste(inner: View, outer: View, box: Box) -> View:
    """What lies in the box of ``inner``, row by row, over ``outer``; both have a label, or neither.

    Each place keeps the keypoints that it had, strongest first, at most as many as ``outer`` has. The geometry is
    that of ``outer``.
    """
    shape = tuple(outer.image.shape[2:])
    inside = mask(box, shape)
    label = None
    if inner.label is not None and outer.label is not None:
        label = torch.where(inside, inner.label, outer.label)
    real = None
    if inner.inside is not None and outer.inside is not None:
        real = torch.where(inside[:, None], inner.inside, outer.inside)
    return View(
        image=torch.where(inside[:, None], inner.image, outer.image),
        geometry=outer.geometry,
        label=label,
        inside=real,
        keypoints=_keypoints(inner.keypoints, outer.keypoints, box),
    )


def _keypoints(inner: Tensor | None, outer: Tensor | None, box: Box) -> Tensor | None:
    """(B, K, d) keypoints of both, each on its side of the box's edge; NaN rows last."""
    if inner is None or outer is None:
        return None
    kept = []
    for places, in_box in ((inner, True), (outer, False)):
        first, size = box.first[:, None], box.size[:, None]
        # Pixel centres are at integers: the box's first pixel begins half a pixel before its centre.
        within = ((places >= first - 0.5) & (places < first + size - 0.5)).all(-1, keepdim=True)
        kept.append(torch.where(within == in_box, places, torch.nan))
    ranked = torch.stack(as_many(kept), 2).flatten(1, 2)  # by turns, as the order is by strength
    order = ranked.isnan().any(-1).int().argsort(dim=1, stable=True)
    return ranked.gather(1, order[..., None].expand_as(ranked))[:, : outer.shape[1]]


def as_many(keypoints: Sequence[Tensor]) -> list[Tensor]:
    """(B, K, d) keypoints of several views, the shorter ones filled up with NaN rows to the same K."""
    most = max(places.shape[1] for places in keypoints)
    return [F.pad(places, (0, 0, 0, most - places.shape[1]), value=torch.nan) for places in keypoints]


def rows(view: View, which: slice | Tensor) -> View:
    """Some rows of a view."""
    elastic = view.geometry.elastic
    if elastic is not None:
        elastic = elastic._replace(noise=elastic.noise[which], sigma_px=elastic.sigma_px[which])
    return View(
        image=view.image[which],
        geometry=view.geometry._replace(to_source=view.geometry.to_source[which], elastic=elastic),
        label=None if view.label is None else view.label[which],
        inside=None if view.inside is None else view.inside[which],
        keypoints=None if view.keypoints is None else view.keypoints[which],
    )


@final
class InRegister:
    """Random numbers that rows 2j and 2j + 1 share, and that can be drawn again for other images of the same rows.

    Views whose geometry is drawn by them show the same place alike, as far as their scans are alike.

    Args:
        rng: What draws.
    """

    def __init__(self, rng: Draw) -> None:
        self._rng = rng
        self._drawn: list[Tensor] = []
        self._next = 0

    def again(self) -> InRegister:
        """The same numbers from the first one on."""
        self._next = 0
        return self

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape), as of ``Draw``."""
        return low + (high - low) * self._shared(lambda: self._rng.uniform(rows, *shape))

    def normal(self, rows: int, *shape: int) -> Tensor:
        """(rows, *shape), as of ``Draw``."""
        return self._shared(lambda: self._rng.normal(rows, *shape))

    def _shared(self, draw: Callable[[], Tensor]) -> Tensor:
        if self._next == len(self._drawn):
            numbers = draw()
            first = torch.arange(len(numbers), device=numbers.device) // 2 * 2
            self._drawn.append(numbers[first])
        self._next += 1
        return self._drawn[self._next - 1]


def partners(count: int, device: torch.device) -> Tensor:
    """(count,) int64: rows 2j and 2j + 1 are each other's; a last row without one is its own.

    Raises:
        UsageError: Several processes with an odd number of rows each, whose pairs would not be those of one process.
    """
    refuse_odd_rows(count)
    partner = torch.arange(count, device=device)
    even = count - count % 2
    partner[:even] = partner[:even] ^ 1
    return partner


def refuse_odd_rows(count: int) -> None:
    """Refuse rows that do not come in pairs where they are spread over processes.

    Raises:
        UsageError: They do not.
    """
    world = processes.count()
    if world > 1 and count % 2:
        raise UsageError(
            f"{count} rows of a batch on each of {world} processes, which this way takes in pairs",
            allowed=f"a batch of a multiple of {2 * world}",
            next=f"objective.batch_size={(count + 1) * world}",
        )
