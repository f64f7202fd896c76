"""From the label values of the data set to class indices, which networks use, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.errors import DataFault

Array = NDArray[Any]


def to_classes(label: Array, label_values: Sequence[int], ignored: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Label values as stored -> class indices: the place of each value in ``label_values``, 0 for those ``ignored``.

    Raises:
        DataFault: A value that is in neither.
    """
    values = np.asarray(label_values)
    order = np.argsort(values)
    place = np.searchsorted(values, label, sorter=order)
    classes = order.astype(np.uint8)[np.minimum(place, len(values) - 1)]
    wrong = values[classes] != label
    if ignored:
        background = np.isin(label, ignored)
        classes[background] = 0
        wrong &= ~background
    if wrong.any():
        seen = ", ".join(f"{value:g}" for value in np.unique(label[wrong])[:8])
        raise DataFault(
            f"label values {seen}",
            allowed=f"the values of the data set: {', '.join(map(str, label_values))}",
            next="correct the label, or name the value in dataset.json",
        )
    return classes


def values_of(label_values: Sequence[int]) -> Array:
    """The value of each class, to be indexed by class indices.

    In the smallest type: a volume of int64 labels would be larger than everything else that is kept of it.
    """
    values = np.asarray(label_values)
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))
