"""Prediction, by slices or by tiles of a volume, back on the scan's own grid; memory is bounded by a slab of slices.

Logits of one network are averaged over its mirror images, where that is asked for; probabilities (not logits) over an
ensemble. They are resampled linearly to the scan's grid, class after class, and the most probable class is kept: no
label map is ever interpolated, and no class is ever there as a whole volume.

Axis letters: K classes; n prepared slices of h x w; N slices of H x W on the scan's own grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lemis import plugins
from lemis.contracts import Backbone
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import tiles
from lemis.prediction.mirroring import mean_logits
from lemis.preparation.facts import Facts
from lemis.preparation.preprocess import insert_slices
from lemis.runs.run import fill, load_model
from lemis.settings import resolve
from lemis.work_files.run import FinetunedModel, Model, read_finetuned

# Of the probabilities of slices at once, at most (but at least one slice); volumes: see tiles. No more, as each view by
# each network of an ensemble has its own (views.py).
SLAB_BYTES = 64 * 2**20


def load_network(run: Path, device: torch.device, trust: Trust = NO_TRUST) -> tuple[Backbone, FinetunedModel]:
    """The fine-tuned network of a run, ready to predict, and its ``model.json``.

    Raises:
        UsageError: The run is not finished, was a pre-training without classes, or is of a module that ``trust`` does
            not hold.
    """
    model = read_finetuned(run, trust)
    return trained(run, model, device), model


def trained(run: Path, model: Model, device: torch.device) -> Backbone:
    """The network of a run with its weights, in evaluation mode.

    Args:
        run: Its folder, whose modules may be imported.
        model: Its ``model.json``.
        device: Where it will compute.

    Raises:
        UsageError: The weights are damaged, or not of such a network.
    """
    weights, _ = load_model(run)
    backbone = build_backbone(model)
    fill(backbone, weights, run)
    return backbone.eval().to(device)


def build_backbone(model: Model) -> Backbone:
    """A fresh network as ``model.json`` describes it."""
    module = plugins.load("backbones", model.backbone)
    settings = resolve(module.Settings, model.backbone_settings, prefix="backbone.")
    network: Backbone = module.Backbone(settings, in_channels=len(model.channels), num_classes=len(model.label_names))
    return network


@torch.inference_mode()
def predict_scan(
    networks: Sequence[Backbone],
    image: NDArray[np.float16],
    facts: Facts,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
    settings: tiles.Settings | None = None,
    mirrored: Sequence[int] = (),
) -> NDArray[Any]:
    """Class indices of one prepared scan on its canonical grid.

    Args:
        networks: In evaluation mode; several are an ensemble.
        image: (n, C, h, w) prepared slices, in memory or memory-mapped.
        facts: Of the scan.
        device: Where the networks are.
        patch_px: (slices, rows, columns) of a tile where the networks are three-dimensional, else None.
        settings: Of the tiles; by default their defaults.
        mirrored: Axes of what a network sees; its logits are averaged over the mirror images along them.

    Returns:
        (X, Y, Z) uint8.
    """
    slabs = probabilities(networks, image, facts, device, patch_px, settings, mirrored)
    return insert_slices(_on_own_grid(slabs, facts), facts)


def probabilities(
    networks: Sequence[Backbone],
    image: NDArray[np.float16],
    facts: Facts,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
    settings: tiles.Settings | None = None,
    mirrored: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Slabs (K, s, h, w) of the prepared slices, in order; arguments as of ``predict_scan``.

    How many slices a slab has does not depend on how many networks there are. It is valid until the next is asked for.
    """
    if patch_px is None:
        return _by_slices(networks, image, facts, device, mirrored)
    return tiles.probabilities(networks, image, patch_px, settings or tiles.Settings(), device, mirrored=mirrored)


