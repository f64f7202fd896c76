"""Connected pieces of a mask, the slow way."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray


def flooded(mask: NDArray[np.bool_]) -> list[set[tuple[int, ...]]]:
    """The pieces of a mask, place by place."""
    left = {tuple(map(int, place)) for place in np.argwhere(mask)}
    found = []
    while left:
        piece, waiting = set(), [min(left)]
        while waiting:
            place = waiting.pop()
            if place in left:
                left.remove(place)
                piece.add(place)
                steps = product((-1, 0, 1), repeat=mask.ndim)
                waiting += [tuple(p + s for p, s in zip(place, step, strict=True)) for step in steps]
        found.append(piece)
    return found
