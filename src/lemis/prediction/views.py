"""How well views of one scan agree: the same network on the scan as it is, and a little larger, smaller, shifted, and
with other brightness and contrast, mirrored where training mirrored. Of each two of them the Dice, back on one grid.

    s_c = mean_{v < w} Dice_c(argmax p_v, argmax p_w)

One network is enough for that, so a labelled scan has an s by the network that held it out, and a new scan has the same
s by each network; and one by their ensemble, whose label map it gets: there p_v is the mean over the networks. Pairwise
Dice of what disagrees tells bad segmentations from good ones best of what Zenk et al. (Medical Image Analysis 101,
2025) compared; they had networks of several seeds, or dropout, where this has views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone
from lemis.measure import agreement as agreement_of_maps
from lemis.prediction.inference import probabilities
from lemis.prediction.tiles import Settings
from lemis.preparation.facts import Facts

SLICES_AT_ONCE = 16


class View(NamedTuple):
    """What is done to a prepared scan, slice by slice; sizes are ours, small enough to change no anatomy."""

    zoom: float = 1.0  # of the picture, about its middle
    shift: tuple[float, float] = (0.0, 0.0)  # of (rows, cols), shares of the sides
    contrast: float = 1.0  # intensities are z-scores, so 0 is the scan's mean
    brightness: float = 0.0  # standard deviations of the scan
    mirrored: tuple[bool, bool] = (False, False)  # (rows, cols), where training mirrored them


class Agreed(NamedTuple):
    """The views of one scan."""

    dice: NDArray[np.float64]  # (structures,) the mean over pairs of views; 1 of a structure that none shows
    shown: NDArray[np.bool_]  # (structures,) by every view
    apart: NDArray[np.int64]  # (structures, n) voxels of each prepared slice that some views, not all, give to it


class Agreement(NamedTuple):
    """Of one scan by several networks."""

    alone: list[Agreed]  # each network
    together: Agreed  # their ensemble


VIEWS = (
    View(),
    View(zoom=1.1, contrast=0.85, mirrored=(True, False)),
    View(zoom=0.9, contrast=1.15, brightness=0.1, mirrored=(False, True)),
    View(shift=(0.03, -0.03), brightness=-0.1, mirrored=(True, True)),
)


@torch.inference_mode()
def agreement(
    networks: Sequence[Backbone],
    image: NDArray[np.float16],
    facts: Facts,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
    settings: Settings | None = None,
    mirrored: Sequence[int] = (),
) -> Agreement:
    """How well the views of one prepared scan agree, and in which slices they do not, by each network and by all.

    Each network sees each view once. Of each of these a slab of slices is there at the same time.

    Arguments are those of ``inference.predict_scan``; at least one network, and of ``mirrored`` the axes in the slice
    count.
    """
    allowed = tuple(axis + networks[0].dims - 2 in mirrored for axis in (0, 1))
    grids = [_Grid(view, allowed, image.shape[2:], device) for view in VIEWS]
    seen = [image, *(grid.seen(image) for grid in grids[1:])]
    slabs = [[probabilities([one], view, facts, device, patch_px, settings) for one in networks] for view in seen]
    counted: list[agreement_of_maps.Agreement] = []
    for views in zip(*(zip(*each, strict=True) for each in slabs), strict=True):  # of one plan, so all end together
        labels = []  # of each view by each network, and by all of several
        for number, (grid, each) in enumerate(zip(grids, views, strict=True)):
            home = [grid.back(slab) if number else slab for slab in each]
            mean = [torch.stack(home).mean(0)] if len(home) > 1 else []
            labels.append([_labels(one) for one in (*home, *mean)])
        counted = counted or [agreement_of_maps.Agreement(len(VIEWS), views[0][0].shape[0]) for _ in labels[0]]
        for one, maps in zip(counted, zip(*labels, strict=True), strict=True):
            one.add(np.stack(maps))
    found = [Agreed(1 - one.disagreement(), one.in_all(), one.apart()) for one in counted]
    return Agreement(found[: len(networks)], found[-1])  # one network is its own ensemble


def _labels(slab: Tensor) -> NDArray[np.uint8]:
    labels: NDArray[np.uint8] = slab.argmax(0).to(torch.uint8).cpu().numpy()
    return labels


class _Grid:
    """Where a view is sampled, and where what a network says of it is sampled to be back."""

    def __init__(self, view: View, allowed: Sequence[bool], shape: Sequence[int], device: torch.device) -> None:
        self._view, self._device = view, device
        signs = [-1.0 if turn and may else 1.0 for turn, may in zip(view.mirrored, allowed, strict=True)]
        # In the coordinates of ``grid_sample``, (x, y) from -1 to 1: place = scale * place in the view + offset.
        scale = torch.tensor([sign / view.zoom for sign in reversed(signs)])
        offset = torch.tensor([2 * share for share in reversed(view.shift)])
        self._there = self._grid(scale, offset, shape)
        self._home = self._grid(1 / scale, -offset / scale, shape)

    def _grid(self, scale: Tensor, offset: Tensor, shape: Sequence[int]) -> Tensor:
        matrix = torch.cat([torch.diag(scale), offset[:, None]], dim=1)[None]
        return F.affine_grid(matrix, [1, 1, *shape], align_corners=False).to(self._device)

    def seen(self, image: NDArray[np.float16]) -> NDArray[np.float16]:
        """(n, C, h, w) the view; beyond the scan as at its edge."""
        out = np.empty_like(image)
        for first in range(0, len(image), SLICES_AT_ONCE):
            part = torch.from_numpy(np.array(image[first : first + SLICES_AT_ONCE])).to(self._device).float()
            moved = self._sampled(part, self._there) * self._view.contrast + self._view.brightness
            out[first : first + SLICES_AT_ONCE] = moved.half().cpu().numpy()
        return out

    def back(self, slab: Tensor) -> Tensor:
        """(K, s, h, w) probabilities of the view, on the grid of the scan."""
        return self._sampled(slab.movedim(1, 0).float(), self._home).movedim(1, 0)

    @staticmethod
    def _sampled(part: Tensor, grid: Tensor) -> Tensor:
        grids = grid.expand(len(part), -1, -1, -1)
        return F.grid_sample(part, grids, mode="bilinear", padding_mode="border", align_corners=False)
