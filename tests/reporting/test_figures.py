"""Figures of the pages and the words beside them: curves, outlines over slices, maps, durations, lists."""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lemis.measure.tables import count
from lemis.reporting.examples import choose_slices
from lemis.reporting.figures import outlines, plots
from lemis.reporting.figures import similarity as figures
from lemis.reporting.numbers import duration, listed


@pytest.mark.parametrize(("networks", "abreast"), [(1, 1), (2, 2), (6, 6), (7, 4), (13, 5)])
def test_networks_are_wrapped_into_bands(networks: int, abreast: int):
    values = np.linspace(-1, 1, 96).reshape(8, 12)
    maps = [figures.Maps(f"m{k}", "", values, values, (2.0, 3.0), 4.0) for k in range(networks)]
    svg = figures.maps("s", maps, figures.Query((1, 2), (3, 4), 2.0), alt="a")
    assert ET.fromstring(svg).attrib["aria-label"] == "a"
    pictures = [float(x) for x in re.findall(r'<image[^>]* x="([\d.]+)"', svg)]
    assert len(pictures) >= 2 * networks
    assert len(set(pictures[: 2 * networks])) == abreast


def test_colours_are_of_one_scale():
    low, high = (
        figures.maps(
            "s", [figures.Maps("m", "", *[np.full((4, 4), value)] * 2, (0.0, 0.0), 0.0)],
            figures.Query((1, 1), (1, 1), 1.0), alt="a",
        )
        for value in (0.0, 0.9)
    )  # fmt: skip
    white, red = (embedded(svg)[0] for svg in (low, high))
    assert white.min() > 235
    assert red[..., 0].mean() > 100 > red[..., 2].mean() + 40


def embedded(svg: str) -> list[NDArray[np.uint8]]:
    """Pictures in an SVG, (rows, cols, 3), where they are not see-through."""
    found = []
    for text in re.findall(r"base64,([^\"]+)\"", svg):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))
        rows, cols = picture.shape[0] // 4, picture.shape[1] // 4
        found.append(picture[rows:-rows, cols:-cols, :3])
    return found


def test_slices_are_the_fullest_and_the_worst():
    reference = np.zeros((9, 10, 10), dtype=int)
    reference[1:8, 2:6, 2:6] = 1
    reference[4, 1:8, 1:8] = 1
    predicted = reference.copy()
    predicted[1, 2:6, 2:6] = 0
    predicted[7, 2:4, 2:6] = 0
    predicted[6, 2:3, 2:6] = 0
    assert choose_slices(reference, predicted, {"a": 1}) == [1, 4, 7]


def test_slices_of_a_thin_scan():
    one = np.ones((1, 3, 3), dtype=int)
    assert choose_slices(one, one, {"a": 1}) == [0]
    assert choose_slices(np.ones((2, 3, 3), dtype=int), np.zeros((2, 3, 3), dtype=int), {"a": 1}) == [0, 1]


def test_overlay_has_the_proportions_of_the_body():
    plane, nothing = np.zeros((20, 10)), np.zeros((20, 10), dtype=int)
    width, height = Image.open(io.BytesIO(outlines.overlay(plane, nothing, nothing, {"a": 1}, (1.0, 4.0)))).size
    assert width / height == pytest.approx(2.0, rel=0.02)


def test_overlay_draws_the_reference_where_it_is():
    plane, reference = np.zeros((40, 40)), np.zeros((40, 40), dtype=int)
    reference[20:, 10:20] = 1  # touches the lower border
    picture = Image.open(io.BytesIO(outlines.overlay(plane, reference, reference * 0, {"a": 1}, (1, 1)))).convert("RGB")
    coloured = np.asarray(picture).max(axis=2) > 40
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    size = picture.size[0]
    assert rows[0] / size == pytest.approx(0.5, abs=0.02)
    assert (columns[0] / size, columns[-1] / size) == pytest.approx((0.25, 0.5), abs=0.02)
    assert not np.array_equal(picture, Image.new("RGB", picture.size))


def test_figures_follow_the_pages_colour_and_do_not_share_ids():
    lines = {"loss": ([1.0, 2.0], [3.0, math.nan])}
    first, second = (plots.curves(name, lines, label="loss", alt='a "b" <c>') for name in ("one", "two"))
    assert "currentColor" in first
    assert ET.fromstring(first).attrib["aria-label"] == 'a "b" <c>'
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', first))
    assert used <= ids[0]


def test_running_mean_is_a_mean():
    flat = plots._running_mean(np.full(200, 2.5))
    assert flat == pytest.approx(np.full(200, 2.5))
    noisy = np.random.default_rng(0).normal(size=500)
    assert plots._running_mean(noisy).std() < 0.4
    assert len(plots._running_mean(np.arange(3.0))) == 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.4, "3 s"), (754, "13 min"), (11_100, "3 h 5 min"), (89.9, "90 s"), (5398, "1 h 30 min")],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


def test_lists_and_counts():
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert listed([]) == ""
    assert listed("abcdef", most=2) == "a, b and 4 more"
    assert (count(1, "scan"), count(2, "scan")) == ("1 scan", "2 scans")


def test_a_name_is_no_formula_in_a_figure() -> None:
    steps = (list(range(4)), [0.1, 0.2, 0.3, 0.4])
    svg = plots.curves("x", {r"$\frac$": steps, "b": steps}, label="Dice", alt="")
    assert r"$\frac$" in svg
