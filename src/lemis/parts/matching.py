"""Which keypoints of two neighbouring slices are the same (KAF: Yang et al., NeurIPS 2023, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def matches(
    place_a: Tensor, descriptor_a: Tensor, place_b: Tensor, descriptor_b: Tensor, distance_px: float, *, mutual: bool
) -> Tensor:
    """For each keypoint a the nearest b by descriptor among those less than ``distance_px`` away (Manhattan).

    Args:
        place_a: (B, K, 2) in pixels of the slice, NaN rows are no keypoints.
        descriptor_a: (B, K, D).
        place_b: (B, K', 2).
        descriptor_b: (B, K', D).
        distance_px: theta; strict.
        mutual: a must be the nearest of b as well.

    Returns:
        (B, K) int64, -1 where a has no match.
    """
    near_by = (place_a[:, :, None] - place_b[:, None]).abs().sum(-1) < distance_px  # False with NaN
    apart = torch.cdist(descriptor_a, descriptor_b, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.masked_fill(~near_by, torch.inf)
    nearest = apart.argmin(2)  # (B, K)
    found = near_by.any(2)
    if mutual:
        back = apart.argmin(1)  # (B, K')
        found &= back.gather(1, nearest) == torch.arange(place_a.shape[1], device=place_a.device)
    return torch.where(found, nearest, -1)
