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
# Rows of a comparison: the lines' colours, then what of the structures' is not alike.
_ROW_COLOURS = (*LINE_COLOURS, "#d9667e", "#868c93")
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
                label=curve.replace("$", r"\$"),  # a name is no formula
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


# ---------------------------------------------------------------- Dice against labelled subjects


class Line(NamedTuple):
    """One row of a comparison: a mean with its interval for each number of labelled subjects."""

    title: str
    labelled: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]  # NaN where there is no interval
    high: Sequence[float]
    baseline: bool = False
    ahead: Sequence[tuple[float, float, float, float]] = ()  # forecast: labelled, mean, low, high


COLUMN, PAGE = (3.5, 2.7), (8.0, 4.2)  # inches: a column of a paper, the page
_MARKERS = "osD^vPX*"
_BASELINE_WIDTH, _ROW_WIDTH = 2.0, 1.4
_MOST_LABELLED = 12  # lines whose names still fit beside them
_LOGARITHMIC_FROM = 5  # largest over smallest number of labelled subjects


def against_labels(name: str, lines: Sequence[Line], *, label: str, alt: str, size: tuple[float, float] = PAGE) -> str:
    """A score against the number of labelled subjects, a line with a band for each row, named at its end.

    With one number of labelled subjects the rows stand below each other instead. The baseline is drawn in the
    page's text colour, forecasts dashed.

    Args:
        name: Unique in the page.
        lines: The rows, in the order of the tables; at least one.
        label: Of the score.
        alt: What a reader who cannot see it should know.
        size: Inches; ``COLUMN`` has the smaller letters.

    Returns:
        An ``<svg>`` element.
    """
    points = sorted({labelled for line in lines for labelled in line.labelled})
    letters = 10.0 if size[0] > 5 else 7.5
    names = [line.title for line in lines if not line.baseline]
    colours = {title: _ROW_COLOURS[place % len(_ROW_COLOURS)] for place, title in enumerate(names)}
    chosen = [TEXT if line.baseline else colours[line.title] for line in lines]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        if len(points) > 1:
            _curves_against_labels(axes, lines, chosen, points, letters)
            axes.set_ylabel(label)
        else:
            _below_each_other(axes, lines, chosen)
            axes.set_xlabel(label)

    if len(points) == 1:
        size = (size[0], 0.7 + 0.03 * letters * len(lines))
    return _svg(name, draw, size=size, alt=alt, letters=letters)


