"""The figure of voxel features: a cloud of points for each structure, beside each other for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from numpy.typing import NDArray

from lemis.reporting.figures.svg import svg

MOST_ABREAST = 4  # networks in one row
_BACKGROUND = "#868c93"


class Cloud(NamedTuple):
    """The cells of one network."""

    title: str
    note: str  # a second line
    places: NDArray[Any]  # (n, 2)
    label: NDArray[Any]  # (n,) number of a class, 0 background
    explained: float  # share of the variance that is shown


def clouds(name: str, networks: Sequence[Cloud], names: Sequence[str], colours: Mapping[str, str], *, alt: str) -> str:
    """A panel for each network.

    Args:
        name: Unique in the page.
        networks: In the order they are shown.
        names: Of the classes, background first.
        colours: Of structures by name.
        alt: What a reader who cannot see it should know.

    Returns:
        An ``<svg>`` element.
    """
    bands = -(-len(networks) // MOST_ABREAST)
    abreast = -(-len(networks) // bands)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(bands, abreast, squeeze=False)
        for axes in panels.flat[len(networks) :]:
            axes.set_axis_off()
        for axes, network in zip(panels.flat, networks, strict=False):
            for number, structure in enumerate(names):
                chosen = network.places[network.label == number]
                colour = _BACKGROUND if number == 0 else colours[structure]
                axes.scatter(*chosen.T, s=6, color=colour, alpha=0.7, linewidths=0, label=structure)
            axes.set_title(f"{network.title}\n{network.note}", fontsize=9, parse_math=False)
            axes.set_xlabel(f"{100 * network.explained:.0f} % of the variance", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 6), markerscale=2)

    side = min(3.6, 9.6 / abreast)
    return svg(name, draw, size=(side * abreast, 0.5 + bands * (side + 0.3)), alt=alt)
