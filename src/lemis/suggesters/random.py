"""Random: each unlabelled subject is as likely as any other. The matched baseline of every other way.

"Random sampling has proven an extremely difficult baseline to outperform": M. Gaillochet, C. Desrosiers, H. Lombaert,
Active learning for medical image segmentation with stochastic batches, Medical Image Analysis 2023,
https://arxiv.org/abs/2301.07670. Scores on subjects that were drawn hold for those that were not; of subjects that
were chosen in another way nobody knows that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemis.contracts import Pick, Pool

NESTED = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """There is nothing to set."""


def suggest(pool: Pool, number: int, settings: Settings, seed: int) -> list[Pick]:
    """The first of all unlabelled subjects in a random order."""
    del settings
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~pool.labelled))
    return [
        Pick(int(subject), f"drawn at random from {len(order)} unlabelled subjects", 1 / len(order))
        for subject in order[:number]
    ]
