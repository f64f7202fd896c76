"""Figures of the report: plots and maps as SVG that follows the page's colours, overlays as PNG.

Drawn with matplotlib's objects, never with ``pyplot``, so that nothing is shared between figures or threads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

Array = NDArray[Any]

# Told apart with any colour vision (after Okabe and Ito, 2008), at 3:1 against a white and a near-black page.
STRUCTURE_COLOURS = ("#cc8400", "#3b93d6", "#0f9d73", "#d9667e", "#b86fb0", "#7a7ae0", "#8f8a00", "#868c93")
LINE_COLOURS = ("#2f7fc1", "#b8741a", "#1a8f6a", "#b4559a", "#7a6fd0", "#8a8a2a")
# Stands for the page's own text colour, which only the page knows.
TEXT = "#010203"
_STYLE = {
    "svg.fonttype": "none", "font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT, "ytick.color": TEXT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 9,
}  # fmt: skip
MOST_ABREAST = 6  # networks in one row: as many as stay legible across the page
OUTSIDE = "#80808030"  # of a scan: seen on a white and on a near-black page
_MM_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


# ---------------------------------------------------------------- learning curves


def curves(
    name: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    label: str,
    alt: str,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Curves over training steps.

    Args:
        name: Unique in the page (prefix of the ids inside the SVG).
        lines: Per curve its steps and values; the first is drawn strongest.
        label: Of the y axis.
        alt: What a reader who cannot see it should know.
        colours: Of curves by name; the others get one each.

    Returns:
        An ``<svg>`` element.
    """
    chosen = {**dict(zip(lines, cycle(LINE_COLOURS), strict=False)), **(colours or {})}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, (curve, (steps, values)) in enumerate(lines.items()):
            colour = chosen[curve]
            smooth = _running_mean(np.asarray(values, dtype=float))
            if len(values) > 30:
                axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.35)
            marker = "o" if len(values) <= 30 else None
            axes.plot(
                steps,
                smooth,
                color=colour,
                linewidth=1.8 if number == 0 else 1.2,
                marker=marker,
                markersize=3,
                label=curve,
            )
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(color=TEXT, alpha=0.12, linewidth=0.6)
        axes.margins(x=0.01)
        if len(lines) > 1:
            axes.legend(loc="best")

    return _svg(name, draw, size=(5.4, 3.0), alt=alt)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over about a twenty-fifth of the curve, shorter at its ends; short curves stay as they are."""
    half = len(values) // 50 if len(values) > 30 else 0
    total = np.concatenate([[0.0], np.nancumsum(values)])
    count = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = (total[last] - total[first]) / (count[last] - count[first])
    return mean


# ---------------------------------------------------------------- distribution over scans


def boxes(
    name: str, groups: Mapping[str, Sequence[tuple[float, bool]]], *, label: str, millimetres: bool, alt: str
) -> str:
    """A box plot with every scan as a point.

    Args:
        name: Unique in the page.
        groups: Per structure the (value, found) of its scans; a structure not found by both is a cross.
        label: Of the y axis.
        millimetres: Distances, on an axis that is logarithmic above 1 mm; otherwise shares, 0 to 1.
        alt: What a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(1, len(groups) + 1)
        ink = {"color": TEXT, "linewidth": 0.9}
        axes.boxplot(
            [[value for value, _ in points] for points in groups.values()], positions=places, widths=0.5,
            showfliers=False, boxprops=ink, whiskerprops=ink, capprops=ink,
            medianprops={**ink, "linewidth": 2},
        )  # fmt: skip
        for place, points, colour in zip(places.tolist(), groups.values(), _colours(len(groups)), strict=True):
            _scatter(axes, place, points, colour)
        axes.set_xticks(places, list(groups))
        axes.set_ylabel(label)
        axes.grid(axis="y", color=TEXT, alpha=0.12, linewidth=0.6)
        if millimetres:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(0, 1.4 * max(1.0, *(value for points in groups.values() for value, _ in points)))
            axes.yaxis.set_major_locator(FixedLocator(_MM_TICKS))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_ylim(-0.03, 1.03)

    width = min(9.0, max(4.2, 1.5 + 0.75 * len(groups)))
    return _svg(name, draw, size=(width, 3.4), alt=alt)


