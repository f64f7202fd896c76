"""Prediction of whole volumes by overlapping tiles: memory grows with a tile's depth, not with the volume's.

    p(x) = sum_t w(x - x_t) p_t(x) / sum_t w(x - x_t),   p_t the mean softmax of tile t over networks

Tiles are walked along the slice axis. Only the slices that this row of tiles reaches are kept: a ring, as many slices
as a tile is deep, in which a slice's place is its number modulo that depth. A slice that no further tile reaches is
handed out, and its place in the ring is free again.

Where tiles begin and how much their voxels weigh is as in MONAI's ``sliding_window_inference``; blended are
probabilities, so that the result is a probability too. Axis letters: K classes, n slices, H rows, W columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lemis.contracts import Backbone
from lemis.prediction.mirroring import mean_logits

SIGMA = 0.125  # of the Gaussian, in sides of a tile; MONAI's and nnU-Net's
LEAST_WEIGHT = 1e-3  # of the middle's; MONAI's, so that the corner of a volume is a quotient of no tiny numbers
MAP_BYTES = 2 * 2**20  # of one class's map while classes are compared: what stays in a processor's cache


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tiles overlap and are averaged."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of neighbouring tiles, in sides of a tile; nnU-Net's
    blend: Literal["gaussian", "constant"] = "gaussian"  # a tile's middle knows its surroundings best (nnU-Net)
    at_once: Annotated[int, Field(gt=0)] = 1  # tiles in one forward pass; on a CPU more cost memory and gain nothing


@torch.inference_mode()
def probabilities(
    networks: Sequence[Backbone],
    image: NDArray[Any],
    patch_px: Sequence[int],
    settings: Settings,
    device: torch.device,
    before_each: Callable[[], None] = lambda: None,
    mirrored: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Slab after slab of finished slices, in order, until the volume is covered.

    Args:
        networks: Three-dimensional, in evaluation mode; several are an ensemble.
        image: (n, C, H, W) prepared slices, in memory or memory-mapped; read tile by tile.
        patch_px: (slices, rows, columns) of a tile. A smaller volume is zero-padded, centred.
        settings: Of the tiles.
        device: Where the networks are, and where the ring lies.
        before_each: Called before each forward pass; what it raises ends the prediction.
        mirrored: Axes of a tile; the logits of each network are averaged over its mirror images along them.

    Yields:
        (K, s, H, W) float32, s as it comes. A part of the ring: it is valid until the next one is asked for.
    """
    size = (image.shape[0], image.shape[2], image.shape[3])
    rows, *planes = (starts(side, tile, settings.overlap) for side, tile in zip(size, patch_px, strict=True))
    depth = min(patch_px[0], size[0])
    weight = _inside(weights(patch_px, settings.blend), size, patch_px).contiguous().to(device)
    ring: Tensor | None = None
    for first, after in itertools.pairwise([*rows, size[0]]):
        places = list(itertools.product(*planes))
        for begin in range(0, len(places), settings.at_once):
            before_each()
            corners = [(first, *place) for place in places[begin : begin + settings.at_once]]
            tiles = torch.stack([_cut(image, corner, patch_px, device) for corner in corners])
            for share, found in _softmax(networks, tiles, mirrored):
                if ring is None:
                    ring = torch.zeros(found.shape[1] + 1, depth, *size[1:], device=device)
                for corner, one in zip(corners, _inside(found, size, patch_px), strict=True):
                    _add(ring, corner, one, weight, share)
                del found, one  # the next forward pass needs the room
        assert ring is not None, "every row has a tile"
        yield from _finished(ring, first, after)


