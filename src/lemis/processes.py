"""Tensors of all processes, with gradients: what a contrastive loss sees when one batch is spread over many GPUs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as collective


def count() -> int:
    """Number of processes that train together; 1 where nothing was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 in a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in process order, ``(B, ...) -> (count * B, ...)``; gradients flow back to each owner.

    Every process computes the same loss from the gathered rows. The backward pass then sums ``count`` equal
    gradients, which DDP's averaging divides by ``count``: the gradient of one process that holds the whole batch.
    """
    if count() == 1:
        return x
    if x.requires_grad:
        gathered = torch.cat(collective.all_gather(x.contiguous()))
        # The backward collective copies memory as it lies, so a transposed gradient would arrive scrambled.
        gathered.register_hook(Tensor.contiguous)
        return gathered
    rows = [torch.empty_like(x) for _ in range(count())]
    dist.all_gather(rows, x.contiguous())
    return torch.cat(rows)


def total(x: Tensor) -> Tensor:
    """Sum over processes, with gradient."""
    return collective.all_reduce(x) if count() > 1 else x
