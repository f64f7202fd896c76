"""Scans that look like no labelled one: their extent and how their intensities are spread."""

from __future__ import annotations

import numpy as np

from lemis.measure.anatomy import PIXELS
from lemis.measure.looks import PERCENTILES, Looks, unlike


def drawn(seed: int, *, turned: bool = False, half: bool = False) -> Looks:
    """A bright body in dark air, its mean 0 and standard deviation 1."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.6 + 0.05 * rng.random(), size=20000)
    values = (values - values.mean()) / values.std() * (-1 if turned else 1)
    height = (100 + rng.normal(0, 4)) / (2 if half else 1)
    return Looks((300.0, 320.0, height), (tuple(np.percentile(values, PERCENTILES)),))


LABELLED = [drawn(seed) for seed in range(8)]


def said(found: Looks) -> list[str]:
    return unlike(found, LABELLED, len(LABELLED), ["MR"])


def test_inverted_intensities_are_said_once_for_a_channel() -> None:
    (found,) = said(drawn(50, turned=True))
    assert found.startswith("MR is spread otherwise: ")


def test_half_the_slices_are_said() -> None:
    (found,) = said(drawn(50, half=True))
    assert found.startswith("the scan covers 5")
    assert "from bottom to top; labelled ones" in found


def test_scans_like_the_labelled_are_silent() -> None:
    assert [one for seed in range(100, 150) for one in said(drawn(seed))] == []


def test_of_one_subject_only_the_margin_counts() -> None:
    near = LABELLED[0]._replace(extent_mm=(300.0, 320.0, LABELLED[0].extent_mm[2] * 1.2))
    assert unlike(near, LABELLED[:1], 1, ["MR"]) == []


def test_sizes_of_pictures_are_said_in_pixels() -> None:
    (found,) = unlike(drawn(50, half=True), LABELLED, len(LABELLED), ["MR"], PIXELS)
    assert "pixels from bottom to top; labelled ones" in found
    assert found.endswith("pixels")
    assert "mm" not in found
