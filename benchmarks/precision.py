"""(r) Precision and memory layout of a 2D U-Net on this processor, and which of them training takes by itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lemis.backbones import unet2d
from lemis.runs.device import has_bfloat16
from lemis.training.loop import channels_last

WIDTH, SLICES, SIZE_PX, ROUNDS = 16, 10, 96, 7  # `small`
TITLE = (
    f"(r) forward and back through a 2D U-Net of width {WIDTH}, {SLICES} slices of {SIZE_PX} x {SIZE_PX}: time over "
    "float32 with the channels last"
)
PLAIN = "float32, channels last"


def rows() -> list[dict[str, object]]:
    """One row a way: medians of processor time, of rounds in which all ways take turns."""
    torch.manual_seed(0)
    image = torch.randn(SLICES, 1, SIZE_PX, SIZE_PX)
    steps = {
        PLAIN: _step(image, last=True, bfloat16=False),
        "float32, channels first": _step(image, last=False, bfloat16=False),
        "bfloat16, channels last": _step(image, last=True, bfloat16=True),
    }
    rounds = [{name: step() for name, step in steps.items()} for _ in range(1 + ROUNDS)][1:]  # the first warms up
    taken = "bfloat16, channels last" if has_bfloat16("cpu") else PLAIN
    return [_row(name, rounds, taken) for name in steps]


def _step(image: Tensor, *, last: bool, bfloat16: bool) -> Callable[[], float]:
    network = unet2d.Backbone(unet2d.Settings(base_width=WIDTH), in_channels=1, num_classes=4)
    if last:
        channels_last(network)

    def step() -> float:
        begin = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(image)
        logits.float().square().mean().backward()
        return time.process_time() - begin

    return step


def _row(name: str, rounds: list[dict[str, float]], taken: str) -> dict[str, object]:
    ratios = [times[name] / times[PLAIN] for times in rounds]
    return {
        "way": name, "ms": f"{1000 * statistics.median(times[name] for times in rounds):.0f}",
        "over the first": f"{statistics.median(ratios):.2f}",
        "lowest to highest": f"{min(ratios):.2f} to {max(ratios):.2f}",
        "training takes": "this" if name == taken else "",
    }  # fmt: skip
