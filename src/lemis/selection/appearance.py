"""What a scan is like without any network: its grid and how its intensities are spread. For a data set on which nothing
was trained yet; it tells scanners and fields of view apart rather than people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lemis.preparation.facts import Facts, inside_field

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_LEAST = 1e-3


def of_scan(image: NDArray[np.float16], facts: Facts) -> NDArray[np.float64]:
    """(6 + 8 C,) of one prepared scan.

    Logarithms of spacing and extent in mm along (X, Y, Z); of each channel the percentiles of its prepared intensities
    inside the scan, and the mean absolute step from one slice to the next.

    Args:
        image: (n, C, h, w) prepared slices, in memory or memory-mapped.
        facts: Of the scan.
    """
    spacing = np.array(facts.canonical_spacing_mm)
    inside = inside_field(facts)
    told = [np.log(spacing), np.log(spacing * facts.canonical_shape)]
    for channel in np.moveaxis(np.asarray(image, np.float32), 1, 0):
        told.append(np.percentile(channel[:, inside], PERCENTILES))
        step = np.abs(np.diff(channel[:, inside], axis=0)).mean() if len(channel) > 1 else 0.0
        told.append(np.log([max(float(step), _LEAST)]))
    return np.concatenate(told)
