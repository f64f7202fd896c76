"""Keypoints as tensors, for networks: every image of a batch padded with NaN to the same number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lemis.preparation.keypoints import Settings, find


def found_in(x: Tensor, settings: Settings) -> Tensor:
    """Keypoints of prepared slices (B, C, H, W) -> (B, K, 2) rows and columns, strongest first, on their device.

    The detector runs on the CPU, one slice after the other. Training reads stored keypoints instead.
    """
    images = x.detach().float().cpu().numpy()
    places = [find(image, settings).place for image in images]
    padded = np.full((len(places), max([1, *map(len, places)]), 2), np.nan, dtype=np.float32)
    for row, place in zip(padded, places, strict=True):
        row[: len(place)] = place
    return torch.from_numpy(padded).to(x.device)


def given_or_found(keypoints: Tensor | None, x: Tensor, settings: Settings | None) -> Tensor:
    """The first ``settings.most`` keypoints given, or of those found in ``x``; without settings, none at all."""
    if settings is None:
        return torch.full((len(x), 1, 2), torch.nan, device=x.device)
    return (found_in(x, settings) if keypoints is None else keypoints)[:, : settings.most]
