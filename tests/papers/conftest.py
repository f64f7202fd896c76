"""What the tests of the papers share: smooth slices, a small U-Net, and an encoder that can be told what to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lemis import contracts
from lemis.backbones import unet2d, unet3d
from lemis.contracts import Batch, Outcome
from lemis.sampling.draw import Rows

Maker = Callable[..., Any]


@pytest.fixture
def make_batch() -> Maker:
    """Slices of scans: ``make_batch({0: [0, 3], 1: [2]}, of={0: 9, 1: 7})``, a scan's slice numbers and slice count."""

    def make(
        chosen: dict[int, list[int]], *, of: dict[int, int], side: int = 72, blobs: int = 8, alike: bool = False
    ) -> Batch:
        scan = torch.tensor([s for s, numbers in chosen.items() for _ in numbers])
        number = torch.tensor([k for numbers in chosen.values() for k in numbers])
        count = torch.tensor([of[int(s)] for s in scan])
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(len(scan), 1, blobs, blobs, generator=generator)
        if alike:
            coarse = coarse[scan]  # every slice of a scan shows the same
        image = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
        return Batch(
            image=image, index=scan * 100 + number, scan=scan, subject=scan, position=(number + 1) / count,
            spacing_mm=torch.ones(len(scan), 2),
        )  # fmt: skip

    return make


@pytest.fixture
def make_unet() -> Maker:
    def make(base_width: int = 4) -> unet2d.Backbone:
        torch.manual_seed(0)
        return unet2d.Backbone(unet2d.Settings(base_width=base_width), in_channels=1, num_classes=2)

    return make


@pytest.fixture
def make_volumes() -> Maker:
    """Regions of as many scans, at evenly spaced heights, the highest last: ``make_volumes(4, (12, 24, 24))``."""

    def make(count: int, shape: tuple[int, int, int] = (16, 24, 24)) -> Batch:
        numbers = torch.arange(count)
        coarse = torch.randn(count, 1, *(n // 4 for n in shape), generator=torch.Generator().manual_seed(0))
        return Batch(
            image=F.interpolate(coarse, shape, mode="trilinear"), index=numbers + 100, scan=numbers, subject=numbers,
            position=(numbers + 1) / count, spacing_mm=torch.ones(count, 3),
        )  # fmt: skip

    return make


@pytest.fixture
def make_unet3d() -> Maker:
    def make(base_width: int = 4, levels: int = 3) -> unet3d.Backbone:
        torch.manual_seed(0)
        return unet3d.Backbone(unet3d.Settings(base_width=base_width, levels=levels), in_channels=1, num_classes=2)

    return make


class Told(contracts.Backbone):
    """An encoder whose every map is ``say(image, stride)``, and nothing to decode."""

    def __init__(self, say: Callable[[Tensor, int], Tensor], channels: int) -> None:
        super().__init__()
        self.say = say
        self.dims, self.strides = 2, (1, 2, 4, 8, 16)
        self.channels = (channels,) * 5
        self.decoder_channels, self.decoder_strides = (), ()

    def encode(self, x: Tensor) -> list[Tensor]:
        return [self.say(x, stride) for stride in self.strides]

    def decode(self, maps: Sequence[Tensor], depth: int | None = None) -> Tensor:
        return maps[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)[0]

    def part_of(self, parameter_name: str) -> str:
        return "encoder"


@pytest.fixture
def told() -> Maker:
    return Told


class Says(nn.Module):
    """A head that answers ``z``, whatever it is asked, and remembers the question."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(z.clone())
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach())
        return self.z


@pytest.fixture
def says() -> Maker:
    return Says


@pytest.fixture
def train(make_batch: Maker) -> Maker:
    """Some steps of SGD on smooth slices, 16 of 64 a step, as the loop does them.

    The last outcome, its losses those of the last ten steps in the mean: one batch is easier than the next.
    """

    def run(method: contracts.Method, steps: int = 50, learning_rate: float = 0.02, *, first: int = 0) -> Outcome:
        slices = make_batch({0: list(range(64))}, of={0: 64}, side=40)
        optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=learning_rate, momentum=0.9)
        seen: list[dict[str, Tensor]] = []
        for step in range(first, steps):
            chosen = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
            batch = Batch(*(None if values is None else values[chosen] for values in slices))
            outcome: Outcome = method(batch, Rows(0, step, "cpu"))
            optimiser.zero_grad()
            torch.stack(list(outcome.losses.values())).sum().backward()
            optimiser.step()
            method.after_step((step + 1) / steps)
            seen.append({name: loss.detach() for name, loss in outcome.losses.items()})
        last = seen[-10:]
        return outcome._replace(losses={name: sum(one[name] for one in last) / len(last) for name in outcome.losses})

    return run
