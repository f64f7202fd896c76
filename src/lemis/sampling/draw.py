"""Random numbers of one training step: the same for any device and any number of processes."""

from __future__ import annotations

import hashlib
from typing import final

import torch
from torch import Tensor


@final
class Rows:
    """The rows of one process, of draws that are a function of (seed, step) alone (``contracts.Draw``).

    Numbers are made on the CPU, for the rows of all processes, and this process keeps its contiguous share:
    a run gives the same views on one GPU, on four, and on none.

    Args:
        seed: Of the run; any integer.
        step: Of the run; any integer.
        device: Where the numbers go.
        rank: Which process this is, counted from 0.
        world: How many processes there are; all of them ask for the same numbers of rows in the same order.
    """

    def __init__(self, seed: int, step: int, device: torch.device | str, rank: int = 0, world: int = 1) -> None:
        self._rank, self._world, self._device = rank, world, torch.device(device)
        self._generator = torch.Generator().manual_seed(_mix(seed, step))

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape) float32 in [low, high) on the device."""
        numbers = torch.rand(rows * self._world, *shape, generator=self._generator)
        return self._mine(numbers.mul_(high - low).add_(low), rows)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """(rows, *shape) float32, mean 0, standard deviation 1, on the device."""
        return self._mine(torch.randn(rows * self._world, *shape, generator=self._generator), rows)

    def _mine(self, numbers: Tensor, rows: int) -> Tensor:
        return numbers[self._rank * rows : (self._rank + 1) * rows].to(self._device, non_blocking=True)


def _mix(seed: int, step: int) -> int:
    # Neighbouring seeds and steps must not meet: PyTorch's generator keeps the low 32 bits only.
    digest = hashlib.blake2b(f"{seed},{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
