"""Keys of past batches as negatives, and the contrast of one positive with them: MoCo and what is built on it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lemis import processes
from lemis.layers.basic import precise, unit


@final
class Queue(nn.Module):
    """The last ``length`` keys of all processes, the oldest replaced first; random directions until it is full.

    It is part of the method's state, so a resumed run has the same keys. Every process holds all of them.

    Args:
        length: Number of keys; need not be a multiple of the batch.
        features: D, of each key.
    """

    keys: Tensor  # (length, D), unit vectors
    owner: Tensor  # (length,) int64, the slice that a key is of; -1 while it is a random direction
    place: Tensor  # () int64, where the next key goes

    def __init__(self, length: int, features: int) -> None:
        super().__init__()
        self.register_buffer("keys", unit(torch.randn(length, features)))
        self.register_buffer("owner", torch.full((length,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, keys: Tensor, owner: Tensor) -> None:
        """Replace the oldest keys by those of this step, of all processes.

        Args:
            keys: (N, D) of this process, of any length.
            owner: (N,) int64, which slice each is of.
        """
        keys, owner = processes.gather(unit(keys)), processes.gather(owner)
        length = len(self.keys)
        where = (self.place + torch.arange(len(keys), device=keys.device)) % length
        last = slice(-length, None)  # of more keys than there is room for, the last ones stay
        self.keys[where[last]] = keys[last].to(self.keys.dtype)
        self.owner[where[last]] = owner[last]
        self.place.copy_((self.place + len(keys)) % length)

    def of_others(self, owner: Tensor) -> Tensor:
        """(N,) -> (N, length) bool: the keys that are not of the same slice, and so are negatives of it."""
        return owner[:, None] != self.owner[None]


def contrast_with_queue(
    query: Tensor, key: Tensor, negatives: Tensor, temperature: float, allowed: Tensor | None = None
) -> Tensor:
    """Mean over queries of -log [ exp(q k / tau) / (exp(q k / tau) + sum_n exp(q n / tau)) ], in float32.

    Args:
        query: (..., D), not normalised.
        key: (..., D), the positive of each query, not normalised.
        negatives: (K, D) unit vectors; a copy of them is kept, so they may be replaced before the backward pass.
        temperature: tau.
        allowed: (..., K) bool, or what broadcasts to it: which negatives count for a query; None is all of them.

    Returns:
        Scalar; log(K + 1) when the queries are orthogonal to all keys, or all keys are equal.
    """
    query, key, negatives = unit(query, -1), unit(key, -1), precise(negatives).clone()
    with torch.autocast(query.device.type, enabled=False):
        positive = (query * key).sum(-1, keepdim=True) / temperature
        negative = query @ negatives.T / temperature
    if allowed is not None:
        negative = negative.masked_fill(~allowed, -torch.inf)
    every = torch.cat([positive, negative], -1)
    return (every.logsumexp(-1) - positive[..., 0]).mean()


def contrast_then_add(query: Tensor, key: Tensor, owner: Tensor, queue: Queue, temperature: float) -> Tensor:
    """``contrast_with_queue`` with the queue's keys of other slices as negatives; the queue then takes the keys.

    Args:
        query: (N, D), not normalised.
        key: (N, D), the positive of each query, not normalised.
        owner: (N,) int64, which slice each is of.
        queue: Of any length.
        temperature: tau.
    """
    loss = contrast_with_queue(query, key, queue.keys, temperature, queue.of_others(owner))
    queue.add(key, owner)
    return loss
