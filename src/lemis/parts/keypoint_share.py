"""Which of an image's keypoints a network is given in training (KAF: Yang et al., NeurIPS 2023).

A network that sees the same keypoints of a slice every time learns them by heart. The authors' code gives every image
of a batch as many as the poorest of them has, chosen at random; a share drawn for each image does not depend on others.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from lemis import processes
from lemis.contracts import Draw
from lemis.settings import Probability, ordered

# [low, high]: of each image a share drawn between them; "poorest": as many as the poorest image of the batch has.
Share = Annotated[tuple[Probability, Probability], AfterValidator(ordered)] | Literal["poorest"]
ALL = (1.0, 1.0)


def some(keypoints: Tensor | None, share: Share, rng: Draw) -> Tensor | None:
    """The keypoints (B, K, 2) of each image of which a random part is left, the others NaN."""
    if keypoints is None or share == ALL:
        return keypoints
    order = rng.uniform(*keypoints.shape[:2])
    left = kept(order, ~keypoints.isnan().any(-1), share, rng)
    return keypoints.masked_fill(~left[..., None], torch.nan)


def some_of_pairs(order: Tensor, seen: Tensor, found: Tensor, share: Share, rng: Draw) -> tuple[Tensor, Tensor]:
    """Of keypoints that are matched between the two images of a pair, matched ones are kept or left out together.

    With "poorest" matched ones come first, as in the authors' code; a share is of matched and unmatched ones alike.

    Args:
        order: (B, 2, K) random numbers below 1.
        seen: (B, 2, K) bool, which are keypoints.
        found: (B, K) int64, for each keypoint of the first image its match in the second, -1 where it has none.
        share: Of the keypoints of a pair.
        rng: Draws the share.

    Returns:
        (B, 2, K) bool, those that are kept; (B, K) the matches that are left.
    """
    (here, there), match, has = order.unbind(1), found.clamp(min=0), found >= 0
    here = torch.where(has, there.gather(1, match), here)  # one number for both of a pair
    if share == "poorest":
        here, there = here + ~has, there + ~matched(found, there)  # after all that are matched
    left, left_there = kept(torch.stack([here, there], 1), seen, share, rng).unbind(1)
    both = has & left & left_there.gather(1, match)
    still = torch.where(both, found, -1)
    alone = ~matched(found, there) | matched(still, there)
    return torch.stack([left & (both | ~has), left_there & alone], 1), still


def matched(found: Tensor, there: Tensor) -> Tensor:
    """(B, K') bool, which keypoints of the second image (``there`` is of their shape) are in ``found`` (B, K)."""
    taken = torch.zeros_like(there, dtype=torch.int)
    return taken.scatter_add(1, found.clamp(min=0), (found >= 0).int()) > 0


def kept(order: Tensor, seen: Tensor, share: Share, rng: Draw) -> Tensor:
    """Which keypoints are kept, those that are first in ``order``.

    Args:
        order: (B, ..., K) random numbers below 1, or above where a keypoint comes late.
        seen: (B, ..., K) bool, which are keypoints.
        share: Drawn once for each of the B rows; or the number of keypoints in the poorest image of all processes that
            has any.
        rng: Draws the share.
    """
    if share != "poorest":
        return seen & (order < rng.uniform(len(order), *[1] * (order.ndim - 1), low=share[0], high=share[1]))
    count = seen.sum(-1).flatten()
    poorest = processes.gather(count.masked_fill(count == 0, seen.shape[-1]).min()[None]).min()
    place = order.masked_fill(~seen, torch.inf).argsort(-1).argsort(-1)
    return seen & (place < poorest)
