"""``LEMIS_TEST_SEED=1``: other random numbers for every test, so that what holds by the luck of a seed shows.

Imported by ``conftest.py``, and by tests that compute in processes of their own.
"""

from __future__ import annotations

import os
from typing import Any

SHIFT = int(os.environ.get("LEMIS_TEST_SEED", "0"))
_STEP = 7919  # farther apart than the seeds that tests count through


def _shift(by: int) -> None:
    """From now on every seed that PyTorch and NumPy are given stands for another one; equal seeds stay equal."""
    import numpy as np
    import torch

    seed_all, make_rng = torch.manual_seed, np.random.default_rng

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + _STEP * by)

    def manual_seed(seed: int) -> torch.Generator:
        return seed_all(int(seed) + _STEP * by)

    def default_rng(seed: Any = None) -> np.random.Generator:
        return make_rng([*np.atleast_1d(seed), by] if isinstance(seed, (int, list, tuple)) else seed)

    torch.manual_seed, torch.Generator, np.random.default_rng = manual_seed, Generator, default_rng  # type: ignore


if SHIFT:
    _shift(SHIFT)
