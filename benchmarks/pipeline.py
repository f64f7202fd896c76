"""(a) Pre-training throughput of the whole pipeline over the bare model step on a resident random batch.

The bare step is forward, backward and optimiser step of the same network, head and loss on 2N images that are there
already. The whole pipeline draws batches and views, watches for collapse and writes its log as well.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch

from lemis import phantom
from lemis.backbones import unet2d
from lemis.contracts import Batch, Draw, Outcome, View
from lemis.datasets.index import save
from lemis.datasets.scan_facts import scan_folder
from lemis.methods import pcl
from lemis.preparation.settings import Settings
from lemis.preparation.store import open_store
from lemis.runs.run import Run
from lemis.sampling.samples import Slices
from lemis.training import launch, loop, schedule
from lemis.verbs.prepare import prepare

TITLE = "(a) whole pre-training pipeline over the bare model step, PCL, slices per second"
ROUNDS = 5
STEPS = 10
SIZES = ((16, 96), (32, 128))  # base width, pixels


def rows() -> list[dict[str, object]]:
    """One row a network size: medians and spread over interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        work = _prepared(Path(folder))
        return [_row(work, width, size) for width, size in SIZES]


def _row(work: Path, width: int, size: int) -> dict[str, object]:
    bare, whole = [], []
    _bare(work, width, size)  # not counted: the first steps pay for memory and for choosing kernels
    for number in range(ROUNDS):
        bare.append(_bare(work, width, size))
        whole.append(_whole(work, width, size, f"w{width}-{number}"))
    ratios = [w / b for w, b in zip(whole, bare, strict=True)]
    return {
        "base width": width, "pixels": f"{size} x {size}", "bare step": f"{statistics.median(bare):.1f}",
        "whole pipeline": f"{statistics.median(whole):.1f}", "ratio": f"{statistics.median(ratios):.2f}",
        "ratios of the rounds": ", ".join(f"{r:.2f}" for r in sorted(ratios)),
    }  # fmt: skip


def _prepared(folder: Path) -> Path:
    phantom.write_dataset(folder / "scans", subjects=40, labelled=2)
    save(scan_folder(folder / "scans"), folder / "work" / "index.json")
    prepare(folder / "work", settings=Settings())
    return folder / "work"


def _method(width: int, size: int) -> pcl.Method:
    torch.manual_seed(0)
    network = unet2d.Backbone(unet2d.Settings(base_width=width), in_channels=1, num_classes=4)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(network.part_of(name) == "encoder")
    return pcl.Method(network, pcl.Settings(size_px=size))


def _schedule() -> schedule.Settings:
    return schedule.Settings(steps=STEPS, learning_rate=0.01)


def _whole(work: Path, width: int, size: int, name: str) -> float:
    store = open_store(work / "prepared")
    fabric = launch.launch(_schedule(), "auto")
    method = _method(width, size)
    slices = Slices(store, range(len(store.scans)), fabric.device)
    run = Run(work / "runs" / name, {})
    run.log(0, {})  # TensorBoard's import is no part of the rate
    begin = time.perf_counter()
    loop.train(method, slices, method.sampling, _schedule(), run, fabric, seed=0)
    return STEPS * method.sampling.batch_size / (time.perf_counter() - begin)


class _SameViews:
    """Two views that are there already."""

    def __init__(self, size: int, rows: int, device: torch.device) -> None:
        one, two = (View(torch.randn(rows, 1, size, size, device=device), None) for _ in range(2))  # type: ignore[arg-type]
        self.pair = {"first": one, "second": two}

    def __call__(self, _batch: Batch, _rng: Draw) -> dict[str, View]:
        return self.pair


def _bare(work: Path, width: int, size: int) -> float:
    store = open_store(work / "prepared")
    fabric = launch.launch(_schedule(), "auto")
    method = _method(width, size)
    method.views = _SameViews(size, 32, fabric.device)  # type: ignore[assignment]
    batch = next(Slices(store, range(len(store.scans)), fabric.device).stream([torch.arange(32).numpy()]))
    model, optimiser = fabric.setup(
        method.to(memory_format=torch.channels_last),
        torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9),
    )
    begin = time.perf_counter()
    for _ in range(STEPS):
        outcome: Outcome = model(batch, None)
        fabric.backward(torch.stack(list(outcome.losses.values())).sum())
        optimiser.step()
        optimiser.zero_grad()
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return STEPS * 32 / (time.perf_counter() - begin)
