"""One image beside its clusters, with a legend, as PNG: what a person looks at to choose the object."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from lemis.reporting.figures.outlines import window
from lemis.reporting.figures.svg import STRUCTURE_COLOURS

Array = NDArray[Any]

MOST_IN_LEGEND = 16  # clusters; a legend of more is read by nobody
_PANEL_INCHES = 4.2
_LEGEND_INCHES = 2.6


class Entry(NamedTuple):
    """One line of the legend."""

    label: int
    share: float  # of the image
    proposed: bool
    chosen: bool  # in the mask


def clusters(
    plane: Array, labels: Array, entries: Sequence[Entry], *, shape: tuple[int, int], spacing: tuple[float, float],
    title: str,
) -> bytes:  # fmt: skip
    """Draw the image, and again with every cluster in its colour and the mask outlined.

    Args:
        plane: (C, h, w) in [0, 1]; of channels other than three the first is shown.
        labels: (h', w') integers from 1, at any size.
        entries: One per cluster, in the order of the legend.
        shape: (H, W) of the image itself: rows and columns along the axes are its pixels.
        spacing: (row, col) distance of the image's pixels.
        title: Above the pictures.
    """
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    # A strip of an image, one pixel high, is still to be seen.
    across, down = (_PANEL_INCHES * max(side / max(height, width), 0.15) for side in (width, height))
    figure = Figure(figsize=(2 * across + _LEGEND_INCHES + 1.0, max(down + 0.9, 0.26 * len(entries) + 0.9)), dpi=110)
    left, right = figure.subplots(
        1, 2, sharey=True,
        gridspec_kw={"left": 0.55 / figure.get_figwidth(), "right": 1 - _LEGEND_INCHES / figure.get_figwidth(),
                     "bottom": 0.4 / figure.get_figheight(), "top": 1 - 0.5 / figure.get_figheight(), "wspace": 0.06},
    )  # fmt: skip
    figure.suptitle(title, x=0.01, y=1 - 0.12 / figure.get_figheight(), ha="left", va="top", fontsize=9)
    shown = np.moveaxis(plane, 0, -1) if len(plane) == 3 else window(plane[0])
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)  # pixel centres at integers, as --click counts
    grey = shown if shown.ndim == 2 else shown.mean(axis=-1)  # under colours that are to be those of the legend
    for axes, under in ((left, shown), (right, grey)):
        axes.imshow(under, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("column", fontsize=7)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("row", fontsize=7)
    colours = {entry.label: STRUCTURE_COLOURS[k % len(STRUCTURE_COLOURS)] for k, entry in enumerate(entries)}
    ranks = np.searchsorted(np.sort(list(colours)), labels)
    palette = ListedColormap([colours[label] for label in sorted(colours)])
    right.imshow(
        ranks, cmap=palette, vmin=-0.5, vmax=len(colours) - 0.5, extent=extent, aspect="auto", alpha=0.55,
        interpolation="nearest",
    )  # fmt: skip
    mask = np.isin(labels, [entry.label for entry in entries if entry.chosen])
    _outline(right, mask, extent)
    for entry in entries[:MOST_IN_LEGEND]:
        _name(right, labels == entry.label, str(entry.label), extent)
    _legend(figure, entries, colours)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _outline(axes: Any, mask: Array, extent: tuple[float, ...]) -> None:
    if not mask.any() or mask.all():
        return
    rows, cols = mask.shape
    down = np.linspace(extent[3], extent[2], rows + 1)[:-1] + (extent[2] - extent[3]) / rows / 2
    across = np.linspace(extent[0], extent[1], cols + 1)[:-1] + (extent[1] - extent[0]) / cols / 2
    # One row outside all round closes outlines at the border.
    steps = (across[1] - across[0] if cols > 1 else 1.0), (down[1] - down[0] if rows > 1 else 1.0)
    across = np.concatenate([[across[0] - steps[0]], across, [across[-1] + steps[0]]])
    down = np.concatenate([[down[0] - steps[1]], down, [down[-1] + steps[1]]])
    padded = np.pad(mask, 1).astype(float)
    axes.contour(across, down, padded, levels=[0.5], colors="black", linewidths=2.4)
    axes.contour(across, down, padded, levels=[0.5], colors="white", linewidths=1.2)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])


def _name(axes: Any, mask: Array, text: str, extent: tuple[float, ...]) -> None:
    """Write a cluster's number where it is widest."""
    inside = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    row, col = np.unravel_index(int(inside.argmax()), mask.shape)
    x = extent[0] + (col + 0.5) * (extent[1] - extent[0]) / mask.shape[1]
    y = extent[3] + (row + 0.5) * (extent[2] - extent[3]) / mask.shape[0]
    halo = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y, text, color="white", fontsize=8, ha="center", va="center", path_effects=halo)


def _legend(figure: Figure, entries: Sequence[Entry], colours: dict[int, str]) -> None:
    handles: list[Any] = [
        Patch(facecolor=colours[entry.label], label=f"{entry.label}   {entry.share:.1%}{_role(entry)}")
        for entry in entries[:MOST_IN_LEGEND]
    ]
    if len(entries) > MOST_IN_LEGEND:
        rest = entries[MOST_IN_LEGEND:]
        words = f"{len(rest)} more   {sum(entry.share for entry in rest):.1%}"
        handles.append(Patch(facecolor="none", label=words))
    if any(entry.chosen for entry in entries):
        outlined = [withStroke(linewidth=2.4, foreground="black")]
        handles.append(Line2D([], [], color="white", linewidth=1.2, path_effects=outlined, label="the mask"))
    figure.legend(
        handles=handles, title="cluster, share of the image", title_fontsize=8, fontsize=8, frameon=False,
        loc="upper left", bbox_to_anchor=(1 - (_LEGEND_INCHES - 0.1) / figure.get_figwidth(), 0.95),
    )  # fmt: skip


def _role(entry: Entry) -> str:
    if entry.proposed:
        return "   proposed" + ("" if entry.chosen else ", not chosen")
    return "   chosen" if entry.chosen else ""
