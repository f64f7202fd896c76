"""The figure of a comparison: a score against the number of labelled subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lemis.reporting.figures.svg import LINE_COLOURS, TEXT, svg

# Rows of a comparison: the lines' colours, then what of the structures' is not alike.
_ROW_COLOURS = (*LINE_COLOURS, "#d9667e", "#868c93")
COLUMN, PAGE = (3.5, 2.7), (8.0, 4.2)  # inches: a column of a paper, the page
_MARKERS = "osD^vPX*"
_BASELINE_WIDTH, _ROW_WIDTH = 2.0, 1.4
_MOST_LABELLED = 12  # lines whose names still fit beside them
_LOGARITHMIC_FROM = 5  # largest over smallest number of labelled subjects


class Line(NamedTuple):
    """One row of a comparison: a mean with its interval for each number of labelled subjects."""

    title: str
    labelled: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]  # NaN where there is no interval
    high: Sequence[float]
    baseline: bool = False
    ahead: Sequence[tuple[float, float, float, float]] = ()  # forecast: labelled, mean, low, high


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
    return svg(name, draw, size=size, alt=alt, letters=letters)


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
