"""Whether slices that lie side by side are positives, where a method compares slices by their positions.

Two neighbouring slices of a scan of n slices are 1 / n apart. So a threshold that suits scans of hundreds of slices
makes neighbours in a stack of ten each other's negatives, although they show nearly the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

TRIED = (0.05, 0.1, 0.35, 1.0)  # MACL's on BraTS, PCL's on CHD and on ACDC (papers), and all slices of a scan
TOO_MANY = 0.5  # of all neighbours, negatives


def negative_neighbours(threshold: float, slices: Sequence[int]) -> float:
    """Share of neighbouring slices that are at least ``threshold`` apart, so that they are no positives.

    Args:
        threshold: Of relative positions.
        slices: Of each scan, how many; a scan of one has no neighbours.
    """
    pairs = sum(n - 1 for n in slices)
    apart = sum(n - 1 for n in slices if 1 / n >= threshold - 1e-6)  # as ``parts.contrast.near``
    return apart / pairs if pairs else 0.0


def said(threshold: float, slices: Sequence[int]) -> str | None:
    """What is to be said of a threshold on scans of so many slices each; nothing where most neighbours are positives.

    The one that is named instead is the smallest that a paper has for which few neighbours are negatives.
    """
    share = negative_neighbours(threshold, slices)
    if share <= TOO_MANY:
        return None
    better = next(other for other in TRIED if negative_neighbours(other, slices) <= TOO_MANY / 5)
    return (
        f"method.threshold={threshold:g}: {share:.0%} of neighbouring slices are negatives of each other, as scans "
        f"have {median(slices):g} slices here (median). Try method.threshold={better:g}"
    )
