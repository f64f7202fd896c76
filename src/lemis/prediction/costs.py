"""What a prediction will take, before it: time and memory of scans, by what one tile or slice takes here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Backbone
from lemis.datasets.index import Scan
from lemis.measure.tables import count
from lemis.prediction import tiles
from lemis.prediction.ensemble import Ensemble
from lemis.prediction.inference import probabilities, slices_at_once
from lemis.prediction.new_scan import described
from lemis.preparation import preprocess
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.runs.memory import peak_memory_gb
from lemis.settings import resolve
from lemis.terminal import duration

PROBE_SECONDS = 0.5  # that tiles are timed for; two at least, the first of which warms up


class Probe(NamedTuple):
    """What a tile, or a slice, took here: all networks and mirror images together, the fastest after a warm-up."""

    seconds: float
    pixels: int
    num_classes: int
    before_gb: float  # the most that this process had held before, on the GPU where it uses one
    peak_gb: float  # and with the probe


@torch.inference_mode()
def probe(
    networks: Sequence[Backbone],
    facts: Facts,
    channels: int,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
    settings: tiles.Settings | None = None,
    mirrored: Sequence[int] = (),
) -> Probe:
    """Predict a tile of noise, or slices of the size in ``facts``, a few times; arguments as of ``predict_scan``.

    As much goes through the network at once as will in the run, since that is what memory is taken by; the time is that
    of one tile or slice.
    """
    settings = settings or tiles.Settings()
    before_gb = peak_memory_gb() or math.nan
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> NDArray[np.float16]:
        return rng.standard_normal(shape, np.float32).astype(np.float16)

    def slabs(image: NDArray[np.float16]) -> Iterator[Tensor]:
        return probabilities(networks, image, facts, device, patch_px, settings, mirrored)

    if patch_px is None:
        (first,) = slabs(noise(1, channels, *facts.prepared_shape))
        number = min(facts.slices, 1 + slices_at_once(first.shape[0], facts))  # the first goes alone
        image = noise(number, channels, *facts.prepared_shape)
    else:
        (slices, rows, cols), number = patch_px, settings.at_once
        image = noise(slices, channels, rows, cols + (number - 1) * max(1, int(cols * (1 - settings.overlap))))
    num_classes, times = 0, list[float]()
    while len(times) < 2 or sum(times) < PROBE_SECONDS:
        _finish(device)
        begin = time.perf_counter()
        num_classes = [slab.shape[0] for slab in slabs(image)][-1]
        _finish(device)
        times.append(time.perf_counter() - begin)
    pixels = math.prod(patch_px or facts.prepared_shape)
    return Probe(min(times[1:]) / number, pixels, num_classes, before_gb, peak_memory_gb() or math.nan)


class Cost(NamedTuple):
    """What the prediction of a scan is expected to take, without reading it."""

    parts: int  # tiles or slices
    seconds: float
    peak_gb: float


def cost(
    facts: Facts,
    probe: Probe,
    channels: int,
    device: torch.device,
    patch_px: Sequence[int] | None = None,
    settings: tiles.Settings | None = None,
) -> Cost:
    """Time and memory of one scan by what one tile or slice took.

    Memory is, on a CPU, the larger of
        preparation: the process's before the probe, 8 bytes of a stored voxel (whole numbers become float32), 8 of a
        prepared one, and 8 of those of one channel at a time;
        prediction: the process's after it, 2 bytes of a prepared voxel, and either the sums of the tiles and 3 of a
        label's voxel, or 7 of that while its pieces are looked for;
    and on a GPU its own after the probe, and the sums of the tiles.
    The sums of the tiles are ``tiles.ring_bytes``; those of slices are there in the probe.
    """
    settings = settings or tiles.Settings()
    size = (facts.slices, *facts.prepared_shape)
    if patch_px is None:
        parts, pixels = facts.slices, math.prod(facts.prepared_shape)
        sums = 0
    else:
        parts, pixels = tiles.count(size, patch_px, settings.overlap), probe.pixels
        sums = tiles.ring_bytes(size, patch_px, probe.num_classes)
    seconds = parts * probe.seconds * pixels / probe.pixels
    own, prepared = math.prod(facts.canonical_shape), math.prod(size)
    preparation = 8 * channels * own + (8 * channels + 8) * prepared
    prediction = 2 * channels * prepared + max(sums + 3 * own, 7 * own)
    if device.type == "cuda":
        return Cost(parts, seconds, probe.peak_gb + sums / 1e9)
    return Cost(parts, seconds, max(probe.before_gb + preparation / 1e9, probe.peak_gb + prediction / 1e9))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def of_scans(scans: Sequence[Scan], by: Ensemble) -> list[Cost]:
    """The cost of each scan, of which nothing but the index is read.

    Args:
        scans: From an index, at least one.
        by: What predicts them.
    """
    how, channels = resolve(Preparation, by.model.prepared), len(by.model.channels)
    facts = [described(scan, scan.shape, scan.spacing_mm, how) for scan in scans]
    _load_what_preparation_needs()
    largest = max(facts, key=lambda one: math.prod(one.prepared_shape))
    found = probe(by.networks, largest, channels, by.device, by.patch_px, by.settings, by.mirrored)
    return [cost(one, found, channels, by.device, by.patch_px, by.settings) for one in facts]


def _load_what_preparation_needs() -> None:
    """Libraries are part of the memory that a prediction takes, so they are there before it is measured."""
    settings = Preparation(spacing_mm=1.0, slice_spacing_mm=1.0)
    shape = (8, 8, 8)
    small = preprocess.describe(
        id="", subject="", images=("",), label=None, shape=shape, spacing_mm=(2.0, 2.0, 2.0), slice_axis=2,
        settings=settings,
    )  # fmt: skip
    image = np.arange(512, dtype=np.float32).reshape(shape)
    preprocess.prepare_image(image, small, settings)


def in_words(scans: Sequence[Scan], costs: Sequence[Cost], by: Ensemble) -> Iterator[str]:
    """All scans in a line, then the one that takes longest and the one that takes most memory."""
    part = "slice" if by.patch_px is None else "tile"
    of = "" if by.patch_px is None else f" of {' x '.join(map(str, by.patch_px))}"
    seconds, parts = sum(one.seconds for one in costs), sum(one.parts for one in costs)
    yield (
        f"{count(len(scans), 'scan')}, {count(parts, part)}{of}: about {duration(seconds)} on {by.device.type}, "
        f"{duration(seconds / parts)} a {part}; reading and preparing come on top"
    )
    where = "GPU" if by.device.type == "cuda" else "process"
    places = range(len(costs))
    longest = max(places, key=lambda place: costs[place].seconds)
    largest = max(places, key=lambda place: costs[place].peak_gb)
    named = {"longest": longest, "largest": largest} if longest != largest else {"longest and largest": longest}
    for title, at in named.items():
        one, shape = costs[at], " x ".join(map(str, scans[at].shape))
        yield (
            f"{title}: {scans[at].id} ({shape}): {count(one.parts, part)}, {duration(one.seconds)}, "
            f"peak memory of the {where} about {one.peak_gb:.1f} GB"
        )
