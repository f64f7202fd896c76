"""The scores of the MACL article, of slices on the network's grid: they stand beside its pooled Dice and flatter.

    Dice, Jaccard   per structure, from counts over all slices of the test subjects
    HD95            95th percentile of the distances of both surfaces, pooled (medpy's ``hd95``); mean over slices
    ASD             mean distance of the prediction's surface from the reference's, one way; mean over slices

Distances are in pixels, and 0 where a slice lacks the structure in the reference or in the prediction. So a structure
that is missed altogether has the best distance there is, and every slice above and below it lowers the mean: the
distances of two methods can be compared where both find about as much, and tell nothing without the Dice beside them.
Difference: the article's code takes the mean of each batch of slices first; here all slices count alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.measure.scores import Labels, Mask, pooled_dice, surface_distances_mm

DICE = "pooled_dice"
BESIDE = ("jaccard", "hd95_px", "asd_px")  # the article's other columns
DEFINITION = (
    "Jaccard from the same counts; HD95 (both surfaces pooled) and ASD (prediction to reference) of each slice in "
    "pixels of the network's grid, mean over all slices, 0 where the reference or the prediction lacks the structure, "
    "so that a missed structure has the best distance"
)
_ONE_PX = (1.0, 1.0)


class SliceScores(NamedTuple):
    """Of the foreground classes 1 ... n - 1; names as in metrics and results."""

    pooled_dice: tuple[float, ...]
    jaccard: tuple[float, ...]
    hd95_px: tuple[float, ...]
    asd_px: tuple[float, ...]


def slice_scores(pairs: Iterable[tuple[Labels, Labels]], num_classes: int) -> SliceScores:
    """All of them, in one pass.

    Args:
        pairs: (prediction, reference) class indices, (..., rows, columns) of equal shape.
        num_classes: Classes with the background.
    """
    far = np.zeros((2, num_classes - 1))
    count = 0

    def measured() -> Iterator[tuple[Labels, Labels]]:
        nonlocal count
        for prediction, reference in pairs:
            shape = (-1, *reference.shape[-2:])
            for predicted, wanted in zip(prediction.reshape(shape), reference.reshape(shape), strict=True):
                far[:] += distances_px(predicted, wanted, num_classes)
                count += 1
            yield prediction, reference

    dice = pooled_dice(measured(), num_classes).dice
    hd95_px, asd_px = (tuple(float(value) for value in row / max(count, 1)) for row in far)
    return SliceScores(dice, tuple(value / (2 - value) for value in dice), hd95_px, asd_px)


def distances_px(prediction: Labels, reference: Labels, num_classes: int) -> NDArray[np.float64]:
    """HD95 and ASD of the foreground classes of one slice (rows, columns), as (2, classes - 1)."""
    found = np.zeros((2, num_classes - 1))
    for value in np.intersect1d(prediction, reference):
        if value > 0:
            found[:, value - 1] = _of_masks(prediction == value, reference == value)
    return found


def _of_masks(prediction: Mask, reference: Mask) -> tuple[float, float]:
    to_reference, to_prediction = surface_distances_mm(prediction, reference, _ONE_PX)
    return float(np.percentile(np.concatenate([to_reference, to_prediction]), 95)), float(to_reference.mean())
