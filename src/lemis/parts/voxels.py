"""Voxels of a feature map that a loss compares: their labels, which of them are taken, their vectors, their classes.

A map has a grid of cells, (B, *grid), coarser than the image; its cells are numbered flat over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis import processes
from lemis.errors import UsageError
from lemis.layers.basic import BatchNorm

Cell = Literal["centre", "corner"]


class Chosen(NamedTuple):
    """Cells of the batch that were taken. Of fixed length, so that choosing never waits for the device."""

    cell: Tensor  # (k,) int64, flat over (B, *grid)
    kept: Tensor  # (k,) bool, whether it was taken; the others are there for the length

    def cells(self) -> Tensor:
        """(N,) int64: those taken."""
        return self.cell[self.kept]


def from_bottleneck(maps: Sequence[Tensor], count: int) -> list[Tensor]:
    """The ``count`` deepest of the maps of ``encode``, the bottleneck first."""
    return list(maps[::-1][:count])


def labelled(maps: Sequence[Tensor], count: int, label: Tensor, cell: Cell) -> tuple[list[Tensor], list[Tensor]]:
    """``from_bottleneck``, and the label of every cell of each of these maps (``to_grid``)."""
    chosen = from_bottleneck(maps, count)
    return chosen, [to_grid(label, each.shape[2:], cell) for each in chosen]


def channels_from_bottleneck(channels: Sequence[int], count: int) -> list[int]:
    """Channels of those maps, of the network's ``channels``.

    Raises:
        UsageError: The network has fewer maps.
    """
    if count > len(channels):
        raise UsageError(
            f"auxiliary.layers={count}",
            allowed=f"1 to {len(channels)}: the maps of this network's encoder, counted from the bottleneck",
            next=f"auxiliary.layers={len(channels)}",
        )
    return list(channels[::-1][:count])


def of_layer(alpha: Sequence[float], number: int) -> float:
    """The weight of a layer, numbered from 1: the last one given is also that of all layers beyond."""
    return alpha[min(number, len(alpha)) - 1]


def projector(channels: int, width: int) -> nn.Sequential:
    """SimSiam's projector on rows, (N, channels) -> (N, width): Linear and batch normalisation, thrice, two ReLUs.

    Unlike ``heads.Projector``, processes may hold different numbers of rows, one row alone or none included.
    """
    # No scale and shift in the last one; they are there because one row alone is given its running statistics.
    last = BatchNorm(width).requires_grad_(False)
    return nn.Sequential(
        nn.Linear(channels, width, bias=False), BatchNorm(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), BatchNorm(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), last,
    )  # fmt: skip


def to_grid(x: Tensor, grid: Sequence[int], cell: Cell = "centre") -> Tensor:
    """The nearest voxel of each cell: (..., *space) -> (..., *grid), of any type.

    Args:
        x: Labels or logits.
        grid: Shape of the map, at most that of x.
        cell: Nearest to the middle of a cell, or to its first corner.
    """
    d = len(grid)
    places: list[Tensor] = []
    for axis, (old, new) in enumerate(zip(x.shape[-d:], grid, strict=True)):
        number = torch.arange(new, device=x.device)
        place = number * old // new if cell == "corner" else (2 * number + 1) * old // (2 * new)
        places.append(place.view(-1, *[1] * (d - 1 - axis)))
    where: tuple[Any, ...] = (..., *places)
    return x[where]


def choose(pool: Tensor, keys: Tensor, at_most: int) -> Chosen:
    """At most so many cells of ``pool`` over all processes, all alike: those with the largest keys.

    Args:
        pool: (B, *grid) bool.
        keys: (B, cells) in [0, 1), random.
        at_most: How many.
    """
    return _choose(pool, keys, at_most)[0]


def choose_hard(known: Tensor, missed: Tensor, keys: Tensor, *, voxels: int, false_negatives: int) -> Chosen:
    """At most ``voxels`` cells of ``known``: first of those that were missed, then of those that were found.

    Of the missed ones at most ``false_negatives`` are taken, even where too few others are there to fill up.
    Numbers are of all processes together, whichever of them hold the cells.

    Args:
        known: (B, *grid) bool, cells of a class that counts.
        missed: (B, *grid) bool, where the prediction is another class.
        keys: (B, cells) in [0, 1), random.
        voxels: Cells in all.
        false_negatives: Missed ones among them.
    """
    hard, count = _choose(known & missed, keys, min(false_negatives, voxels))
    easy, _ = _choose(known & ~missed, keys, voxels, room=voxels - count)
    return Chosen(torch.cat([hard.cell, easy.cell]), torch.cat([hard.kept, easy.kept]))


def _choose(pool: Tensor, keys: Tensor, at_most: int, room: Tensor | None = None) -> tuple[Chosen, Tensor]:
    # And how many were taken. ``room`` may hold a smaller ``at_most``, which is known on the device alone.
    value, cell = keys.masked_fill(~pool.flatten(1), -1).flatten().topk(min(at_most, keys.numel()))
    everyone = processes.gather(value)
    first = processes.rank() * len(value)
    place = everyone.argsort(descending=True, stable=True).argsort()[first : first + len(value)]
    kept = (value >= 0) & (place < (at_most if room is None else room))
    return Chosen(cell, kept), (everyone >= 0).sum().clamp(max=at_most)


def without(pool: Tensor, chosen: Chosen) -> Tensor:
    """``pool`` (B, *grid) bool, less the cells that were taken."""
    # A cell that was not taken may stand there twice, once kept, so values are added up.
    taken = torch.zeros(pool.numel(), dtype=torch.int32, device=pool.device)
    taken.index_add_(0, chosen.cell, chosen.kept.int())
    return pool & (taken == 0).view(pool.shape)


def vectors(features: Tensor, cells: Tensor) -> Tensor:
    """A map (B, C, *grid) at some cells (N,) -> (N, C), without a copy of the map."""
    flat = features.flatten(2)
    count = flat.shape[2]
    return flat[cells // count, :, cells % count]


def class_sums(x: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Sums of the rows of each class, in the precision of x: (N, D), (N,) -> (num_classes, D)."""
    members = F.one_hot(label, num_classes).to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return members.T @ x


def class_counts(label: Tensor, num_classes: int) -> Tensor:
    """Voxels of each class: int64 of any shape -> (num_classes,) int64. Deterministic on GPU, unlike ``bincount``."""
    return (label.flatten() == torch.arange(num_classes, device=label.device)[:, None]).sum(1)


def watched(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class means (classes, D), 0 where a class is absent -> those that are there, detached; none of fewer than two.

    Within a class all voxels are meant to be alike, and a collapse is when classes are: then the mean cosine of these
    rows, which is that between classes, is 1.
    """
    there = {name: means.detach()[means.detach().any(1)] for name, means in named.items()}
    return {name: means for name, means in there.items() if len(means) > 1}
