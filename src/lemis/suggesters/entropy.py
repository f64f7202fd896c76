"""Entropy: the subjects of whose segmentation the networks are least certain, voxel by voxel. B. Settles, Active
learning literature survey, 2009, https://minds.wisconsin.edu/handle/1793/60660; among the ways of nnActive (C. Lüth et
al., TMLR 2025, https://arxiv.org/abs/2511.19183), on patches.

    u = mean over the foreground of  - sum_c p_c log p_c,   p the mean of the networks

Over the foreground, as over the whole scan it counts the voxels at borders: large organs and thick slices. It is a
worse sign of a bad segmentation than disagreement is (docs/suggest.md); it does with a single network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemis.contracts import Pick, Pool

NETWORKS = 1
NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """There is nothing to set."""


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """Those of the largest entropy, of equal ones the first by name; the same for every seed."""
    del settings, seed
    assert pool.entropy is not None, "NETWORKS says so"
    unlabelled = np.flatnonzero(~pool.labelled)
    usual = float(np.median(pool.entropy[unlabelled])) if len(unlabelled) else 0.0
    order = unlabelled[np.argsort(-pool.entropy[unlabelled], kind="stable")][:number]
    return [
        Pick(int(subject), f"its segmentation is uncertain: an entropy of {pool.entropy[subject]:.2f} per voxel of its "
             f"structures, where {usual:.2f} is the median", float(pool.entropy[subject]))
        for subject in order
    ]  # fmt: skip
