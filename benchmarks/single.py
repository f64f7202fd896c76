"""(j) One image without labels: S3-Net as released, by a plain loop over PyTorch networks, by ours one by one, and by
ours side by side; images a minute at a fixed number of iterations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemis.single import s3net

IMAGES, SIDE, ITERATIONS = 4, 128, 4
TITLE = (
    f"(j) S3-Net on {IMAGES} images of {SIDE} x {SIDE} px, {ITERATIONS} iterations each: images a minute "
    "(as released, but for the last rows)"
)
ROUNDS = 3
SETTINGS = dataclasses.replace(s3net.RELEASED, max_iterations=ITERATIONS, stop_labels=0, restarts=0)


def rows() -> list[dict[str, object]]:
    """Best of rounds that alternate; agreement with the plain loop, whose networks start from the same weights."""
    images = F.interpolate(torch.rand(IMAGES, 3, 16, 16), (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    seeds = list(range(IMAGES))
    paper, small = (
        dataclasses.replace(how, max_iterations=ITERATIONS, stop_labels=0, restarts=0)
        for how in (s3net.Settings(), s3net.SMALL)
    )
    ways: dict[str, Callable[[], Tensor]] = {
        "plain loop over PyTorch networks": lambda: torch.cat([_plain(x[None], i) for i, x in enumerate(images)]),
        "Lemis, one by one": lambda: torch.cat([s3net.segment(images[i : i + 1], SETTINGS, [i]).labels for i in seeds]),
        "Lemis, side by side": lambda: s3net.segment(images, SETTINGS, seeds).labels,
        "Lemis, side by side, preset paper": lambda: s3net.segment(images, paper, seeds).labels,
        "Lemis, side by side, preset small (three starts)": lambda: s3net.segment(images, small, seeds).labels,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    labels = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.perf_counter()
            labels[name] = way()
            seconds[name].append(time.perf_counter() - begin)
    plain = next(iter(ways))
    return [
        {
            "way": name,
            "images a minute": f"{60 * IMAGES / min(seconds[name]):.1f}",
            "times the plain loop": f"{min(seconds[plain]) / min(seconds[name]):.2f}",
            "pixels labelled as by the plain loop": ""
            if "preset" in name
            else f"{(labels[name] == labels[plain]).double().mean():.1%}",
        }
        for name in ways
    ]


def _plain(image: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    network = Plain(3, SETTINGS.clusters, image.shape[2:])
    rule = torch.optim.SGD(network.parameters(), lr=SETTINGS.learning_rate, momentum=SETTINGS.momentum)
    for _ in range(ITERATIONS):
        scores, auxiliary = network(image)
        target = scores.argmax(1)
        turned = torch.rot90(auxiliary, 1, (2, 3)), torch.rot90(target, 1, (1, 2))
        loss = SETTINGS.weight_cross_entropy * F.cross_entropy(scores, target)
        loss = loss + SETTINGS.weight_affine * F.cross_entropy(*turned)
        rule.zero_grad()
        loss.backward()
        rule.step()
    with torch.no_grad():
        labels: Tensor = network(image)[0].argmax(1)
    return labels


class Plain(nn.Module):
    """S3-Net of one image, in PyTorch's layers, as one writes it down."""

    def __init__(self, channels: int, k: int, shape: torch.Size) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, k, 3, padding=1), nn.BatchNorm2d(k))
        self.blocks = nn.Sequential(*[PlainBlock(k) for _ in range(SETTINGS.blocks)])
        self.auxiliary = nn.Sequential(nn.Conv2d(k, k, 1), nn.BatchNorm2d(k))
        self.offset, self.mask = nn.Parameter(torch.rand(18, *shape)), nn.Parameter(torch.rand(9, *shape))
        self.weight = nn.Parameter(torch.rand(k, k, 3, 3))
        self.main = nn.Sequential(nn.BatchNorm2d(k), nn.Conv2d(k, k, 1), nn.BatchNorm2d(k))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C, H, W) -> scores of the main and of the auxiliary head."""
        x = self.blocks(self.stem(image))
        return self.main(self._deform(x)), self.auxiliary(x)

    def _deform(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        pixels = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
        size, read = torch.tensor([height, width]), []
        for tap in range(9):
            at = pixels + torch.tensor([tap // 3 - 1, tap % 3 - 1]) + self.offset[2 * tap : 2 * tap + 2].movedim(0, -1)
            grid = ((2 * at + 1) / size - 1).flip(-1)
            read.append(F.grid_sample(x, grid[None], align_corners=False) * self.mask[tap])
        return torch.einsum("oct,nchwt->nohw", self.weight.flatten(2), torch.stack(read, -1))


class PlainBlock(nn.Module):
    """x -> BatchNorm(x + Conv1x1(I-LKA(GELU(Conv1x1(x)))))."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.first, self.near = nn.Conv2d(k, k, 1), nn.Conv2d(k, k, 5, padding=2, groups=k)
        self.branches = nn.ModuleList(
            [nn.Conv2d(k, k, size, padding=size // 2 * d, dilation=d, groups=k) for size, d in SETTINGS.branches]
        )
        self.mix, self.last = nn.Conv2d(k * len(self.branches), k, 1), nn.Conv2d(k, k, 1)
        self.norm = nn.BatchNorm2d(k)

    def forward(self, x: Tensor) -> Tensor:
        """(1, K, H, W) -> the same shape."""
        u = F.gelu(self.first(x))
        a = self.near(u)
        out: Tensor = self.norm(x + self.last(u * self.mix(torch.cat([branch(a) for branch in self.branches], 1))))
        return out
