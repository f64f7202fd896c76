"""The score of a network on held-out scans while it is trained, as in the papers: on the grid that it sees.

Dice is pooled over all slices, or all voxels, of the scans (``paper`` protocol).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lemis.contracts import Backbone
from lemis.data.samples import Slices
from lemis.data.store import Store
from lemis.engine import tiles
from lemis.engine.supervised import padded_logits
from lemis.measure.scores import PooledDice, pooled_dice

Labels = NDArray[np.integer]
Pairs = Iterator[tuple[Labels, Labels]]  # predicted and true class indices

BATCH_SIZE = 32  # slices that are scored together


def scorer(
    network: Backbone,
    store: Store,
    scans: Sequence[int],
    device: torch.device,
    *,
    patch_px: tuple[int, ...] | None = None,
    keypoints: int = 0,
) -> Callable[[], PooledDice]:
    """What scores a network as it is at that moment, in evaluation mode.

    Args:
        network: Of two dimensions: slice by slice. Of three: tile by tile.
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``; labelled.
        device: Where the network is.
        patch_px: (slices, rows, cols) of a tile, for a network of three dimensions.
        keypoints: Of a slice that the network is given, at most.
    """
    if patch_px is None:
        slices = Slices(store, scans, device, with_labels=True, keypoints=keypoints)
        return lambda: _score(network, _of_slices(network, slices), store.num_classes)
    return lambda: _score(network, _of_volumes(network, store, scans, patch_px, device), store.num_classes)


@torch.no_grad()
def _score(network: Backbone, pairs: Pairs, num_classes: int) -> PooledDice:
    was_training = network.training
    network.eval()
    score = pooled_dice(pairs, num_classes)
    network.train(was_training)
    return score


def _of_slices(network: Backbone, slices: Slices) -> Pairs:
    order = np.arange(len(slices))
    for batch in slices.stream([order[k : k + BATCH_SIZE] for k in range(0, len(order), BATCH_SIZE)]):
        assert batch.label is not None, "a score needs labels"
        predicted = padded_logits(network, batch.image, batch.keypoints).argmax(1)
        yield predicted.cpu().numpy(), batch.label.cpu().numpy()


def _of_volumes(
    network: Backbone, store: Store, scans: Sequence[int], patch_px: tuple[int, ...], device: torch.device
) -> Pairs:
    for scan in scans:
        label = store.label(scan)
        assert label is not None, "a score needs labels"
        yield tiles.classes([network], store.image(scan), patch_px, tiles.Settings(), device), label
