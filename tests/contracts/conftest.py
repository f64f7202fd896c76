"""A small prepared store of made-up scans, and a batch of it."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lemis.contracts import Batch, Sampling
from lemis.errors import UsageError
from lemis.preparation import keypoints, preprocess, store
from lemis.sampling.samples import Slices, draw_batches
from lemis.settings import plain

SCANS = (("a1", "a", 9), ("a2", "a", 6), ("b1", "b", 8), ("c1", "c", 7))  # id, subject, slices
SHAPE = (80, 72)


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    path: Path = tmp_path_factory.mktemp("prepared")
    settings = preprocess.Settings(spacing_mm=1.0)
    rng = np.random.default_rng(0)
    for id, subject, slices in SCANS:
        shape = (*SHAPE, slices)
        facts = preprocess.describe(
            id=id, subject=subject, images=(f"{id}.nii.gz",), label=None, shape=shape,
            spacing_mm=(1.0, 1.0, 5.0), slice_axis=2, settings=settings,
        )  # fmt: skip
        volume = gaussian_filter(rng.normal(size=shape), (4, 4, 1))
        image, facts = preprocess.prepare_image(volume, facts, settings)
        store.write_scan(path, facts, image)
        store.write_keypoints(path, id, keypoints.find_all(image, keypoints.Settings()), "")
    store.write_meta(
        path, scans=[id for id, *_ in SCANS], channels=["c0"], label_names=["background"], label_values=[0],
        settings={}, keypoints=plain(keypoints.Settings()),
    )  # fmt: skip
    return store.open_store(path)


@pytest.fixture(scope="session")
def slices(made_up: store.Store) -> Slices:
    return Slices(made_up, range(len(SCANS)), torch.device("cpu"), keypoints=24, descriptors=True)


@pytest.fixture(scope="session")
def batch(slices: Slices) -> Batch:
    """Four slices of each of two scans, each with the one before it as its neighbour, and all with keypoints."""
    sampling = Sampling(kind="groups", batch_size=8, per_scan=4)
    rows = draw_batches(sampling, slices.scan, slices.subject, seed=0, epoch=0)[0]
    before = np.where((rows > 0) & (slices.scan[rows - 1] == slices.scan[rows]), rows - 1, rows + 1)
    return next(slices.stream([np.stack([rows, before], axis=1)]))


@pytest.fixture(scope="session")
def changed() -> Callable[[Callable[[Mapping[str, Any]], Any], str], Iterator[dict[str, Any]]]:
    """Settings that ``resolved`` makes of a layer, with other allowed values at ``key`` (with dots where nested)."""

    def others(resolved: Callable[[Mapping[str, Any]], Any], key: str) -> Iterator[dict[str, Any]]:
        here = holder = resolved({})
        *path, last = key.split(".")
        for part in path:
            holder = getattr(holder, part)
        for candidate in _other_values(type(holder), last, getattr(holder, last)):
            layer: dict[str, Any] = {last: candidate}
            for part in reversed(path):
                layer = {part: layer}
            try:
                there = resolved(layer)
            except UsageError:
                continue
            if there != here:
                yield plain(there)

    return others


def _other_values(cls: Any, key: str, value: Any) -> list[Any]:
    """Values to try instead of ``value``; not all of them need be allowed."""
    hint = typing.get_type_hints(cls)[key]
    named = [choice for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is typing.Literal
             for choice in typing.get_args(part)]  # fmt: skip
    if named:
        return named
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, tuple):
        larger = [value[-1] * 1.5] if isinstance(value[-1], (int, float)) else []
        return [[*value[:-1], *larger], value[:-1], [*value, *larger], [0.5, 0.6]]
    if value is None:
        return [3, 0.5, "x"]
    return [value * 2, value + 1, value - 1] if isinstance(value, int) else [value / 2, value + 0.5, 0.0, 45.0]
