"""What a scan is like beside its anatomy, its extent and how its intensities are spread, against labelled scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lemis.measure.anatomy import MILLIMETRES, Units, limits

EXTENT_MARGIN = 1.25  # factor beyond the least and the most
INTENSITY_MARGIN = 0.3  # standard deviations of the scan
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_SIDES = ("from left to right", "from back to front", "from bottom to top")


class Looks(NamedTuple):
    """Of one scan."""

    extent_mm: tuple[float, ...]  # X, Y, Z
    percentiles: tuple[tuple[float, ...], ...]  # of each channel inside the scan, its mean 0 and standard deviation 1


def unlike(
    found: Looks, labelled: Sequence[Looks], subjects: int, channels: Sequence[str], units: Units = MILLIMETRES
) -> list[str]:
    """Sentences on what no labelled scan shows.

    Args:
        found: Of a scan.
        labelled: Of the labelled scans, at least one.
        subjects: How many people these are.
        channels: Names.
        units: In which sizes are said.
    """
    said = []
    for axis, side in enumerate(_SIDES):
        known = [one.extent_mm[axis] for one in labelled]
        mm, least, most = found.extent_mm[axis], min(known), max(known)
        outside = not least / EXTENT_MARGIN <= mm <= most * EXTENT_MARGIN
        if outside and limits([math.log(one) for one in known], subjects).beyond(math.log(mm)):
            usually = f"{least:.0f} to {most:.0f} {units.length}"
            said.append(f"the scan covers {mm:.0f} {units.length} {side}; labelled ones {usually}")
    for number, channel in enumerate(channels):
        worst: tuple[float, str] = (0.0, "")
        for place, percent in enumerate(PERCENTILES):
            known = [one.percentiles[number][place] for one in labelled]
            value, least, most = found.percentiles[number][place], min(known), max(known)
            beyond = max(least - value, value - most)
            if beyond > max(INTENSITY_MARGIN, worst[0]) and limits(known, subjects).beyond(value):
                worst = (
                    beyond,
                    (
                        f"{channel} is spread otherwise: {percent} % of it lies below {value:+.2f} standard deviations "
                        f"from the mean; in labelled scans below {least:+.2f} to {most:+.2f}"
                    ),
                )
        said += [worst[1]] if worst[1] else []
    return said
