"""Layers that several networks share."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lemis import processes


@final
class BatchNorm(_BatchNorm):
    """Batch normalisation over the whole batch, whatever the number of processes and of spatial dimensions.

    Same parameters, buffers and values as ``torch.nn.BatchNorm2d`` / ``3d``. In training under several processes
    the mean and variance are taken over the rows of all of them, on CPU as on GPU
    (``torch.nn.SyncBatchNorm`` refuses CPU tensors), so that two processes equal one. Rows may also be keypoints,
    of which a batch may hold one or none.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        if processes.count() == 1:
            return super().forward(input) if input.numel() >= 2 * self.num_features else self._as_learned(input)
        x = precise(input)
        axes = [0, *range(2, x.dim())]
        here = x.new_tensor([x.numel() / x.shape[1]])  # processes may hold different numbers of keypoints
        value, count = processes.total(torch.cat([x.sum(axes), here])).split([x.shape[1], 1])
        if count < 2:
            return self._as_learned(input)
        mean = value / count
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = x - mean.view(shape)
        variance = processes.total(centred.square().sum(axes)) / count
        self._update_running(mean.detach(), variance.detach() * count.detach() / (count.detach() - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normed: Tensor = (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)
        return normed

    def _as_learned(self, input: Tensor) -> Tensor:
        """One value a channel, or none, has no variance: the running statistics stand in, as in evaluation."""
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def kaiming(module: nn.Module, negative_slope: float) -> None:
    """Kaiming-normal weights and zero biases for every convolution below ``module``; other layers keep their own."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, a=negative_slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def pool(x: Tensor) -> Tensor:
    """Global average over every axis after the channels: (B, C, *space) -> (B, C), in 2D and 3D alike."""
    return x.flatten(2).mean(2)


def precise(x: Tensor) -> Tensor:
    """At least float32: half precision is raised to it, float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """Vectors of length 1 along ``dim``, at least float32; a zero vector stays zero."""
    return F.normalize(precise(x), dim=dim, eps=1e-12)


def centre(x: Tensor, *, scale: bool, eps: float = 1e-5) -> Tensor:
    """(B, C, *space) minus its mean over the batch of all processes and space; ``scale`` also divides by the deviation.

    What batch normalisation does in training, without parameters or running statistics: for heads that are thrown
    away. After it, giving every location one and the same vector is no longer an answer.
    """
    x = precise(x)
    axes = [0, *range(2, x.dim())]
    count = x.numel() / x.shape[1] * processes.count()
    x = x - processes.total(x.sum(axes, keepdim=True)) / count
    if scale:
        x = x * torch.rsqrt(processes.total(x.square().sum(axes, keepdim=True)) / count + eps)
    return x
