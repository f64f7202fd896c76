"""Intensities of a scan: clipped where that is asked for, then z-scored over the whole volume, channel by channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemis.errors import DataFault

_LEAST_CONTRAST = 1e-6  # of the mean: what resampling in float32 makes of a constant


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """What was done to one channel: clipped to [low, high] where given, then (x - mean) / std."""

    mean: float
    std: float
    low: float | None = None
    high: float | None = None


def normalise(
    image: NDArray[np.float32],
    clip_percentiles: tuple[float, float] | None = None,
    clip_values: tuple[float, float] | None = None,
) -> tuple[NDArray[np.float32], tuple[Intensity, ...]]:
    """(n, C, H, W) -> each channel clipped and z-scored over its whole volume, and what was done to it.

    Raises:
        DataFault: A channel that is constant or holds values that are not finite.
    """
    out = np.empty_like(image)
    facts = []
    for channel in range(image.shape[1]):
        values, (low, high) = image[:, channel], clip_values or (None, None)
        if clip_percentiles is not None:
            low, high = (float(value) for value in np.percentile(values, clip_percentiles))
        if low is not None:
            values = np.clip(values, low, high)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        if not math.isfinite(std):
            raise DataFault(
                f"channel {channel} holds values that are not finite",
                allowed="finite intensities",
                next="replace NaN and infinity in the file, or leave the scan out",
            )
        if std <= _LEAST_CONTRAST * abs(mean):  # whatever the unit is: diffusion maps in m2/s hold 1e-9
            raise DataFault(
                f"channel {channel} is constant ({mean:g})",
                allowed="an image with contrast",
                next="export the scan again, or leave it out",
            )
        out[:, channel] = (values - mean) / std
        facts.append(Intensity(mean=mean, std=std, low=low, high=high))
    return out, tuple(facts)
