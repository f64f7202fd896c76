"""The way back from a prepared label map to the label values of its scan: what tests of the way there compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemis.preparation.crops import FieldOfView
from lemis.preparation.facts import Facts
from lemis.preparation.preprocess import insert_slices
from lemis.preparation.resampling import resample_label


def from_classes(classes: np.ndarray, label_values: Sequence[int]) -> np.ndarray:
    """Class indices -> label values as stored."""
    return np.asarray(label_values, np.int64)[classes]


def uncrop_field(array: np.ndarray, field: FieldOfView, shape: tuple[int, int]) -> np.ndarray:
    """(..., field.height, field.width) -> (..., *shape), zeros outside the field."""
    out = np.zeros((*array.shape[:-2], *shape), array.dtype)
    for row in range(field.height):
        for col in range(field.width):
            if 0 <= row + field.row0 < shape[0] and 0 <= col + field.col0 < shape[1]:
                out[..., row + field.row0, col + field.col0] = array[..., row, col]
    return out


def restore(labels: np.ndarray, facts: Facts) -> np.ndarray:
    """Integer labels (n, *facts.resampled_shape), field undone -> (X, Y, Z) of the canonical array."""
    return insert_slices(resample_label(labels, (facts.canonical_slices, *facts.slice_shape)), facts)