def _scatter(axes: Any, place: float, points: Sequence[tuple[float, bool]], colour: str) -> None:
    # Spread by rank, so that the same scans give the same picture.
    offset = 0.16 * np.sin(2.4 * np.arange(len(points)))
    values = np.array([value for value, _ in points])
    found = np.array([there for _, there in points], dtype=bool)
    axes.scatter(
        place + offset[found],
        values[found],
        s=16,
        color=colour,
        edgecolors=TEXT,
        linewidths=0.4,
        alpha=0.85,
        zorder=3,
    )
    axes.scatter(place + offset[~found], values[~found], s=34, marker="x", color=TEXT, linewidths=1.4, zorder=4)


def _colours(count: int) -> list[str]:
    return [STRUCTURE_COLOURS[k % len(STRUCTURE_COLOURS)] for k in range(count)]


def structure_colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each structure, the same in every figure."""
    return dict(zip(names, _colours(len(names)), strict=True))


# ---------------------------------------------------------------- overlays


def overlay(
    plane: Array,
    reference: Array,
    prediction: Array,
    structures: Mapping[str, int],
    spacing_mm: tuple[float, float],
    *,
    longest_mm: float | None = None,
    crossing_mm: tuple[float, float] | None = None,
    sides: tuple[str, str] | None = None,
) -> bytes:
    """One slice with the reference as a broad band and the prediction as a thin line, as PNG.

    Args:
        plane: (rows, cols) grey in 0 ... 1, or (rows, cols, 3).
        reference: (rows, cols) label values.
        prediction: (rows, cols) label values.
        structures: Name to value.
        spacing_mm: (row, col); the picture has the proportions of the body.
        longest_mm: What would fill the picture: the same for pictures in one scale; by default its longer side.
        crossing_mm: (row, col) from the top left corner, where other planes cross this one: marked by thin lines.
        sides: Letters of the side of the body at the left border and on top.
    """
    height, width = (size * mm for size, mm in zip(plane.shape[:2], spacing_mm, strict=True))
    scale = 3.2 / (longest_mm or max(height, width))
    figure = Figure(figsize=(width * scale, height * scale), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # Pixel centres at half pixels of millimetres, rows downwards.
    axes.imshow(
        plane,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        interpolation="bilinear",
        aspect="auto",
    )
    across = (np.arange(plane.shape[1]) + 0.5) * spacing_mm[1]
    down = (np.arange(plane.shape[0]) + 0.5) * spacing_mm[0]
    for (_, value), colour in zip(structures.items(), _colours(len(structures)), strict=True):
        _outline(axes, across, down, reference == value, colors=colour, linewidths=4.5, alpha=0.45)
    for (_, value), colour in zip(structures.items(), _colours(len(structures)), strict=True):
        _outline(axes, across, down, prediction == value, colors=colour, linewidths=1.3)
    if crossing_mm is not None:
        faint: dict[str, Any] = {"color": "white", "linewidth": 0.5, "alpha": 0.6}
        axes.axhline(crossing_mm[0], **faint)
        axes.axvline(crossing_mm[1], **faint)
    if sides is not None:
        halo = [withStroke(linewidth=2, foreground="black")]
        letters: dict[str, Any] = {"color": "white", "fontsize": 11, "transform": axes.transAxes, "path_effects": halo}
        axes.text(0.02, 0.5, sides[0], va="center", **letters)
        axes.text(0.5, 0.98, sides[1], ha="center", va="top", **letters)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _outline(axes: Any, across: Array, down: Array, mask: Array, **style: Any) -> None:
    if mask.any():
        # One pixel of outside all round closes outlines at the border of the picture.
        wide = [
            np.concatenate([[2 * line[0] - line[-1] - 1], line, [2 * line[-1] - line[0] + 1]])
            for line in (across, down)
        ]
        axes.contour(*wide, np.pad(mask, 1).astype(float), levels=[0.5], **style)


def window(image: Array, *, like: Array | None = None, low: float = 1.0, high: float = 99.5) -> NDArray[np.float64]:
    """Intensities to 0 ... 1 between two percentiles of what is shown: of ``like`` where several are to look alike."""
    values = image.astype(np.float64)
    bottom, top = np.nanpercentile(values if like is None else like.astype(np.float64), [low, high])
    scaled: NDArray[np.float64] = np.clip((np.nan_to_num(values) - bottom) / max(top - bottom, 1e-12), 0, 1)
    return scaled


# ---------------------------------------------------------------- self-similarity


class Maps(NamedTuple):
    """What one network takes for the query: cosines in -1 ... 1, NaN outside the scan."""

    title: str
    note: str  # a second, smaller line; may be empty
    of_slice: Array  # (rows, cols)
    of_view: Array  # (rows, cols) of the other view
    best_in_view: tuple[float, float]  # row and column of the place most alike there
    away_px: float  # from it to the query, in pixels of the slice


def places(
    name: str,
    slice_: Array,
    view: Array,
    query: tuple[float, float],
    query_in_view: tuple[float, float],
    *,
    aspect: float,
    alt: str,
) -> str:
    """A slice and another view of it, with one place ringed in both; the slice has its rows and columns as ticks.

    Args:
        name: Unique in the page.
        slice_: (rows, cols) grey, NaN outside the scan.
        view: (rows, cols) of the other view.
        query: Row and column in the slice.
        query_in_view: Row and column in the other view.
        aspect: Height of a pixel over its width.
        alt: What a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element.
    """

    def draw(figure: Figure) -> None:
        shown = ((slice_, query, "The slice"), (view, query_in_view, "The other view"))
        for axes, (image, place, title) in zip(figure.subplots(1, 2), shown, strict=True):
            axes.imshow(
                np.ma.masked_invalid(np.where(np.isnan(image), np.nan, window(image))),
                cmap=mpl.colormaps["gray"].with_extremes(bad=OUTSIDE),
                aspect=aspect,
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

    return _svg(name, draw, size=(7.6, 3.7), alt=alt)


def similarity(
    name: str,
    networks: Sequence[Maps],
    query: tuple[float, float],
    query_in_view: tuple[float, float],
    *,
    aspect: float,
    alt: str,
) -> str:
    """Two maps of each network, the slice's above the other view's, all in one scale of colours.

    Args:
        name: Unique in the page.
        networks: In the order they are shown, wrapped into bands of at most ``MOST_ABREAST``.
        query: Row and column in the slice.
        query_in_view: Row and column in the other view.
        aspect: Height of a pixel over its width.
        alt: What a reader who cannot see it should know.

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
            _similarity_map(above, network.of_slice, query, aspect)
            _similarity_map(below, network.of_view, query_in_view, aspect)
            _mark(below, network.best_in_view, "x", colour="#000000", halo="#ffffff")
            title = f"{network.title}\n{network.note}" if network.note else network.title
            above.set_title(title, fontsize=10, parse_math=False)
            below.set_xlabel(f"best match {network.away_px:.0f} px away", fontsize=9)
            if column == 0:
                above.set_ylabel("in the slice")
                below.set_ylabel("in the other view")
        _similarity_bar(figure, grid)

    side = min(2.4, 9.2 / abreast)
    return _svg(name, draw, size=(0.4 + side * abreast, 0.9 + bands * (2 * side + 0.9)), alt=alt)


def _similarity_map(axes: Any, values: Array, place: tuple[float, float], aspect: float) -> None:
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


def _similarity_bar(figure: Figure, grid: Array) -> None:
    maps = grid[0, 0].images[0]  # all have one scale
    bar = figure.colorbar(maps, ax=grid, location="bottom", shrink=0.6, aspect=40, ticks=[-1, -0.5, 0, 0.5, 1])
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # 256 shapes otherwise
    bar.outline.set_visible(False)
    bar.set_label("cosine similarity with the query")


def _mark(axes: Any, place: tuple[float, float], marker: str, *, colour: str, halo: str) -> None:
    for ink, width in ((halo, 3.2), (colour, 1.4)):
        axes.plot(
            place[1], place[0], marker, markersize=9 if marker == "o" else 5, markerfacecolor="none",
            markeredgecolor=ink, markeredgewidth=width, clip_on=False,
        )  # fmt: skip


# ---------------------------------------------------------------- SVG


def _svg(name: str, draw: Callable[[Figure], None], *, size: tuple[float, float], alt: str) -> str:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, dpi=200, layout="constrained")  # of the pictures in it
        draw(figure)
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(TEXT, "currentColor")
    # Several figures live in one page: ids must not meet.
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[1]}{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(alt)}"', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
