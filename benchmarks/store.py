"""(d) Random slices of the whole data set: from the prepared store, and from ``.nii.gz`` as most code reads them."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from lemis import phantom
from lemis.datasets.index import Index, locate, save
from lemis.datasets.scan_facts import scan_folder
from lemis.preparation.settings import Settings
from lemis.preparation.store import Store, open_store
from lemis.verbs.prepare import prepare

TITLE = "(d) 100 random slices of the whole data set, warm page cache"
ROUNDS = 5
COUNT = 100


def rows() -> list[dict[str, object]]:
    """One row a way of reading; medians over interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        scans, work = Path(folder) / "scans", Path(folder) / "work"
        phantom.write_dataset(scans, kind="abdomen", subjects=12, labelled=2, shape=(256, 256, 40))
        index = scan_folder(scans)
        save(index, work / "index.json")
        prepare(work, settings=Settings(spacing_mm="native"))
        store = open_store(work / "prepared")
        times: dict[str, list[float]] = {"store": [], "whole .nii.gz": [], "slice of .nii.gz": []}
        for number in range(ROUNDS):
            chosen = np.random.default_rng(number).integers(len(store.slices.scan), size=COUNT)
            times["store"].append(_timed(_from_store, store, index, chosen))
            times["slice of .nii.gz"].append(_timed(_sliced, store, index, chosen))
            times["whole .nii.gz"].append(_timed(_whole, store, index, chosen))
    return [
        {
            "way": way, "ms": f"{statistics.median(seconds) * 1e3:.1f}",
            "store is faster by": "" if way == "store" else f"{_ratio(times['store'], seconds):.0f}x",
            "ms of the rounds": ", ".join(f"{s * 1e3:.0f}" for s in sorted(seconds)),
        }
        for way, seconds in times.items()
    ]  # fmt: skip


def _ratio(fast: list[float], slow: list[float]) -> float:
    return statistics.median(s / f for f, s in zip(fast, slow, strict=True))


def _timed(read: Callable[[Store, Index, np.ndarray], None], store: Store, index: Index, chosen: np.ndarray) -> float:
    begin = time.perf_counter()
    read(store, index, chosen)
    return time.perf_counter() - begin


def _from_store(store: Store, _index: Index, chosen: np.ndarray) -> None:
    for row in chosen:
        store.image(int(store.slices.scan[row]))[int(store.slices.slice_index[row])].astype(np.float32).sum()


def _sliced(store: Store, index: Index, chosen: np.ndarray) -> None:
    """nibabel's array proxy: decompresses up to the slice."""
    for row in chosen:
        file = locate(index, index.scans[int(store.slices.scan[row])].images[0])
        np.asarray(nibabel.load(file).dataobj[..., int(store.slices.slice_index[row])], dtype=np.float32).sum()


def _whole(store: Store, index: Index, chosen: np.ndarray) -> None:
    """The whole volume is read, one slice is taken; a scan asked for twice is read twice."""
    for row in chosen:
        file = locate(index, index.scans[int(store.slices.scan[row])].images[0])
        nibabel.load(file).get_fdata(dtype=np.float32)[..., int(store.slices.slice_index[row])].sum()
