"""Where the networks of an ensemble disagree on a scan that has no label: of each two of them the Dice, and the entropy
of what they say together. Measured on the prepared scan, where they compute; nothing of a whole volume is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone
from lemis.measure.agreement import Agreement
from lemis.prediction.inference import probabilities
from lemis.preparation.facts import Facts


class Uncertainty(NamedTuple):
    """Of one scan."""

    disagreement: NDArray[np.float64]  # (structures,) 1 - Dice of two networks, the mean over all pairs
    entropy: float  # nats, of the networks' mean, over the voxels where a structure is more likely than not; 0 of none


@torch.inference_mode()
def of_scan(
    networks: Sequence[Backbone],
    image: NDArray[np.float16],
    facts: Facts,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
) -> Uncertainty:
    """Segment a prepared scan by each network alone; arguments as of ``inference.predict_scan``."""
    alone = [probabilities([one], image, facts, device, patch_px) for one in networks]
    agreement: Agreement | None = None
    total, voxels = 0.0, 0
    for slabs in zip(*alone, strict=True):  # of one plan, so all end together
        agreement = agreement or Agreement(len(networks), slabs[0].shape[0])
        agreement.add(np.stack([slab.argmax(0).to(torch.uint8).cpu().numpy() for slab in slabs]))
        added, counted = _entropy(torch.stack(slabs).mean(0))
        total, voxels = total + added, voxels + counted
    assert agreement is not None, "a scan has slices"
    return Uncertainty(agreement.disagreement(), total / max(voxels, 1))


def _entropy(mean: Tensor) -> tuple[float, int]:
    """Sum over the foreground, and its voxels, of probabilities (K, s, h, w)."""
    there = mean[0] < 0.5
    return float(-torch.special.xlogy(mean, mean).sum(0)[there].double().sum()), int(there.sum())
