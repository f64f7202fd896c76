"""Which slices make up a batch, and the batch itself, on the device.

Everything random here is a function of (seed, epoch), so a resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Protocol, final

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lemis.contracts import Batch, Sampling
from lemis.errors import UsageError
from lemis.preparation.crops import crop_field, field_of_view
from lemis.preparation.store import Store

AHEAD = 3  # batches that worker threads read while the device works
RESIDENT_SHARE = 0.2  # of the device's memory; above it slices stay on disk


class Source(Protocol):
    """Where a training run's batches come from: ``Slices``, or ``patches.Patches`` for networks of three dimensions."""

    def draw(self, sampling: Sampling, *, seed: int, epoch: int) -> list[np.ndarray]:
        """What each batch of one epoch is made of, a row for each row of the batch; a function of (seed, epoch)."""

    def stream(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """The batches, in order."""

    def scans_of(self, rows: np.ndarray) -> list[str]:
        """Ids of the scans that one batch is drawn from."""


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
        keypoints: Batches carry up to so many keypoints of each slice, the strongest; 0 is none.
        descriptors: Batches carry the descriptors of these keypoints.

    Raises:
        UsageError: No scan, or a store without keypoints where they are wanted.
    """

    def __init__(
        self,
        store: Store,
        scans: Sequence[int],
        device: torch.device,
        *,
        with_labels: bool = False,
        resident: bool | None = None,
        keypoints: int = 0,
        descriptors: bool = False,
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
        self._place: Tensor | None = None
        self._descriptor: Tensor | None = None
        if keypoints:
            self._place, self._descriptor = self._read_keypoints(keypoints, descriptors)
        size = len(self.rows) * len(store.channels) * self.shape[0] * self.shape[1] * 2
        size += sum(values.nbytes for values in (self._place, self._descriptor) if values is not None)
        self.resident = size < RESIDENT_SHARE * memory_of(device) if resident is None else resident
        self._facts = {
            "scan": torch.from_numpy(self.scan.astype(np.int64)).to(device),
            "subject": torch.from_numpy(self.subject.astype(np.int64)).to(device),
            "position": torch.from_numpy(self._position.astype(np.float32)).to(device),
            "spacing_mm": torch.tensor([store.scans[int(s)].prepared_spacing_mm[1:] for s in self.scan], device=device),
        }
        if self.resident:
            self._image, self._label = self._read(np.arange(len(self.rows)))
            self._place = None if self._place is None else self._place.to(device)
            self._descriptor = None if self._descriptor is None else self._descriptor.to(device)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, sampling: Sampling, *, seed: int, epoch: int) -> list[np.ndarray]:
        """Rows of every batch of one epoch, see ``draw_batches``."""
        return draw_batches(sampling, self.scan, self.subject, seed=seed, epoch=epoch)

    def scans_of(self, rows: np.ndarray) -> list[str]:
        """Ids of the scans of a batch."""
        return sorted({self.store.scans[int(scan)].id for scan in np.unique(self.scan[rows])})

    def stream(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Batches of the given rows (positions in this set), in order.

        Args:
            batches: Each (B,); or (B, 2), the rows of slices and of their neighbours, which become ``neighbour``.
        """
        flat = [rows.T.reshape(-1) for rows in batches]
        for rows, batch in zip(batches, self._resident(flat) if self.resident else self._streamed(flat), strict=True):
            yield batch if rows.ndim == 1 else _pair(batch)

    def _resident(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        for rows in batches:
            index = torch.from_numpy(rows).to(self.device)
            yield self._batch(rows, self._image[index], None if self._label is None else self._label[index])

    def _streamed(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        for rows, (image, label) in read_ahead(self._read, batches):
            yield self._batch(rows, image, label)

    def _batch(self, rows: np.ndarray, image: Tensor, label: Tensor | None) -> Batch:
        here = torch.from_numpy(rows)
        index = here.to(self.device)
        where = index if self.resident else here  # the side that keypoints are kept on
        place, descriptor = (
            None if values is None else values[where].to(self.device, non_blocking=True).float()
            for values in (self._place, self._descriptor)
        )
        return Batch(
            image=image.float(),
            index=index,
            label=None if label is None else label.long(),
            keypoints=place,
            descriptors=descriptor,
            scan=self._facts["scan"][index],
            subject=self._facts["subject"][index],
            position=self._facts["position"][index],
            spacing_mm=self._facts["spacing_mm"][index],
        )

    def _read_keypoints(self, most: int, descriptors: bool) -> tuple[Tensor, Tensor | None]:
        """(n, K, 2) float32 and (n, K, D) as stored, of every slice; pixels of the set's common shape; on the CPU."""
        found = {int(scan): self.store.keypoints(int(scan)) for scan in np.unique(self.scan)}
        most = min(most, max(1, *(int(one.count.max()) for one in found.values())))
        place = np.full((len(self.rows), most, 2), np.nan, dtype=np.float32)
        some = max(found.values(), key=lambda one: len(one.place)).descriptor  # of one that has some
        descriptor = np.zeros((len(self.rows), most, some.shape[1]), some.dtype) if descriptors else None
        for scan, one in found.items():
            window = field_of_view(self.store.scans[scan].prepared_shape, self.shape)
            rank = np.arange(len(one.place)) - np.repeat(np.cumsum(one.count) - one.count, one.count)
            row = np.repeat(np.flatnonzero(self.scan == scan), one.count)
            kept = rank < most
            # The common shape holds every slice, so none is cut off.
            place[row[kept], rank[kept]] = one.place[kept] - np.array([window.row0, window.col0])
            if descriptor is not None and kept.any():
                descriptor[row[kept], rank[kept]] = one.descriptor[kept]
        return torch.from_numpy(place), None if descriptor is None else torch.from_numpy(descriptor)

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


def read_ahead(
    read: Callable[[np.ndarray], tuple[Tensor, Tensor | None]], batches: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, tuple[Tensor, Tensor | None]]]:
    """Each of ``batches`` and what ``read`` makes of it, in order; threads read some ahead of what is asked for."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: list[tuple[np.ndarray, Future[tuple[Tensor, Tensor | None]]]] = []
        for rows in batches:
            waiting.append((rows, pool.submit(read, rows)))
            if len(waiting) > AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _pair(batch: Batch) -> Batch:
    """2B slices, whose second half are the neighbours of the first, row by row."""
    half = len(batch.image) // 2
    one, other = (apply_to_collection(batch, Tensor, itemgetter(part)) for part in (slice(half), slice(half, None)))
    paired: Batch = one._replace(neighbour=other)
    return paired


def draw_batches(
    sampling: Sampling, scan: np.ndarray, subject: np.ndarray, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Rows of every batch of one epoch, see ``cut``.

    Args:
        sampling: How batches are drawn.
        scan: (n,) scan of each row; slices of one scan lie side by side, in their order.
        subject: (n,) subject of each row.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        (B,) each; for ``neighbours`` (B, 2), the row of a slice and that of its neighbour.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampling.kind == "groups":
        return _groups(sampling, scan, subject, rng)
    rows = rng.permutation(len(scan))
    if sampling.kind == "neighbours":
        rows = np.stack([rows, _neighbours(sampling, scan, rng)[rows]], axis=1)
    return cut(rows, sampling)


def cut(rows: np.ndarray, sampling: Sampling) -> list[np.ndarray]:
    """The rows of an epoch as its batches; an incomplete last one as ``sampling.last`` says, kept if it is alone."""
    size = sampling.batch_size
    count = len(rows) // size if sampling.last == "drop" else -(-len(rows) // size)
    return [rows[k * size : (k + 1) * size] for k in range(max(1, count))]


def _neighbours(sampling: Sampling, scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) row of a neighbour of each row: all slices of its scan within reach alike, itself where there is no other.

    KAF's code has two laws for the offset of slice i of n, U in (-1, 1): on CHD trunc(0.05 n U), drawn again until it
    is not 0 and in the scan (never for n <= 20); on ACDC trunc(i + min(0.18, 2 / n) n U) - i, which has -2 but no +2.
    Ours are ``reach=0.05``, and ``reach=0.18, reach_slices=2``: every offset of 1 to reach, either way, the same.
    """
    _, start, which, count = np.unique(scan, return_index=True, return_inverse=True, return_counts=True)
    n, place = count[which], np.arange(len(scan)) - start[which]
    reach = (sampling.reach * n + 1e-9).astype(np.int64)  # 0.29 of 100 slices is 29, though not in floating point
    reach = np.maximum(1, np.minimum(reach, sampling.reach_slices or n))
    before, after = np.minimum(reach, place), np.minimum(reach, n - 1 - place)
    offset = rng.integers(0, np.maximum(before + after, 1)) - before
    offset += (offset >= 0) & (n > 1)  # over the slice itself
    rows: np.ndarray = np.arange(len(scan)) + offset
    return rows


def _groups(sampling: Sampling, scan: np.ndarray, subject: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of whole groups: scans of different subjects one after the other, until the batch is full."""
    rows_of = {int(s): np.flatnonzero(scan == s) for s in np.unique(scan)}
    scans, per_scan, size, count = _sizes(sampling, [len(rows) for rows in rows_of.values()])
    queue: list[int] = []
    batches = []
    for _ in range(count):
        chosen: list[np.ndarray] = []
        missing, subjects, taken = size, set[int](), set[int]()
        while missing > 0:
            if not rows_of.keys() <= set(queue):  # every scan is in sight, so one that fits is always found
                queue.extend(int(s) for s in rng.permutation(list(rows_of)))
            one = _next_scan(queue, taken, subjects, subject, rows_of)
            rows = rng.permutation(rows_of[one])[: min(per_scan, missing)]
            chosen.append(rows)
            taken.add(one)
            subjects.add(int(subject[rows[0]]))
            missing -= len(rows)
            if len(taken) == scans and missing > 0:
                break  # every scan gave what it has
        batches.append(np.concatenate(chosen))
    return batches


def _sizes(sampling: Sampling, slices: Sequence[int]) -> tuple[int, int, int, int]:
    """Scans of a batch, slices of a scan and of a batch (each at most), and batches of an epoch: as many as show, taken
    together, about the number of slices that there are.

    Args:
        sampling: Of groups.
        slices: How many each scan has.
    """
    total = sum(slices)
    if sampling.scans_per_batch is None:
        size = min(sampling.batch_size, total)
        return len(slices), max(sampling.per_scan, -(-size // len(slices))), size, max(1, total // size)
    scans = min(sampling.scans_per_batch, len(slices))
    per_scan = min(sampling.per_scan, max(1, sampling.batch_size // scans))
    shown = scans * sum(min(per_scan, n) for n in slices)  # in an average batch, times the number of scans
    return scans, per_scan, scans * per_scan, max(1, total * len(slices) // shown)


def _next_scan(
    queue: list[int], taken: set[int], subjects: set[int], subject: np.ndarray, rows_of: dict[int, np.ndarray]
) -> int:
    """The first waiting scan of a subject that the batch does not hold yet; else the first that is new at all."""
    fresh = [s for s in queue if s not in taken]
    other = [s for s in fresh if int(subject[rows_of[s][0]]) not in subjects]
    found = (other or fresh)[0]
    queue.remove(found)
    return found


def memory_of(device: torch.device) -> int:
    """Bytes of memory of the device; for a CPU what the machine has, 8 GiB where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
