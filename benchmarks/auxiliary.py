"""(h) What the auxiliary losses cost: a fine-tuning step of a 3D U-Net with Dice, and with each of them beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.fresh import alive
from lemis.auxiliary import supervised_contrast, voxel_siamese
from lemis.backbones import unet3d
from lemis.layers.basic import unit
from lemis.parts.overlap import soft_dice_loss
from lemis.sampling.draw import Rows

PATCHES, SHAPE, WIDTH = 2, (64, 96, 96), 16  # 147,456 cells in the finest layer used
ORGANS = (0.06, 0.03, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005)  # shares of the volume
TITLE = (
    f"(h) a fine-tuning step of a 3D U-Net of width {WIDTH}, {PATCHES} patches of {' x '.join(map(str, SHAPE))}, "
    "8 organs, 3 layers, float32: time over Dice alone"
)
ROUNDS = 5
ALL = 10**9

Step = Callable[[], tuple[float, int]]


def rows() -> list[dict[str, object]]:
    """One row a loss: medians of steps that alternate with those of Dice alone."""
    network, image, label = _prepared()
    dice = _step(network, image, label, None)
    dice()
    alone = [dice()[0] for _ in range(ROUNDS)]
    table: list[dict[str, object]] = [_row("Dice", 0, alone, [1.0], _peak(dice))]
    for name, step in _steps(network, image, label).items():
        count = step()[1]
        pairs = [(step()[0], dice()[0]) for _ in range(ROUNDS)]
        ratios = [own / plain for own, plain in pairs]
        table.append(_row(name, count, [own for own, _ in pairs], ratios, _peak(step)))
    return table


def _row(name: str, count: int, seconds: list[float], ratios: list[float], peak: float) -> dict[str, object]:
    return {
        "loss": name, "voxels compared": f"{count:,}" if count else "",
        "seconds a step": f"{statistics.median(seconds):.2f}",
        "over Dice alone": f"{statistics.median(ratios):.3f}",
        "lowest to highest": f"{min(ratios):.3f} to {max(ratios):.3f}",
        "peak memory of tensors": f"{peak / 2**20:,.0f} MiB",
    }  # fmt: skip


def _steps(network: unet3d.Backbone, image: Tensor, label: Tensor) -> dict[str, Step]:
    # An untrained network misses nearly all, so false negatives are not limited: then 1,700 are taken.
    few, every = {"voxels": 1700, "false_negatives": 1700}, {"voxels": ALL, "false_negatives": ALL}

    def siamese(given: dict[str, int], compare: Callable[..., Any]) -> Step:
        settings = voxel_siamese.Settings(**given)
        loss = voxel_siamese.Auxiliary(network, settings, num_classes=len(ORGANS) + 1)
        plain = _step(network, image, label, loss)

        def step() -> tuple[float, int]:
            with patch.object(voxel_siamese, "compare", compare):
                return plain()

        return step

    scl = supervised_contrast.Auxiliary(network, supervised_contrast.Settings(**few), num_classes=len(ORGANS) + 1)
    means = voxel_siamese.compare
    return {
        "+ voxel Siamese": siamese(few, means),
        "+ voxel Siamese, double sum": siamese(few, double_sum),
        "+ voxel Siamese, all voxels": siamese(every, means),
        "+ voxel Siamese, all voxels, double sum": siamese(every, double_sum),
        "+ SCL": _step(network, image, label, scl),
    }


def double_sum(p: Tensor, z: Tensor, label: Tensor, num_classes: int, **_: bool) -> voxel_siamese.Sets:
    """(4) as printed: the mean of all pairs of a class, from their matrix."""
    p, z = unit(p), unit(z.detach())
    classes = range(num_classes)
    size = torch.stack([(label == c).sum() for c in classes]).to(p.dtype)
    sums = [-(p[label == c] @ z[label == c].T).sum() for c in classes]
    mean_p = torch.stack([p[label == c].detach().sum(0) for c in classes]) / size.clamp(min=1)[:, None]
    return voxel_siamese.Sets(torch.stack(sums) / size.square().clamp(min=1), size > 0, size, mean_p)


def _step(network: unet3d.Backbone, image: Tensor, label: Tensor, loss: Any) -> Step:
    modules = [network] if loss is None else [network, loss]
    optimiser = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=0.0)
    compared = [0]
    for g in () if loss is None else loss.project:
        g.register_forward_pre_hook(lambda _, x: compared.append(len(x[0])))

    def step() -> tuple[float, int]:
        compared.clear()
        begin = time.perf_counter()
        maps = network.encode(image)
        logits = network.head(network.decode(maps))
        total = soft_dice_loss(logits, label)
        if loss is not None:
            total = total + sum(loss(maps, label, logits, Rows(0, 0, "cpu")).losses.values())
        total.backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - begin, sum(compared)

    return step


def _peak(step: Step) -> float:
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    return alive(profile)[1]


def _prepared() -> tuple[unet3d.Backbone, Tensor, Tensor]:
    torch.manual_seed(0)
    network = unet3d.Backbone(unet3d.Settings(base_width=WIDTH), in_channels=1, num_classes=len(ORGANS) + 1)
    coarse = torch.randn(PATCHES, 1, *(side // 16 for side in SHAPE))
    field = F.interpolate(coarse, SHAPE, mode="trilinear")[:, 0]
    # Organs are shells of a smooth field, the largest inside.
    limits = torch.tensor(ORGANS).cumsum(0)
    order = field.flatten().argsort(descending=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view(field.shape) / len(order)
    label = torch.bucketize(rank, limits, right=True)  # 0..7 inside, 8 beyond the last limit
    label = torch.where(label == len(ORGANS), 0, label + 1)
    return network, field[:, None] + torch.randn(PATCHES, 1, *SHAPE), label