def standing_alone(svg: str) -> str:
    """An ``<svg>`` element as a file: with letters and a colour of its own, for papers and slides."""
    fonts = "font-family: Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
    text = svg.replace("font-family: inherit", fonts).replace("<svg", '<svg color="#1c2127"', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'


def _curves_against_labels(
    axes: Any, lines: Sequence[Line], colours: Sequence[str], points: Sequence[int], letters: float
) -> None:
    for place, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        width = (_BASELINE_WIDTH if line.baseline else _ROW_WIDTH) * letters / 10
        axes.fill_between(line.labelled, line.low, line.high, color=colour, alpha=0.11, linewidth=0)
        axes.plot(
            line.labelled, line.mean, color=colour, linewidth=width, marker=_MARKERS[place % len(_MARKERS)],
            markersize=0.5 * letters, label=line.title, zorder=3 if line.baseline else 2.5,
        )  # fmt: skip
        if line.ahead:
            x, mean, low, high = zip(*line.ahead, strict=True)
            axes.plot(x, mean, color=colour, linewidth=width, linestyle=(0, (4, 2)))
            axes.fill_between(x, low, high, color=colour, alpha=0.07, linewidth=0)
    furthest = max([*points, *(ahead[0] for line in lines for ahead in line.ahead)])
    if furthest / points[0] >= _LOGARITHMIC_FROM:
        axes.set_xscale("log")
    ticks = _ticks_apart([*points, *_rounded_between(points[-1], furthest)], logarithmic=axes.get_xscale() == "log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("labelled subjects")
    axes.grid(color=TEXT, alpha=0.12, linewidth=0.6)
    axes.margins(x=0.03, y=0.04)
    if len(lines) > _MOST_LABELLED:
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    else:
        _named_at_the_end(axes, lines, colours, letters)


def _rounded_between(last: float, furthest: float) -> list[int]:
    # Twice and four times what there is, where a forecast goes on.
    return [int(last * times) for times in (2, 4, 8) if last * times <= furthest * 1.001]


def _ticks_apart(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Those of ``values`` whose numbers do not run into each other: the last, and what is left of it with room."""
    scale = np.log(values) if logarithmic else np.asarray(values, dtype=float)
    room = 0.055 * (scale.max() - scale.min())
    kept = [len(values) - 1]
    for place in range(len(values) - 2, -1, -1):
        if scale[kept[-1]] - scale[place] >= room:
            kept.append(place)
    return [values[place] for place in reversed(kept)]


def _named_at_the_end(axes: Any, lines: Sequence[Line], colours: Sequence[str], letters: float) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends = [line.ahead[-1][:2] if line.ahead else (line.labelled[-1], line.mean[-1]) for line in lines]
    # Shares of the height; about 0.6 inches of it are the axis' own text.
    height_pt = (axes.figure.get_figheight() - 0.6) * 72
    wanted = [(end[1] - low) / (high - low) for end in ends]
    heights = spread(wanted, room=1.25 * letters / height_pt)
    for line, end, height, colour in zip(lines, ends, heights, colours, strict=True):
        axes.annotate(
            line.title, xy=end, xycoords="data", xytext=(1.05, height), textcoords="axes fraction",
            va="center", ha="left", parse_math=False, annotation_clip=False,
            fontweight="bold" if line.baseline else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def spread(wanted: Sequence[float], *, room: float) -> list[float]:
    """Places in 0 ... 1 as near to ``wanted`` as they can be, in their order and ``room`` apart."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    blocks: list[tuple[list[int], float]] = []  # of places that touch, with the centre of each
    for place in order:
        blocks.append(([place], min(max(wanted[place], 0.0), 1.0)))
        while len(blocks) > 1 and _top(blocks[-2], room) + room > _bottom(blocks[-1], room):
            (upper, above), (lower, below) = blocks.pop(), blocks.pop()
            both = [*lower, *upper]
            middle = (below * len(lower) + above * len(upper)) / len(both)
            half = room * (len(both) - 1) / 2
            blocks.append((both, min(max(middle, half), max(1 - half, half))))
    found = dict[int, float]()
    for block in blocks:
        found |= {place: _bottom(block, room) + room * number for number, place in enumerate(block[0])}
    return [found[place] for place in range(len(wanted))]


def _bottom(block: tuple[list[int], float], room: float) -> float:
    return block[1] - room * (len(block[0]) - 1) / 2


def _top(block: tuple[list[int], float], room: float) -> float:
    return block[1] + room * (len(block[0]) - 1) / 2


def _below_each_other(axes: Any, lines: Sequence[Line], colours: Sequence[str]) -> None:
    for place, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        axes.hlines(place, line.low, line.high, color=colour, linewidth=2)
        axes.plot(line.mean, [place], color=colour, marker=_MARKERS[place % len(_MARKERS)], markersize=6)
        if line.baseline:
            axes.axvline(line.mean[0], color=TEXT, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(lines)), [line.title for line in lines], parse_math=False)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(axis="x", color=TEXT, alpha=0.12, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


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
        axes.set_xticks(places, list(groups), parse_math=False)
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


def _svg(name: str, draw: Callable[[Figure], None], *, size: tuple[float, float], alt: str, letters: float = 10) -> str:
    with mpl.rc_context({**_STYLE, "font.size": letters, "svg.hashsalt": name}):
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
