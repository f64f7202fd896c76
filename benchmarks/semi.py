"""(n) What unlabelled scans cost: a fine-tuning step of each way to use them, over one on labels alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lemis import plugins
from lemis.contracts import Batch, Trained
from lemis.sampling.draw import Rows
from lemis.training import build, launch, loop, run_settings, schedule
from lemis.training.beside import LABELS_ALONE

BACKBONE, SIDE = "unet2d", 128  # slices of ACDC at 2 mm are about so large
STORE = build.Foreseen(("MR",), 4)
ROUNDS = 9
FIRST_STEPS = 20  # not timed: then label maps have few parts, and pixels that a network is sure of, as in training
LATE = 0.6  # share of training, at which all that a way does has begun
SETTINGS = run_settings.finetuning(BACKBONE, run_settings.base("small", None), (), semi=LABELS_ALONE)
SLICES, VIEW_PX = SETTINGS.objective.batch_size, SETTINGS.objective.size_px
PRECISION = launch.precision(SETTINGS.schedule, "cpu")  # as training has it here: bf16 is slow where it is emulated
TITLE = (
    f"(n) a fine-tuning step of {SLICES} labelled slices and as many without labels, views of {VIEW_PX} px, "
    f"`small` preset, {PRECISION}: time over a step on labels alone"
)


class Case(NamedTuple):
    """What is timed."""

    name: str
    semi: str | None
    progress: float = LATE
    average: float = 0.0  # decay of averaged weights


# Before any of these was written, of passes through the network alone: both directions with 10, 20 and 30 slices, and
# forward with 10.
ESTIMATED = {
    "averaged weights": 1.02,
    "bcp": 1.35,
    "bcp, stage 1": 1.0,
    "fixmatch": 2.45,
    "mean_teacher": 2.5,
    "cps": 4.3,
}

Step = Callable[[], float]


def rows() -> list[dict[str, object]]:
    """One row a way: medians of steps that alternate with those on labels alone."""
    plain = _step(Case("labels alone", None))
    table: list[dict[str, object]] = []
    for case in _cases():
        step = _step(case)
        pairs = [(step(), plain()) for _ in range(ROUNDS)]
        ratios = [own / alone for own, alone in pairs]
        table.append(
            {
                "way": case.name,
                "ms a step": f"{1000 * statistics.median(own for own, _ in pairs):.0f}",
                "over labels alone": f"{statistics.median(ratios):.2f}",
                "lowest to highest": f"{min(ratios):.2f} to {max(ratios):.2f}",
                "estimated": ESTIMATED.get(case.name, ""),
            }
        )
    return table


def _cases() -> Iterator[Case]:
    yield Case("labels alone, again", None)  # how far two of the same are apart here
    yield Case("averaged weights", None, average=0.99)
    for name in plugins.names("semi"):
        yield Case(name, name)
        if name == "bcp":
            yield Case("bcp, stage 1", name, progress=0.0)


def _step(case: Case) -> Step:
    """Seconds of one step as the loop does it: batch, views, both directions, optimiser, and what follows."""
    tree, semi = run_settings.base("small", None), case.semi or LABELS_ALONE
    how = run_settings.finetuning(BACKBONE, tree, {"average": case.average}, semi=semi)
    torch.manual_seed(0)
    module = loop.channels_last(build.objective(how, build.network(how, STORE), STORE))
    optimiser = schedule.build_optimiser(module, how.schedule)
    batch = _slices(0)
    if case.semi is not None:
        pool = _slices(1)
        taught = plugins.describe("semi", case.semi).get("pseudo_labels")
        batch = batch._replace(unlabelled=pool if taught else pool._replace(label=None))
    if isinstance(module, Trained):
        module.after_step(case.progress)
    taken = [0]

    def step() -> float:
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            losses: dict[str, Tensor] = module(batch, Rows(0, taken[0], "cpu")).losses
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if isinstance(module, Trained):
            module.after_step(case.progress)
        taken[0] += 1
        return time.perf_counter() - begin

    for _ in range(FIRST_STEPS):
        step()
    return step


def _slices(seed: int) -> Batch:
    """Made-up ones: structures are shells of a smooth field, which the image shows with noise."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(SLICES, 1, SIDE // 32, SIDE // 32, generator=rng)
    field = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False)
    label = torch.bucketize(field[:, 0], torch.tensor([0.8, 1.2, 1.6]))
    numbers = torch.arange(SLICES)
    return Batch(
        image=field + 0.1 * torch.randn(field.shape, generator=rng), index=numbers, scan=numbers, subject=numbers,
        position=(numbers + 1) / SLICES, spacing_mm=torch.full((SLICES, 2), 2.0), label=label,
    )  # fmt: skip
