"""The score of a network on held-out scans while it is trained, as in the papers: on the grid that it sees.

Dice is pooled over all slices, or all voxels, of the scans (``paper`` protocol); beside it stand the scores of slices
that one of the papers prints too (``measure.slices``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lemis.contracts import Backbone
from lemis.measure.slices import SliceScores, slice_scores
from lemis.prediction import tiles
from lemis.prediction.padding import padded_logits
from lemis.preparation.store import Store
from lemis.sampling.samples import Slices

Labels = NDArray[np.integer]
Pairs = Iterator[tuple[Labels, Labels]]  # predicted and true class indices

HELD_OUT = "held_out"  # metrics of held-out scans begin so
BATCH_SIZE = 32  # slices that are scored together
TILES = tiles.Settings(overlap=0.25)  # a third of the tiles that a prediction takes; it is only watched
FORWARD = 1 / 3  # of a training step, which also goes back
Stop = Callable[[], bool]  # whether somebody wants the process to end


class StoppedScoringError(Exception):
    """Somebody wants the process to end; nothing was scored."""


def figures(scores: SliceScores, structures: Sequence[str]) -> dict[str, float]:
    """By their names in the metrics: the mean over structures, and each of them."""
    found = {}
    for metric, values in scores._asdict().items():
        found[f"{HELD_OUT}/{metric}"] = float(np.mean(values))
        found |= {
            f"{HELD_OUT}/{metric}/{structure}": value for structure, value in zip(structures, values, strict=True)
        }
    return found


class Scoring(NamedTuple):
    """How a training scores held-out scans."""

    figures: Callable[[Stop], dict[str, float]]  # asks often; raises ``StoppedScoringError``
    times: int
    steps: float  # of training that take about as long as one scoring


def steps(store: Store, scans: Sequence[int], batch_size: int, patch_px: tuple[int, ...] | None) -> float:
    """About how many steps of training a scoring takes as long as."""
    facts = [store.scans[scan] for scan in scans]
    if patch_px is None:
        parts = sum(one.slices for one in facts)
    else:
        parts = sum(tiles.count((one.slices, *one.prepared_shape), patch_px, TILES.overlap) for one in facts)
    return FORWARD * parts / batch_size


def scorer(
    network: Backbone,
    store: Store,
    scans: Sequence[int],
    device: torch.device,
    *,
    patch_px: tuple[int, ...] | None = None,
    keypoints: int = 0,
) -> Callable[[Stop], SliceScores]:
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
        return lambda stop: _score(network, _of_slices(network, slices, stop), store.num_classes)
    return lambda stop: _score(network, _of_volumes(network, store, scans, patch_px, device, stop), store.num_classes)


@torch.no_grad()
def _score(network: Backbone, pairs: Pairs, num_classes: int) -> SliceScores:
    was_training = network.training
    network.eval()
    try:
        return slice_scores(pairs, num_classes)
    finally:
        network.train(was_training)


def _unless(stop: Stop) -> None:
    if stop():
        raise StoppedScoringError


def _of_slices(network: Backbone, slices: Slices, stop: Stop) -> Pairs:
    order = np.arange(len(slices))
    for batch in slices.stream([order[k : k + BATCH_SIZE] for k in range(0, len(order), BATCH_SIZE)]):
        _unless(stop)
        assert batch.label is not None, "a score needs labels"
        predicted = padded_logits(network, batch.image, batch.keypoints).argmax(1)
        yield predicted.cpu().numpy(), batch.label.cpu().numpy()


def _of_volumes(
    network: Backbone, store: Store, scans: Sequence[int], patch_px: tuple[int, ...], device: torch.device, stop: Stop
) -> Pairs:
    for scan in scans:
        label = store.label(scan)
        assert label is not None, "a score needs labels"
        yield tiles.classes([network], store.image(scan), patch_px, TILES, device, lambda: _unless(stop)), label
