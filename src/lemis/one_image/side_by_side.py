"""Methods of ``single/`` on several images at once: as many as fit into memory, while that is faster than one by one.

Each image has a network of its own, so what comes out does not depend on its company.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lemis import plugins
from lemis.contracts import Segmented
from lemis.errors import LemisError
from lemis.runs.memory import peak_memory_gb
from lemis.settings import resolve
from lemis.work_files.one_image import MadeFrom

Array = NDArray[Any]
Run = Callable[[Array], Segmented]
Key = TypeVar("Key", bound=Hashable)

_MOST_AT_ONCE = {"cpu": 8, "cuda": 64}  # more networks side by side gain nothing


class Found(NamedTuple):
    """What the method made of one image."""

    labels: Array  # (h, w)
    iterations: int
    restarts: int
    seconds: float  # shared equally by the images that were trained side by side
    at_once: int


def runner(made_from: MadeFrom, device: torch.device) -> Run:
    """The method that a label map is to be made by, as a function of images (N, C, h, w) alone.

    Args:
        made_from: Its method, the settings and the seed (the same for every image).
        device: Where it runs.

    Raises:
        UsageError: An unknown method or setting.
        LemisError: From the function: the method gave labels of another shape than the images'.
    """
    name = made_from.method
    module = plugins.load("single", name)
    settings = resolve(module.Settings, made_from.settings)

    def run(images: Array) -> Segmented:
        seeds = [made_from.seed] * len(images)
        found: Segmented = module.segment(torch.from_numpy(images).to(device), settings, seeds)
        shape = (len(images), *images.shape[2:])
        if tuple(found.labels.shape) != shape or not len(found.iterations) == len(found.restarts) == len(images):
            raise LemisError(f"{name} gave labels {tuple(found.labels.shape)} for {shape}: a fault of the method")
        return found

    return run


class Pace:
    """How many images are trained side by side: as many as memory holds, unless one by one turns out faster.

    The first image is trained alone, which tells time and memory; nothing is computed for the probe's sake.
    """

    def __init__(self, at_once: int | None, device: torch.device) -> None:
        self.device = device
        self.fixed = at_once is not None
        self.now = at_once or 1
        self._alone: float | None = None  # seconds per iteration of one image

    def learn(self, count: int, seconds: float, iterations: int, gb: float | None) -> None:
        """What training ``count`` images took in all; ``gb`` is None where the memory is not known."""
        if self.fixed:
            return
        each = seconds / max(iterations, 1)
        if count == 1 and self._alone is None:
            self._alone = each
            fit = 1 if gb is None else int(0.5 * _free_gb(self.device) / max(gb, 0.01))
            self.now = min(max(fit, 1), _MOST_AT_ONCE[self.device.type])
        elif self._alone is not None and each > self._alone:
            self.now, self.fixed = 1, True

    def shrink(self, count: int) -> None:
        """Train fewer from now on: ``count`` images side by side did not fit into memory."""
        self.now, self.fixed = max(1, count // 2), True


def segment(inputs: Sequence[tuple[Key, Array]], run: Run, pace: Pace) -> Iterator[tuple[Key, Found | Exception]]:
    """Segment images (C, h, w), those of one shape together; each comes back under its key, as a result or an error."""
    shapes: dict[tuple[int, ...], list[tuple[Key, Array]]] = {}
    for key, array in inputs:
        shapes.setdefault(array.shape, []).append((key, array))
    for rows in shapes.values():
        while rows:
            group, rows = rows[: pace.now], rows[pace.now :]
            yield from _together(group, run, pace)


def _together(group: Sequence[tuple[Key, Array]], run: Run, pace: Pace) -> Iterator[tuple[Key, Found | Exception]]:
    held, began = _held_gb(pace.device), time.perf_counter()
    try:
        found = run(np.stack([array for _, array in group]))
        labels = found.labels.cpu().numpy()
    except Exception as error:
        if len(group) == 1:
            yield group[0][0], error
            return
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            pace.shrink(len(group))
        middle = len(group) // 2  # which of them it is, the halves tell
        yield from _together(group[:middle], run, pace)
        yield from _together(group[middle:], run, pace)
        return
    seconds, peak = time.perf_counter() - began, peak_memory_gb()
    gb = None if peak is None or held is None else peak - held
    pace.learn(len(group), seconds, sum(found.iterations), gb)
    for (key, _), labelled, iterations, restarts in zip(group, labels, found.iterations, found.restarts, strict=True):
        yield key, Found(labelled, iterations, restarts, seconds / len(group), len(group))


def _held_gb(device: torch.device) -> float | None:
    """What the process holds now, 10^9 bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 1e9
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _free_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e9
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()  # there where _held_gb found its like
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024 / 1e9
