"""The subjects of a data set as an encoder sees them, in two dimensions: labelled, suggested, and the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lemis.reporting.figures.svg import LINE_COLOURS, TEXT, svg


def subject_map(
    name: str, places: NDArray[np.float64], labelled: NDArray[np.bool_], chosen: Sequence[int], *, alt: str
) -> str:
    """A point for each subject; the suggested ones have their rank as a number.

    Args:
        name: Unique in the page.
        places: (N, 2).
        labelled: (N,)
        chosen: Rows that are suggested, the first one first.
        alt: What a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element.
    """
    rest = ~labelled
    rest[list(chosen)] = False
    x, y = places.T
    named = list(chosen)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.scatter(x[rest], y[rest], s=18, color=TEXT, alpha=0.35, linewidths=0, label="without a label")
        axes.scatter(x[labelled], y[labelled], s=40, color=LINE_COLOURS[0], marker="s", linewidths=0, label="labelled")
        axes.scatter(x[named], y[named], s=60, color=LINE_COLOURS[1], linewidths=0, label="suggested")
        for rank, row in enumerate(chosen, start=1):
            axes.annotate(str(rank), places[row], xytext=(5, 4), textcoords="offset points", color=LINE_COLOURS[1])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second")
        axes.legend(loc="best")

    return svg(name, draw, size=(6.4, 4.0), alt=alt)
