"""What a scan is like to a pre-trained encoder: one vector, which keeps what lies where along the scan.

Its two deepest maps are averaged over the places inside the scan, slice by slice, and the slices over B equal bins of
their position. An average over all slices would drown anatomy in how many slices of each height there are: a scan with
a larger field of view would move away from its twin. B is ours; docs/suggest.md says what is not known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone
from lemis.prediction.padding import padded_maps
from lemis.preparation.facts import Facts, inside_field

BINS = 8
MAPS = 2  # the deepest, and the next finer one
SLICES_AT_ONCE = 16
TILE_PX = (64, 128, 128)  # of volumes: what goes through a three-dimensional network at once, at most


@torch.inference_mode()
def of_scan(network: Backbone, image: NDArray[np.float16], facts: Facts, device: torch.device) -> NDArray[np.float64]:
    """(B x channels,) of one prepared scan.

    Args:
        network: In evaluation mode, on ``device``.
        image: (n, C, h, w) prepared slices, in memory or memory-mapped.
        facts: Of the scan.
        device: Where to compute.
    """
    inside = torch.from_numpy(inside_field(facts))
    sums = np.zeros((BINS, sum(network.channels[-MAPS:])))
    counts = np.zeros(BINS)
    parts = _slices(image, inside) if network.dims == 2 else _tiles(image, inside)
    for part in parts:
        positions = (part.first + np.arange(part.image.shape[2 if network.dims == 3 else 0]) + 0.5) / len(image)
        means, weights = _by_slice(network, part, device)
        bins = np.minimum((positions * BINS).astype(int), BINS - 1)
        np.add.at(sums, bins, means * weights[:, None])
        np.add.at(counts, bins, weights)
    return _filled(sums, counts).ravel()


class _Part(NamedTuple):
    """Slices, or a box of a volume as a batch of one."""

    image: Tensor  # (B, C, *space)
    inside: Tensor  # (1, 1, *space) float, 1 inside the scan
    first: int  # slice of the scan


def _slices(image: NDArray[np.float16], inside: Tensor) -> Iterator[_Part]:
    for first in range(0, len(image), SLICES_AT_ONCE):
        slices = torch.from_numpy(np.array(image[first : first + SLICES_AT_ONCE]))
        yield _Part(slices, inside[None, None].float(), first)


def _tiles(image: NDArray[np.float16], inside: Tensor) -> Iterator[_Part]:
    """Boxes that fill the volume side by side."""
    size = (len(image), *image.shape[2:])
    z_side, y_side, x_side = TILE_PX
    for z in range(0, size[0], z_side):
        for y in range(0, size[1], y_side):
            for x in range(0, size[2], x_side):
                rows, cols = slice(y, y + y_side), slice(x, x + x_side)
                box = torch.from_numpy(np.array(image[z : z + z_side, :, rows, cols])).movedim(1, 0)
                yield _Part(box[None], inside[rows, cols].float().expand(box.shape[1:])[None, None], z)


def _by_slice(network: Backbone, part: _Part, device: torch.device) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each slice the mean of both maps over its places inside the scan, (slices, channels), and their number."""
    number = part.image.shape[0 if network.dims == 2 else 2]
    image, inside = (_wide(one.to(device).float(), network) for one in (part.image, part.inside))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=False):
        maps = padded_maps(network, image)[-MAPS:]
    strides = network.axis_strides[-MAPS:]
    found = [_averaged(cells.float(), inside, by, number) for cells, by in zip(maps, strides, strict=True)]
    weights = part.inside.sum(dim=(-2, -1)).flatten().expand(number)
    return torch.cat(found, dim=1).double().cpu().numpy(), weights.double().cpu().numpy()


def _wide(image: Tensor, network: Backbone) -> Tensor:
    """With zeros behind a volume's last column where its deepest map had one cell: a norm has nothing to say of one."""
    lacking = network.divisors[-1] + 1 - image.shape[-1] if network.dims == 3 else 0
    return F.pad(image, (0, max(0, lacking)))


def _averaged(cells: Tensor, inside: Tensor, strides: Sequence[int], number: int) -> Tensor:
    """(number of slices, C): a map's cells weighed by how much of each lies inside the scan."""
    sides = zip(reversed(cells.shape[2:]), reversed(inside.shape[2:]), reversed(strides), strict=True)
    whole = F.pad(inside, [pad for cell, side, stride in sides for pad in (0, cell * stride - side)])
    share = F.interpolate(whole, cells.shape[2:], mode="area")
    means = (cells * share).sum(dim=(-2, -1)) / share.sum(dim=(-2, -1)).clamp_min(1e-6)
    if cells.ndim == 4:
        return means
    return means[0].T.repeat_interleave(strides[0], 0)[:number]  # each slice of the box has the cells that it lies in


def _filled(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the bins; an empty one is as the nearest that is not, of two the lower."""
    there = np.flatnonzero(counts > 0)
    nearest = there[np.abs(np.arange(len(counts))[:, None] - there).argmin(axis=1)]
    means: NDArray[np.float64] = sums[nearest] / counts[nearest][:, None]
    return means
