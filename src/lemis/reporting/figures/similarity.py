"""The self-similarity figure: the slice, another view of it, and a map for each network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lemis.reporting.figures.outlines import window
from lemis.reporting.figures.svg import svg

Array = NDArray[Any]

SLICE_AND_VIEW = ("The slice", "The other view")
TWO_VIEWS = ("One view", "Another view")
MOST_ABREAST = 6  # networks in one row: as many as stay legible across the page
OUTSIDE = "#80808030"  # of a scan: seen on a white and on a near-black page


class Query(NamedTuple):
    """The place that was asked for, as row and column."""

    in_slice: tuple[float, float]
    in_view: tuple[float, float]
    aspect: float  # height of a pixel over its width


class Maps(NamedTuple):
    """How like the query each place is to one network: -1 ... 1, NaN outside the scan."""

    title: str
    note: str  # a second, smaller line; may be empty
    of_slice: Array  # (rows, cols)
    of_view: Array  # (rows, cols) of the other view
    best_in_view: tuple[float, float]  # row and column of the place most alike there
    away_px: float  # from it to the query, in pixels of the slice


def places(
    name: str, slice_: Array, view: Array, query: Query, *, alt: str, titles: tuple[str, str] = SLICE_AND_VIEW
) -> str:
    """A slice and another view of it, with one place ringed in both; the first has its rows and columns as ticks.

    Args:
        name: Unique in the page.
        slice_: (rows, cols) grey, NaN outside the scan.
        view: (rows, cols) of the other view.
        query: The place.
        alt: What a reader who cannot see it should know.
        titles: Of the two.

    Returns:
        An ``<svg>`` element.
    """

    def draw(figure: Figure) -> None:
        shown = ((slice_, query.in_slice, titles[0]), (view, query.in_view, titles[1]))
        for axes, (image, place, title) in zip(figure.subplots(1, 2), shown, strict=True):
            axes.imshow(
                np.ma.masked_invalid(np.where(np.isnan(image), np.nan, window(image))),
                cmap=mpl.colormaps["gray"].with_extremes(bad=OUTSIDE),
                aspect=query.aspect,
                interpolation="bilinear",
                interpolation_stage="rgba",
            )
            _mark(axes, place, "o", colour="#ffd400", halo="#000000")
            axes.set_title(title, fontsize=10)
            axes.spines[:].set_visible(False)
        first, second = figure.axes
        first.set_xlabel("column")
        first.set_ylabel("row")
        first.minorticks_on()
        second.set_xticks([])
        second.set_yticks([])

    return svg(name, draw, size=(7.6, 3.7), alt=alt)


def maps(
    name: str,
    networks: Sequence[Maps],
    query: Query,
    *,
    alt: str,
    titles: tuple[str, str] = SLICE_AND_VIEW,
    measure: str = "cosine similarity",
) -> str:
    """Two maps of each network, the slice's above the other view's, all in one scale of colours.

    Args:
        name: Unique in the page.
        networks: In the order they are shown, wrapped into bands of at most ``MOST_ABREAST``.
        query: The place.
        alt: What a reader who cannot see it should know.
        titles: Of the slice, or of a view of it, and of another view.
        measure: What the colours are, from -1 to 1.

    Returns:
        An ``<svg>`` element.
    """
    bands = -(-len(networks) // MOST_ABREAST)
    abreast = -(-len(networks) // bands)

    def draw(figure: Figure) -> None:
        # Browsers' letters are taller than matplotlib's: without room of their own, titles are cut.
        figure.set_layout_engine("compressed", h_pad=0.1, w_pad=0.03)
        grid = figure.subplots(2 * bands, abreast, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, network in enumerate(networks):
            band, column = divmod(number, abreast)
            above, below = grid[2 * band : 2 * band + 2, column]
            _map(above, network.of_slice, query.in_slice, query.aspect)
            _map(below, network.of_view, query.in_view, query.aspect)
            _mark(below, network.best_in_view, "x", colour="#000000", halo="#ffffff")
            title = f"{network.title}\n{network.note}" if network.note else network.title
            above.set_title(title, fontsize=10, parse_math=False)
            below.set_xlabel(f"best match {network.away_px:.0f} px away", fontsize=9)
            if column == 0:
                for axes, title in ((above, titles[0]), (below, titles[1])):
                    axes.set_ylabel(f"in {title[0].lower()}{title[1:]}")
        _bar(figure, grid, measure)

    side = min(2.4, 9.2 / abreast)
    return svg(name, draw, size=(0.4 + side * abreast, 0.9 + bands * (2 * side + 0.9)), alt=alt)


def _map(axes: Any, values: Array, place: tuple[float, float], aspect: float) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=mpl.colormaps["RdBu_r"].with_extremes(bad=OUTSIDE),
        vmin=-1,
        vmax=1,
        aspect=aspect,
        interpolation="nearest",
    )
    _mark(axes, place, "o", colour="#000000", halo="#ffffff")


def _bar(figure: Figure, grid: Array, measure: str) -> None:
    shown = grid[0, 0].images[0]  # all have one scale
    bar = figure.colorbar(shown, ax=grid, location="bottom", shrink=0.6, aspect=40, ticks=[-1, -0.5, 0, 0.5, 1])
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # 256 shapes otherwise
    bar.outline.set_visible(False)
    bar.set_label(f"{measure} with the query")


def _mark(axes: Any, place: tuple[float, float], marker: str, *, colour: str, halo: str) -> None:
    for ink, width in ((halo, 3.2), (colour, 1.4)):
        axes.plot(
            place[1], place[0], marker, markersize=9 if marker == "o" else 5, markerfacecolor="none",
            markeredgecolor=ink, markeredgewidth=width, clip_on=False,
        )  # fmt: skip
