"""Which slices make up a batch, and the batch itself, on the device.

Everything random here is a function of (seed, epoch), so a resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

import numpy as np
import torch
from torch import Tensor

from lemis.contracts import Batch, Sampling
from lemis.data.preprocess import crop_field, field_of_view
from lemis.data.store import Store
from lemis.errors import UsageError

AHEAD = 3  # batches that worker threads read while the device works
RESIDENT_SHARE = 0.2  # of the device's memory; above it slices stay on disk


@final
class Slices:
    """Every slice of some prepared scans, as batches on a device.

    The whole set is put on the device once where it fits in a fifth of its memory; then a batch is an index
    operation. Otherwise threads read memory-mapped slices ahead.

    Args:
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``.
        device: Where batches are made.
        with_labels: Batches carry labels; every scan must have one.
        resident: Keep all slices on the device; None decides by memory.
    """

    def __init__(
        self,
        store: Store,
        scans: Sequence[int],
        device: torch.device,
        *,
        with_labels: bool = False,
        resident: bool | None = None,
    ) -> None:
        self.store, self.device, self.with_labels = store, device, with_labels
        table = store.slices
        self.rows = np.flatnonzero(np.isin(table.scan, np.asarray(scans, dtype=table.scan.dtype)))
        if len(self.rows) == 0:
            raise UsageError(
                "no scan to draw slices from", allowed="at least one prepared scan", next="lemis check SCANS"
            )
        self.scan, self.subject = table.scan[self.rows], table.subject[self.rows]
        self._slice_index, self._position = table.slice_index[self.rows], table.position[self.rows]
        prepared = [store.scans[int(scan)].prepared_shape for scan in np.unique(self.scan)]
        self.shape = (max(rows for rows, _ in prepared), max(cols for _, cols in prepared))
        size = len(self.rows) * len(store.channels) * self.shape[0] * self.shape[1] * 2
        self.resident = size < RESIDENT_SHARE * _memory(device) if resident is None else resident
        self._facts = {
            "scan": torch.from_numpy(self.scan.astype(np.int64)).to(device),
            "subject": torch.from_numpy(self.subject.astype(np.int64)).to(device),
            "position": torch.from_numpy(self._position.astype(np.float32)).to(device),
            "spacing_mm": torch.tensor([store.scans[int(s)].prepared_spacing_mm[1:] for s in self.scan], device=device),
        }
        if self.resident:
            self._image, self._label = self._read(np.arange(len(self.rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def stream(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Batches of the given rows (positions in this set), in order."""
        if self.resident:
            for rows in batches:
                index = torch.from_numpy(rows).to(self.device)
                yield self._batch(index, self._image[index], None if self._label is None else self._label[index])
            return
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting: list[tuple[np.ndarray, Future[tuple[Tensor, Tensor | None]]]] = []
            for rows in batches:
                waiting.append((rows, pool.submit(self._read, rows)))
                if len(waiting) > AHEAD:
                    first, future = waiting.pop(0)
                    yield self._batch(torch.from_numpy(first).to(self.device), *future.result())
            for first, future in waiting:
                yield self._batch(torch.from_numpy(first).to(self.device), *future.result())

    def _batch(self, index: Tensor, image: Tensor, label: Tensor | None) -> Batch:
        facts = {name: values[index] for name, values in self._facts.items()}
        return Batch(image=image.float(), index=index, label=None if label is None else label.long(), **facts)

    def _read(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Rows -> (n, C, H, W) float16 and (n, H, W) uint8, centre-padded with zeros to the set's common shape."""
        image = np.zeros((len(rows), len(self.store.channels), *self.shape), dtype=np.float16)
        label = np.zeros((len(rows), *self.shape), dtype=np.uint8) if self.with_labels else None
        for k, row in enumerate(rows):
            scan, index = int(self.scan[row]), int(self._slice_index[row])
            window = field_of_view(self.store.scans[scan].prepared_shape, self.shape)
            image[k] = crop_field(self.store.image(scan)[index], window)
            if label is not None:
                labels = self.store.label(scan)
                assert labels is not None, f"{self.store.scans[scan].id} has no label"
                label[k] = crop_field(labels[index], window)
        image_tensor = torch.from_numpy(image).to(self.device, non_blocking=True)
        return image_tensor, None if label is None else torch.from_numpy(label).to(self.device, non_blocking=True)


def draw_batches(
    sampling: Sampling, scan: np.ndarray, subject: np.ndarray, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Rows of every batch of one epoch; the last incomplete batch is dropped, unless it is the only one.

    Args:
        sampling: How batches are drawn.
        scan: (n,) scan of each row.
        subject: (n,) subject of each row.
        seed: Of the run.
        epoch: Counted from 0.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling.kind == "slices":
        order = rng.permutation(len(scan))
        whole = max(1, len(order) // sampling.batch_size)
        return [order[k * sampling.batch_size : (k + 1) * sampling.batch_size] for k in range(whole)]
    return _groups(sampling, scan, subject, rng)


def _groups(sampling: Sampling, scan: np.ndarray, subject: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of whole groups: scans of different subjects one after the other, until the batch is full."""
    rows_of = {int(s): np.flatnonzero(scan == s) for s in np.unique(scan)}
    batch_size = min(sampling.batch_size, len(scan))
    queue: list[int] = []
    batches = []
    for _ in range(max(1, len(scan) // batch_size)):
        chosen: list[np.ndarray] = []
        missing, subjects, taken = batch_size, set[int](), set[int]()
        while missing > 0:
            if not rows_of.keys() <= set(queue):  # every scan is in sight, so one that fits is always found
                queue.extend(int(s) for s in rng.permutation(list(rows_of)))
            one = _next_scan(queue, taken, subjects, subject, rows_of)
            per_scan = max(sampling.per_scan, -(-batch_size // len(rows_of)))
            rows = rng.permutation(rows_of[one])[: min(per_scan, missing)]
            chosen.append(rows)
            taken.add(one)
            subjects.add(int(subject[rows[0]]))
            missing -= len(rows)
            if len(taken) == len(rows_of) and missing > 0:
                break  # every scan gave what it has
        batches.append(np.concatenate(chosen))
    return batches


def _next_scan(
    queue: list[int], taken: set[int], subjects: set[int], subject: np.ndarray, rows_of: dict[int, np.ndarray]
) -> int:
    """The first waiting scan of a subject that the batch does not hold yet; else the first that is new at all."""
    fresh = [s for s in queue if s not in taken]
    other = [s for s in fresh if int(subject[rows_of[s][0]]) not in subjects]
    found = (other or fresh)[0]
    queue.remove(found)
    return found


def _memory(device: torch.device) -> int:
    """Bytes of memory of the device; for a CPU what the machine has, 8 GiB where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
