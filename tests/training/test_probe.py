"""Probes count the different images that a method's network sees, and memory anew for each cell."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lemis.preparation.store import open_store
from lemis.runs import memory
from lemis.training import probe, run_settings, schedule
from lemis.training.probe import Probe


@pytest.mark.parametrize(
    ("method", "images"),
    [
        ("pcl", 16),  # two views of 8 slices
        ("byol", 16),  # the same two views through two networks
        ("moco", 16),  # one view through each of two networks
        ("rotation", 16),  # four turns of 4 slices
        ("mae", 8),  # one view of 8 slices
        ("simtriplet", 24),  # two views of 8 slices and one of their neighbours
    ],
)
def test_images_are_counted_once_however_many_networks_see_them(prepared_work: Path, method: str, images: int) -> None:
    store = open_store(prepared_work / "prepared")
    settings = run_settings.pretraining(method, None, run_settings.base("tiny", None), {"precision": "32"})
    found = probe.of_pretraining(store, range(len(store.scans)), settings, "cpu")
    assert found.images == pytest.approx(images, rel=0.05)  # two random views may be the same
    assert found.seconds > 0
    assert found.slices <= len(store.slices.scan) * 2  # a row and its neighbour


def test_a_watched_network_is_left_as_it_was(prepared_work: Path) -> None:
    from lemis.backbones import unet2d

    before = unet2d.Backbone.encode
    store = open_store(prepared_work / "prepared")
    labelled = [i for i, scan in enumerate(store.scans) if scan.labelled]
    settings = run_settings.finetuning("unet2d", run_settings.base("tiny", None), {"precision": "32"})
    found = probe.of_finetuning(store, labelled, settings, "cpu")
    assert unet2d.Backbone.encode is before
    assert found.images == settings.objective.batch_size


def test_a_probe_knows_the_length_of_a_training() -> None:
    found = Probe(seconds=1.0, images=16, per_epoch=10, slices=80, memory_gb=None, weights_gb=0.1)
    assert found.steps(schedule.Settings(epochs=3)) == 30
    assert found.steps(schedule.Settings(epochs=3), per_epoch=5) == 15
    assert found.steps(schedule.Settings(epochs=3, steps=7), per_epoch=5) == 7


@pytest.mark.parametrize(("batch_size", "accumulate", "per_epoch"), [(4, 1, 4), (4, 4, 3), (5, 1, 3), (14, 1, 2)])
def test_an_epoch_of_fine_tuning_has_a_smaller_last_batch(
    prepared_work: Path, batch_size: int, accumulate: int, per_epoch: int
) -> None:
    store = open_store(prepared_work / "prepared")  # 15 labelled slices
    labelled = [i for i, scan in enumerate(store.scans) if scan.labelled]
    overrides = {"precision": "32", "accumulate": accumulate, "objective": {"batch_size": batch_size}}
    settings = run_settings.finetuning("unet2d", run_settings.base("tiny", None), overrides)
    found = probe.of_finetuning(store, labelled, settings, "cpu")
    assert found.per_epoch == per_epoch
    assert found.images == batch_size, "whole batches are timed"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not reset the peak")
def test_the_peak_of_memory_counts_from_its_reset() -> None:
    if not memory.reset_peak_memory():
        pytest.skip("this machine forbids resetting the peak")
    before = memory.peak_memory_gb()
    held = np.ones(40_000_000)
    after = memory.peak_memory_gb()
    assert before is not None
    assert after is not None
    assert after - before >= 0.3
    del held
    memory.reset_peak_memory()
    again = memory.peak_memory_gb()
    assert again is not None
    assert again < after - 0.3
