"""(g) What each method costs on top of its encoder: a step over the bare forward and backward of as many images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemis import plugins
from lemis.contracts import Backbone, Batch
from lemis.sampling.draw import Rows
from lemis.training import run_settings

TITLE = "(g) a pre-training step of 32 slices, `small` preset, bf16: time over the bare encoder with as many images"
ROUNDS = 5
SLICES, SIDE, KEYPOINTS = 32, 128, 118  # the median of ACDC at 2 mm


def rows() -> list[dict[str, object]]:
    """One row a method: medians of steps that alternate with bare ones; SimCLR is that of the same size of view."""
    table, simclr = [], {}
    for name in ("simclr", *(name for name in plugins.names("methods") if name != "simclr")):
        size, step, bare, images, without = _prepared(name)
        if size not in simclr:
            simclr[size] = _median_of(_prepared("simclr", size)[1])
        step(), bare()
        pairs = [(_timed(step), _timed(bare)) for _ in range(ROUNDS)]
        seconds = statistics.median(own for own, _ in pairs)
        ratios = [own / plain for own, plain in pairs]
        table.append(
            {
                "method": name, "view": f"{size} px",
                "images with gradient": f"{images:.0f}", "without": f"{without:.0f}",
                "seconds a step": f"{seconds:.2f}", "over the bare encoder": f"{statistics.median(ratios):.2f}",
                "lowest to highest": f"{min(ratios):.2f} to {max(ratios):.2f}",
                "over simclr": f"{seconds / simclr[size]:.2f}",
            }
        )  # fmt: skip
    return table


def _median_of(step: Callable[[], None]) -> float:
    step()
    return statistics.median(_timed(step) for _ in range(ROUNDS))


def _timed(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _prepared(name: str, size: int | None = None) -> tuple[int, Callable[[], None], Callable[[], None], float, float]:
    """The side of a view, a step, the bare encoder's, and how many views a step encodes with gradient and without."""
    given = {"batch_size": SLICES} | ({} if size is None else {"size_px": size})
    settings = run_settings.pretraining(name, None, run_settings.base("small", None), {"method": given})
    torch.manual_seed(0)
    module = plugins.load("backbones", settings.backbone)
    network = module.Backbone(settings.backbone_settings, in_channels=1, num_classes=4)
    method = settings.method_module.Method(network, settings.method_settings).to(memory_format=torch.channels_last)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(key) in method.trains)
    batch = _batch(settings.method_settings.batch_size)._replace(neighbour=_batch(settings.method_settings.batch_size))
    size = settings.method_settings.size_px
    seen = {True: 0.0, False: 0.0}
    with _Counted(module.Backbone, seen, size):
        _step(method, lambda: method(batch, Rows(0, 0, "cpu")).losses.values())
    count = max(1, round(seen[True]))
    images = torch.randn(count, 1, size, size).to(memory_format=torch.channels_last)
    return (
        size,
        lambda: _step(method, lambda: method(batch, Rows(0, 1, "cpu")).losses.values()),
        lambda: _step(network, lambda: [_encoded(network, images)[-1].float().square().mean()]),
        seen[True],
        seen[False],
    )


def _encoded(network: Backbone, images: Tensor) -> list[Tensor]:
    places = torch.rand(len(images), KEYPOINTS, 2) * images.shape[-1]
    return network.encode(images, places) if hasattr(network, "find") else network.encode(images)


def _step(module: torch.nn.Module, losses: Callable[[], Any]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = list(losses())
    torch.stack(terms).sum().backward()
    module.zero_grad()


def _batch(rows: int) -> Batch:
    rng = torch.Generator().manual_seed(0)
    numbers = torch.arange(rows)
    return Batch(
        image=torch.randn(rows, 1, SIDE, SIDE, generator=rng), index=numbers, scan=numbers // 4, subject=numbers // 4,
        position=(numbers % 4 + 1) / 4, spacing_mm=torch.full((rows, 2), 2.0),
        keypoints=(torch.rand(rows, KEYPOINTS, 2, generator=rng) * SIDE).floor(),
        descriptors=torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, KEYPOINTS, 128))).float(),
    )  # fmt: skip


class _Counted:
    """Counts the images that any copy of a network encodes, in units of one image of full size."""

    def __init__(self, kind: type, seen: dict[bool, float], size: int) -> None:
        self.kind, self.seen, self.size = kind, seen, size
        self.name = "encode_keypoints" if hasattr(kind, "encode_keypoints") else "encode"

    def __enter__(self) -> None:
        self.plain = getattr(self.kind, self.name)

        def counted(network: Backbone, x: Tensor, *others: Any) -> Any:
            learns = torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters())
            self.seen[learns] += x.shape[0] * x.shape[2] * x.shape[3] / self.size**2
            return self.plain(network, x, *others)

        setattr(self.kind, self.name, counted)

    def __exit__(self, *error: object) -> None:
        setattr(self.kind, self.name, self.plain)
