"""One slice with the outlines of reference and prediction, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from lemis.reporting.figures.svg import colours as structure_colours

Array = NDArray[Any]


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
    coloured = list(zip(structures.values(), structure_colours(len(structures)), strict=True))
    for value, colour in coloured:
        _outline(axes, across, down, reference == value, colors=colour, linewidths=4.5, alpha=0.45)
    for value, colour in coloured:
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
    """Intensities to 0 ... 1 between two percentiles of the image, or of ``like``, so that several look alike."""
    values = image.astype(np.float64)
    bottom, top = np.nanpercentile(values if like is None else like.astype(np.float64), [low, high])
    scaled: NDArray[np.float64] = np.clip((np.nan_to_num(values) - bottom) / max(top - bottom, 1e-12), 0, 1)
    return scaled
