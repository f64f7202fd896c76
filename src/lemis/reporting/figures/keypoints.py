"""The figure of keypoints: two neighbouring slices side by side, and lines between the keypoints that match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lemis.reporting.figures.outlines import window
from lemis.reporting.figures.similarity import OUTSIDE
from lemis.reporting.figures.svg import svg

Array = NDArray[Any]

ALONE, TOGETHER = "#3b93d6", "#ffd400"  # keypoints without and with a match
GAP = 0.06  # of a slice's width, between the two


class Side(NamedTuple):
    """One of the two slices."""

    title: str
    image: Array  # (rows, cols) grey, NaN outside the scan
    place: Array  # (N, 2) row and column of its keypoints


def matches(name: str, sides: tuple[Side, Side], found: Mapping[float, Array], aspect: float, *, alt: str) -> str:
    """Two slices with all their keypoints, once for each distance: in its first line the keypoints alone.

    Args:
        name: Unique in the page.
        sides: The slices, of one size.
        found: Distance in pixels -> (matches, 2) numbers of keypoints that belong together.
        aspect: Height of a pixel over its width, in the body.
        alt: What a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element.
    """
    rows, cols = sides[0].image.shape
    shift = cols + round(GAP * cols) + 1
    both = np.full((rows, shift + cols), np.nan)
    both[:, :cols], both[:, shift:] = (_grey(side.image) for side in sides)
    panels: list[tuple[str, Array]] = [("keypoints", np.zeros((0, 2), np.int64))]
    panels += [(f"matches less than {distance:g} px apart: {len(pairs)}", pairs) for distance, pairs in found.items()]

    def draw(figure: Figure) -> None:
        lines = -(-len(panels) // 2)
        grid = figure.subplots(lines, 2, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (title, pairs) in zip(grid.flat, panels, strict=False):
            axes.imshow(
                np.ma.masked_invalid(both),
                cmap=mpl.colormaps["gray"].with_extremes(bad=OUTSIDE),
                aspect=aspect,
                interpolation="nearest",
            )
            axes.set_title(title, fontsize=10)
            places = [side.place + np.array([0, shift * number]) for number, side in enumerate(sides)]
            joined = np.stack([places[k][pairs[:, k]] for k in range(2)], axis=1)[..., ::-1]  # (matches, 2, x and y)
            axes.add_collection(LineCollection(list(joined), colors=TOGETHER, linewidths=0.5, alpha=0.7))
            for number, place in enumerate(places):
                has = np.isin(np.arange(len(place)), pairs[:, number])
                for which, colour in ((~has, ALONE), (has, TOGETHER)):
                    axes.plot(place[which, 1], place[which, 0], ".", markersize=2.5, color=colour)
        for number, side in enumerate(sides):
            middle = (shift * number + cols / 2) / (shift + cols)
            grid[0, 0].text(
                middle, -0.02, f"{side.title}: {len(side.place)}", ha="center", va="top",
                transform=grid[0, 0].transAxes, fontsize=9,
            )  # fmt: skip

    width = 4.6
    height = width * rows * aspect / (shift + cols)
    return svg(name, draw, size=(2 * width, -(-len(panels) // 2) * (height + 0.5)), alt=alt)


def _grey(image: Array) -> Array:
    return np.where(np.isnan(image), np.nan, window(image))
