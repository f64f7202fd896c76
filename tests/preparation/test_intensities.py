"""Normalising intensities."""

import numpy as np
import pytest

from lemis.errors import DataFault
from lemis.preparation.intensities import normalise


def test_z_score_is_per_channel_over_the_whole_volume():
    image = np.random.default_rng(0).normal([[[[3.0]], [[-50.0]]]], [[[[2.0]], [[9.0]]]], (6, 2, 20, 20))
    out, facts = normalise(image.astype(np.float32))
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(0, 2, 3)), 1, atol=1e-5)
    assert abs(out[0].mean(axis=(1, 2))).max() > 0  # not per slice
    assert facts[1].mean == pytest.approx(image[:, 1].mean(), rel=1e-5)
    assert facts[1].std == pytest.approx(image[:, 1].std(), rel=1e-5)
    assert facts[0].low is None


def test_clipping_comes_before_the_z_score():
    image = np.random.default_rng(0).normal(size=(4, 1, 30, 30)).astype(np.float32)
    image[0, 0, 0, 0] = 1000
    out, (facts,) = normalise(image, (1.0, 99.0))
    low, high = np.percentile(image, (1, 99))
    assert (facts.low, facts.high) == (pytest.approx(low), pytest.approx(high))
    clipped = np.clip(image, low, high)
    np.testing.assert_allclose(out, (clipped - clipped.mean()) / clipped.std(), atol=1e-5)


def test_clipping_by_value_is_in_stored_units():
    image = np.random.default_rng(0).normal(100, 400, size=(3, 2, 9, 9)).astype(np.float32)
    out, facts = normalise(image, clip_values=(-200.0, 250.0))
    clipped = np.clip(image, -200, 250)
    mean, std = clipped.mean(axis=(0, 2, 3), keepdims=True), clipped.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, (clipped - mean) / std, atol=1e-5)
    assert [(one.low, one.high) for one in facts] == [(-200, 250)] * 2


def test_a_constant_channel_is_refused():
    with pytest.raises(DataFault, match=r"channel 1 is constant \(4\)"):
        normalise(np.stack([np.random.default_rng(0).normal(size=(2, 3, 3)), np.full((2, 3, 3), 4)], 1))


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-4, 1e4, 1e30])
@pytest.mark.parametrize("offset", [0, 7])
def test_the_unit_of_the_values_does_not_matter(scale: float, offset: float):
    image = np.random.default_rng(0).normal(offset, 1, size=(3, 1, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(normalise(image * np.float32(scale))[0], normalise(image)[0], atol=1e-4)
    with pytest.raises(DataFault, match="is constant"):
        normalise(np.full((3, 1, 9, 9), offset * scale, np.float32))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataFault, match="channel 0 holds values that are not finite"):
        normalise(np.full((1, 1, 2, 2), np.nan))