def classes(
    networks: Sequence[Backbone],
    image: NDArray[Any],
    patch_px: Sequence[int],
    settings: Settings,
    device: torch.device,
    before_each: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """The most probable class of every prepared voxel, (n, H, W); arguments as of ``probabilities``."""
    out = np.empty((image.shape[0], *image.shape[2:]), np.uint8)
    done = 0
    at_once = max(1, MAP_BYTES // (4 * image.shape[2] * image.shape[3]))
    for slab in probabilities(networks, image, patch_px, settings, device, before_each):
        for part in slab.split(at_once, dim=1):
            out[done : done + part.shape[1]] = most_probable(part).cpu().numpy()
            done += part.shape[1]
    return out


def most_probable(maps: Iterable[Tensor]) -> Tensor:
    """Maps of the classes, one after another -> uint8 of their shape: the first of the most probable ones.

    As ``argmax`` over a stack of them, without the stack and without its int64.
    """
    rest = iter(maps)
    best = next(rest)
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, probability in enumerate(rest, start=1):
        wins = (probability > best).view(torch.uint8)
        torch.maximum(found, wins.mul_(number), out=found)  # several times as fast as a masked write
        best = torch.maximum(best, probability)
    return found


# ------------------------------------------------------------------------------------------------- where and how much


def starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one axis; the last tile is moved back to the edge, as MONAI does."""
    if side <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    return [min(number * step, side - tile) for number in range(math.ceil((side - tile) / step) + 1)]


def count(size: Sequence[int], patch_px: Sequence[int], overlap: float) -> int:
    """Tiles of a volume of (slices, rows, columns)."""
    return math.prod(len(starts(side, tile, overlap)) for side, tile in zip(size, patch_px, strict=True))


def ring_bytes(size: Sequence[int], patch_px: Sequence[int], num_classes: int) -> int:
    """What is kept of a volume at once: K sums and the sum of the weights, a tile deep."""
    return 4 * (num_classes + 1) * min(patch_px[0], size[0]) * size[1] * size[2]


def weights(patch_px: Sequence[int], blend: Literal["gaussian", "constant"]) -> Tensor:
    """w of every voxel of a tile, (slices, rows, columns) float32; 1 in the middle, nowhere 0."""
    if blend == "constant":
        return torch.ones(*patch_px)
    product = torch.ones(())
    for side in patch_px:
        offset = torch.arange(side) - (side - 1) / 2
        product = product[..., None] * torch.exp(-(offset**2) / (2 * (SIGMA * side) ** 2))
    return product.clamp_min(max(float(product.min()), LEAST_WEIGHT))


# ------------------------------------------------------------------------------------------------------- one tile


def _cut(image: NDArray[Any], corner: Sequence[int], patch_px: Sequence[int], device: torch.device) -> Tensor:
    # (C, *patch_px) float32, zeros around a volume that is smaller. Copied as stored: float16 is half the way to a GPU.
    z, y, x = (slice(begin, begin + side) for begin, side in zip(corner, patch_px, strict=True))
    part = torch.from_numpy(np.array(image[z, :, y, x])).to(device).float().movedim(1, 0)
    missing = [tile - side for tile, side in zip(patch_px, part.shape[1:], strict=True)]
    before_and_after = [(lack // 2, lack - lack // 2) for lack in reversed(missing)]
    return torch.nn.functional.pad(part, [p for pair in before_and_after for p in pair]) if any(missing) else part


def _inside(tile: Tensor, size: Sequence[int], patch_px: Sequence[int]) -> Tensor:
    # The part of (..., *patch_px) that lies in the volume.
    for axis, (side, wanted) in enumerate(zip(size, patch_px, strict=True), start=-3):
        tile = tile.narrow(axis, max(0, wanted - side) // 2, min(side, wanted))
    return tile


def _softmax(
    networks: Sequence[Backbone], tiles: Tensor, mirrored: Sequence[int]
) -> Iterator[tuple[float, Tensor]]:  # fmt: skip
    # Share and (B, K, *patch_px) of every network, one after another; none is kept for the next.
    for network in networks:
        yield 1 / len(networks), _seen(network, tiles, mirrored)


def _seen(network: Backbone, tiles: Tensor, mirrored: Sequence[int]) -> Tensor:
    with torch.autocast(tiles.device.type, dtype=torch.bfloat16, enabled=False):
        return mean_logits(network, tiles, mirrored).softmax(1)


# -------------------------------------------------------------------------------------------------------- the ring


def _add(ring: Tensor, corner: Sequence[int], found: Tensor, weight: Tensor, share: float) -> None:
    z, y, x = corner
    depth, rows, cols = weight.shape
    split = depth - z % depth  # slices before the ring's end; the others lie at its beginning
    for part, place in ((slice(0, split), slice(z % depth, depth)), (slice(split, depth), slice(0, depth - split))):
        box = ring[:, place, y : y + rows, x : x + cols]
        box[:-1].addcmul_(found[:, part], weight[part], value=share)
        box[-1].add_(weight[part], alpha=share)


def _finished(ring: Tensor, first: int, after: int) -> Iterator[Tensor]:
    # Slices first .. after - 1 of the volume; two parts where they go round the end of the ring.
    depth = ring.shape[1]
    while first < after:
        begin = first % depth
        part = ring[:, begin : begin + min(after - first, depth - begin)]
        yield part[:-1].div_(part[-1])
        first += part.shape[1]
        part.zero_()
