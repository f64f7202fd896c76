"""A small prepared store of made-up scans, and a batch of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lemis.contracts import Batch, Sampling
from lemis.data import keypoints, preprocess, store
from lemis.data.samples import Slices, draw_batches
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
