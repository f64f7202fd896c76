"""What all figures share: colours, letters, and how one becomes an ``<svg>`` element of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

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


def colours(count: int) -> list[str]:
    """Colours for so many structures, in their order."""
    return [STRUCTURE_COLOURS[k % len(STRUCTURE_COLOURS)] for k in range(count)]


def structure_colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each structure, the same in every figure."""
    return dict(zip(names, colours(len(names)), strict=True))


def svg(name: str, draw: Callable[[Figure], None], *, size: tuple[float, float], alt: str, letters: float = 10) -> str:
    """An ``<svg>`` element.

    Args:
        name: Unique in the page: the prefix of all ids in it.
        draw: Fills the figure.
        size: Width and height in inches.
        alt: What a reader who cannot see it should know.
        letters: Their size in points.
    """
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


def standing_alone(svg: str) -> str:
    """An ``<svg>`` element as a file: with letters and a colour of its own, for papers and slides."""
    fonts = "font-family: Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
    text = svg.replace("font-family: inherit", fonts).replace("<svg", '<svg color="#1c2127"', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'
