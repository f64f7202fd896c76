"""Plots of a report: curves over training steps, and how a score is distributed over scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from lemis.reporting.figures.svg import LINE_COLOURS, TEXT, svg
from lemis.reporting.figures.svg import colours as structure_colours

_MM_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


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

    return svg(name, draw, size=(5.4, 3.0), alt=alt)


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
        for place, points, colour in zip(places.tolist(), groups.values(), structure_colours(len(groups)), strict=True):
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
    return svg(name, draw, size=(width, 3.4), alt=alt)


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