def _by_slices(
    networks: Sequence[Backbone], image: NDArray[np.float16], facts: Facts, device: torch.device,
    mirrored: Sequence[int],
) -> Iterator[Tensor]:  # fmt: skip
    """Slabs (K, s, h, w) of a scan that two-dimensional networks see slice by slice."""
    slab, start = 1, 0
    while start < len(image):
        slices = torch.from_numpy(np.array(image[start : start + slab])).to(device).float()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=False):
            each = [mean_logits(network, slices, mirrored).softmax(1) for network in networks]
            probabilities = torch.stack(each).mean(0)
            del each  # no other network's while the next slices are seen
        yield probabilities.movedim(1, 0)
        start += slab
        slab = slices_at_once(probabilities.shape[1], facts)


def slices_at_once(num_classes: int, facts: Facts) -> int:
    """How many slices go through the networks together, so that their probabilities take ``SLAB_BYTES`` at most."""
    pixels = max(math.prod(facts.slice_shape), math.prod(facts.prepared_shape))
    return max(1, SLAB_BYTES // (4 * num_classes * pixels))


def _on_own_grid(slabs: Iterator[Tensor], facts: Facts) -> NDArray[np.uint8]:
    """Slabs (K, s, h, w) of the n prepared slices, in order -> (N, H, W) classes, each slice as soon as it can be."""
    lower, upper, share = between(facts.slices, facts.canonical_slices)
    at_once = max(1, tiles.MAP_BYTES // (4 * math.prod(facts.slice_shape)))
    out = np.empty((facts.canonical_slices, *facts.slice_shape), np.uint8)
    done, first = 0, 0  # own slices that are written, prepared slices that came before this slab
    before: Tensor | None = None  # the last of them
    for slab in slabs:
        ready = int(np.searchsorted(upper, first + slab.shape[1]))
        for begin in range(done, ready, at_once):
            own = slice(begin, min(begin + at_once, ready))
            maps = _own_maps(slab, before, lower[own] - first, upper[own] - first, share[own], facts)
            out[own] = tiles.most_probable(maps).cpu().numpy()
        done, first = max(done, ready), first + slab.shape[1]
        before = slab[:, -1:].clone()
    return out


def between(prepared: int, own: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Of each own slice, the two prepared slices that it lies between and its way from one to the other.

    The two grids share their outer edges, as in the plane; beyond the middle of the outermost slice there is no other.
    """
    place = np.clip((np.arange(own) + 0.5) * prepared / own - 0.5, 0, prepared - 1)
    lower, upper = np.floor(place).astype(np.intp), np.ceil(place).astype(np.intp)
    return lower, upper, (place - lower).astype(np.float32)


def _own_maps(
    slab: Tensor,
    before: Tensor | None,
    lower: NDArray[np.intp],
    upper: NDArray[np.intp],
    share: NDArray[np.float32],
    facts: Facts,
) -> Iterator[Tensor]:
    """(N', H, W) of each class in turn; ``lower`` and ``upper`` count from the slab's first slice, -1 is ``before``."""
    low, high = int(lower[0]), int(upper[-1]) + 1
    below, above, way = (torch.from_numpy(part).to(slab.device) for part in (lower - low, upper - low, share))
    for number, prepared in enumerate(slab):
        maps = prepared[max(low, 0) : high]
        if low < 0 and before is not None:
            maps = torch.cat([before[number], maps])
        if facts.slices != facts.canonical_slices:
            maps = torch.lerp(maps[below], maps[above], way[:, None, None])
        yield _in_plane(maps, facts, outside=1.0 if number == 0 else 0.0)


def _in_plane(maps: Tensor, facts: Facts, outside: float) -> Tensor:
    """(N', h, w) on the prepared field -> (N', H, W) at the scan's own resolution, ``outside`` beyond the field."""
    field, (rows, cols) = facts.field, facts.resampled_shape
    # Negative padding cuts off what the field of view adds around a small slice.
    margins = [field.col0, cols - field.col0 - field.width, field.row0, rows - field.row0 - field.height]
    if any(margins):
        maps = F.pad(maps, margins, value=outside)
    if maps.shape[1:] == facts.slice_shape:
        return maps
    return F.interpolate(maps[None], facts.slice_shape, mode="bilinear", align_corners=False)[0]
