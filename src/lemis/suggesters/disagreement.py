"""Disagreement: the subjects on which the networks of an ensemble agree least, by the Dice of each pair of them. M.
Zenk et al., Comparative benchmarking of failure detection methods in medical image segmentation, Medical Image Analysis
2025, https://arxiv.org/abs/2406.03323, where it tells bad segmentations from good ones best of all, on five data sets.

    u = mean_c  1 - mean_{k < l} Dice_c(argmax p_k, argmax p_l)

It does not grow with the size of a structure, as entropy does. Nothing keeps it from naming five subjects that are
alike, nor broken scans: ``cover_uncertain`` is made for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lemis.contracts import Pick, Pool

NETWORKS = 2
NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What of the structures counts."""

    over: Literal["mean", "worst"] = "mean"  # of the structures; the paper's mean


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """Those of the largest disagreement, of equal ones the first by name; the same for every seed."""
    del seed
    told = pool.disagreement
    assert told is not None, "NETWORKS says so"
    unlabelled = np.flatnonzero(~pool.labelled)
    scores = told.mean(axis=1) if settings.over == "mean" else told.max(axis=1)
    order = unlabelled[np.argsort(-scores[unlabelled], kind="stable")][:number]

    def why(subject: int) -> str:
        worst = int(np.argmax(told[subject]))
        usual = float(np.median(told[unlabelled, worst]))
        return (
            f"its {pool.networks} networks disagree on {pool.structures[worst]}: {told[subject, worst]:.2f} "
            f"(1 - Dice of two of them), where {usual:.2f} is the median"
        )

    return [Pick(subject, why(subject), float(scores[subject])) for subject in order.tolist()]
