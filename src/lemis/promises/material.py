"""What plug-ins are tried on: made-up scans, prepared; batches of them; losses as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lemis.contracts import Batch, Draw, Outcome, Sampling
from lemis.preparation import keypoints, preprocess, store, store_files
from lemis.preparation.settings import Settings
from lemis.sampling.samples import Slices, draw_batches
from lemis.settings import plain

SCANS = (("a1", "a", 9), ("a2", "a", 6), ("b1", "b", 8), ("c1", "c", 7))  # id, subject, slices
SHAPE_PX = (80, 72)


def write_store(path: Path) -> store.Store:
    """Prepared scans of smooth noise, with keypoints."""
    path.mkdir(parents=True, exist_ok=True)
    settings = Settings(spacing_mm=1.0)
    rng = np.random.default_rng(0)
    for id, subject, slices in SCANS:
        shape = (*SHAPE_PX, slices)
        facts = preprocess.describe(
            id=id, subject=subject, images=(f"{id}.nii.gz",), label=None, shape=shape,
            spacing_mm=(1.0, 1.0, 5.0), slice_axis=2, settings=settings,
        )  # fmt: skip
        volume = gaussian_filter(rng.normal(size=shape), (4, 4, 1))
        image, facts = preprocess.prepare_image(volume, facts, settings)
        store_files.write_scan(path, facts, image)
        store_files.write_keypoints(path, id, keypoints.find_all(image, keypoints.Settings()), "")
    store_files.write_meta(
        path, scans=[id for id, *_ in SCANS], channels=["c0"], label_names=["background"], label_values=[0],
        settings={}, keypoints=plain(keypoints.Settings()),
    )  # fmt: skip
    return store.open_store(path)


@final
class Material:
    """Batches of made-up scans.

    Args:
        folder: Where the scans are prepared; written when they are asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Write the scans now, where a full disk is nobody else's fault."""
        _ = self.slices

    @cached_property
    def slices(self) -> Slices:
        """Every slice of the scans, with keypoints."""
        made_up = write_store(self.folder)
        return Slices(made_up, range(len(SCANS)), torch.device("cpu"), keypoints=24, descriptors=True)

    @cached_property
    def batch(self) -> Batch:
        """Four slices of each of two scans, each with the one before it as its neighbour, and all with keypoints."""
        slices = self.slices
        sampling = Sampling(kind="groups", batch_size=8, per_scan=4)
        rows = draw_batches(sampling, slices.scan, slices.subject, seed=0, epoch=0)[0]
        before = np.where((rows > 0) & (slices.scan[rows - 1] == slices.scan[rows]), rows - 1, rows + 1)
        return next(slices.stream([np.stack([rows, before], axis=1)]))

    @cached_property
    def regions(self) -> Batch:
        """Regions of volumes: two of each of two scans, of which one ends in them."""
        count = 4
        coarse = torch.randn(count, 1, 5, 10, 10, generator=torch.Generator().manual_seed(0))
        numbers, inside = torch.arange(count), torch.ones(count, 1, 20, 40, 40, dtype=torch.bool)
        inside[-2:, :, 12:] = False
        return Batch(
            image=F.interpolate(coarse, (20, 40, 40), mode="trilinear") * inside, index=numbers + 7,
            scan=numbers // 2, subject=numbers // 2, position=(numbers + 1) / count, spacing_mm=torch.ones(count, 3),
            inside=inside,
        )  # fmt: skip

    @cached_property
    def of_each_scan(self) -> Batch:
        """Regions of four scans."""
        numbers = torch.arange(4)
        coarse = torch.randn(4, 1, 6, 12, 12, generator=torch.Generator().manual_seed(0))
        return Batch(
            image=F.interpolate(coarse, (20, 40, 40), mode="trilinear"), index=numbers, scan=numbers,
            subject=numbers, position=(numbers + 1) / 4, spacing_mm=torch.ones(4, 3),
        )  # fmt: skip

    @cached_property
    def uneven(self) -> Batch:
        """Scans of 3, 3 and 2 slices, each with the next one: the border between two processes lies inside a scan."""
        slices = self.slices
        rows = np.concatenate([np.flatnonzero(slices.scan == scan)[:count] for scan, count in ((0, 3), (2, 3), (3, 2))])
        return next(slices.stream([np.stack([rows, rows + 1], axis=1)]))

    def of(self, dims: int) -> Batch:
        """Slices for networks of two dimensions, regions of volumes for those of three."""
        return self.batch if dims == 2 else self.regions


@final
class Reordered:
    """A draw whose rows come in another order."""

    def __init__(self, inner: Draw, order: Sequence[int]) -> None:
        self.inner, self.order = inner, list(order)

    def uniform(self, rows: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """As ``contracts.Draw``."""
        return self._of_batch(rows, self.inner.uniform(rows, *shape, low=low, high=high))

    def normal(self, rows: int, *shape: int) -> Tensor:
        """As ``contracts.Draw``."""
        return self._of_batch(rows, self.inner.normal(rows, *shape))

    def _of_batch(self, rows: int, numbers: Tensor) -> Tensor:
        if rows != len(self.order):
            raise ValueError(f"{rows} rows of random numbers are drawn for {len(self.order)} rows of the batch")
        return numbers[self.order]


def take(batch: Batch, order: Any) -> Batch:
    """Rows of a batch."""
    taken: Batch = apply_to_collection(batch, Tensor, itemgetter(order))
    return taken


def in_double(batch: Batch) -> Batch:
    """With its numbers in float64."""
    doubled: Batch = apply_to_collection(batch, Tensor, lambda x: x.double() if x.is_floating_point() else x)
    return doubled


def total(outcome: Outcome) -> Tensor:
    """What is minimised."""
    return torch.stack(list(outcome.losses.values())).sum()


def figures(outcome: Outcome) -> dict[str, float]:
    """Each loss term as a number."""
    return {key: loss.item() for key, loss in outcome.losses.items()}


def alike(
    found: Mapping[str, float], expected: Mapping[str, float], *, relative: float, absolute: float = 1e-12
) -> bool:
    """Whether terms are the same up to rounding; NaN is like nothing."""
    return found.keys() == expected.keys() and all(
        found[key] == value or abs(found[key] - value) <= max(relative * abs(value), absolute)
        for key, value in expected.items()
    )


def told(terms: Mapping[str, float]) -> str:
    """Losses for a message."""
    return ", ".join(f"{key} {value:.6g}" for key, value in terms.items())
