"""How far a scan is from the labelled ones in what a network sees of it, by one vector for each scan.

The distance is the Euclidean one to the nearest labelled scan of another subject, over the median of these distances
of the labelled scans themselves, so that 1 is what is usual among them: networks have scales of their own, and the mean
over several is taken of such ratios. A distance is unlike those of the labelled scans where it is beyond the largest of
them by a margin, and beyond the interval of ``anatomy.limits``; only upwards, as a scan can not be too near.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.measure.anatomy import limits

MARGIN = 1.25  # factor beyond the largest distance of a labelled scan
# Subjects. Nearest distances among fewer are much alike, as the two of a pair have one and the same, and say little of
# how far others may be.
LEAST = 5

Array = NDArray[np.float64]


class Seen(NamedTuple):
    """Labelled scans, as one network sees them."""

    scans: Sequence[str]
    subjects: Sequence[str]
    vectors: Array  # (scans, F)


def nearest(vector: Array, seen: Seen, not_of: Collection[str] = ()) -> float | None:
    """Distance to the nearest scan, in units of the vectors; None where there is none.

    Args:
        vector: (F,) of a scan.
        seen: The labelled scans.
        not_of: Subjects whose scans do not count.
    """
    others = [place for place, subject in enumerate(seen.subjects) if subject not in not_of]
    return float(np.linalg.norm(seen.vectors[others] - vector, axis=1).min()) if others else None


def among(seen: Seen) -> dict[str, float]:
    """Of each labelled scan the distance to the nearest of another subject; empty where all are of one."""
    if len(set(seen.subjects)) < 2:
        return {}
    found = [nearest(vector, seen, {own}) for vector, own in zip(seen.vectors, seen.subjects, strict=True)]
    return {scan: apart for scan, apart in zip(seen.scans, found, strict=True) if apart is not None}


def usual(apart: Mapping[str, float]) -> float | None:
    """What the distances of a network are divided by; None where they say nothing."""
    middle = float(np.median(list(apart.values()))) if apart else 0.0
    return middle or None


def unlike(found: float, labelled: Sequence[float], subjects: int) -> str | None:
    """A sentence where a scan is farther from the labelled ones than any of them is from the others.

    Args:
        found: Of a scan.
        labelled: Of the labelled scans.
        subjects: How many people these are.
    """
    if subjects < LEAST or found <= MARGIN * max(labelled) or not limits(labelled, subjects).beyond(found):
        return None
    return (
        f"unlike every labelled scan in what the networks see: {found:.1f} times as far from the nearest as is usual "
        f"among them, of which none is farther than {max(labelled):.1f} times"
    )
