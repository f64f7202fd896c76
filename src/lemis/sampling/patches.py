"""Which patches of volumes make up a batch, and the batch itself, on the device: ``samples.Slices`` in 3D.

A patch is drawn as a place in a scan. What the batch holds is the region around it that a view of the patch can be
read from, so that a turned or enlarged view shows the scan in its corners, and zeros only where the scan ends.

Everything random here is a function of (seed, epoch), so a resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemis.contracts import Batch, Sampling
from lemis.errors import UsageError
from lemis.preparation.store import Store
from lemis.sampling.samples import RESIDENT_SHARE, cut, memory_of, read_ahead
from lemis.sampling.spatial import Spatial, reach_px

PLACES = 10_000  # labelled voxels of a structure of a scan that patches are drawn at, at most; nnU-Net v2's number


@final
class Patches:
    """Patches of some prepared scans, as batches on a device.

    Volumes are put on the device once where they fit in a fifth of its memory. Otherwise threads read the regions of
    the next batches from memory-mapped files.

    Args:
        store: Prepared scans.
        scans: Which of them, as positions in ``store.scans``.
        device: Where batches are made.
        sampling: Its ``patch_px`` is (slices, rows, cols) of a patch; a smaller scan lies in the middle of zeros.
        spatial: How views of the patches will be drawn: how large the regions around them are.
        with_labels: Batches carry labels; every scan must have one.
        resident: Keep all volumes on the device; None decides by memory.

    Raises:
        UsageError: No scan.
    """

    def __init__(
        self,
        store: Store,
        scans: Sequence[int],
        device: torch.device,
        sampling: Sampling,
        spatial: Spatial,
        *,
        with_labels: bool = False,
        resident: bool | None = None,
    ) -> None:
        assert sampling.patch_px is not None, "a method in three dimensions says how large its patches are"
        if len(scans) == 0:
            raise UsageError(
                "no scan to draw patches from", allowed="at least one prepared scan", next="lemis check SCANS"
            )
        self.store, self.device, self.with_labels = store, device, with_labels
        self.scan = np.asarray(scans, dtype=np.int64)
        facts = [store.scans[int(scan)] for scan in scans]
        place = {subject: i for i, subject in enumerate(store.subjects)}
        self.subject = np.array([place[one.subject] for one in facts], dtype=np.int64)
        self.shape = np.array([(one.slices, *one.prepared_shape) for one in facts])
        self.patch_px = np.array(sampling.patch_px)
        self.region_px = np.array(reach_px(spatial, tuple(sampling.patch_px)))
        self._places = [_places(self._label(row)) for row in range(len(scans))] if with_labels else []
        size = int(self.shape.prod(axis=1).sum()) * (2 * len(store.channels) + with_labels)
        self.resident = size < RESIDENT_SHARE * memory_of(device) if resident is None else resident
        self._volumes: list[tuple[Tensor, Tensor | None]] = []
        if self.resident:
            self._volumes = [self._open(row) for row in range(len(scans))]
        spacing = [one.prepared_spacing_mm for one in facts]
        self._spacing_mm = torch.tensor(spacing, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.scan)

    def draw(self, sampling: Sampling, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """Every batch of one epoch, in which each scan gives one patch; where they are fewer than a batch, more.

        Returns:
            (B, 4) each: row of the scan in this set, and the first voxel of the patch along each axis.
        """
        rng = np.random.default_rng([seed, epoch])
        size = sampling.batch_size
        rows = rng.permutation(len(self))
        while len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(len(self))])[:size]
        return [
            self._patches(scans, round(len(scans) * sampling.foreground_share), rng) for scans in cut(rows, sampling)
        ]

    def stream(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Batches of patches as ``draw`` names them, in order; ``label`` and ``inside`` have the region's shape."""
        if self.resident:
            for patches in batches:
                yield self._batch(patches, *self._read(patches))
        else:
            for patches, (image, label) in read_ahead(self._read, batches):
                yield self._batch(patches, image, label)

    def scans_of(self, patches: NDArray[np.int64]) -> list[str]:
        """Ids of the scans of a batch."""
        return sorted({self.store.scans[int(self.scan[row])].id for row in patches[:, 0]})

    def _patches(self, rows: NDArray[np.int64], labelled: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(B, 4) random patches of some scans, the first ``labelled`` of them at a labelled voxel."""
        return np.array([self._patch(int(row), k < labelled, rng) for k, row in enumerate(rows)])

    def _patch(self, row: int, labelled: bool, rng: np.random.Generator) -> tuple[int, ...]:
        """A random patch of a scan, its middle a labelled voxel where asked for and where there is one."""
        spare = self.shape[row] - self.patch_px
        places = self._places[row] if labelled and self.with_labels else []
        if places:
            structure = places[rng.integers(len(places))]
            first = structure[rng.integers(len(structure))] - self.patch_px // 2
        else:
            first = rng.integers(0, np.maximum(spare, 0) + 1)
        # The same middle as ``geometries.identity`` has: of an odd number of zeros, one more lies behind.
        first = np.where(spare >= 0, np.clip(first, 0, np.maximum(spare, 0)), -(-spare // 2))
        return (row, *(int(value) for value in first))

    def _batch(self, patches: NDArray[np.int64], image: Tensor, label: Tensor | None) -> Batch:
        row = torch.from_numpy(patches[:, 0])
        height = (patches[:, 1] + self.patch_px[0] / 2) / self.shape[patches[:, 0], 0]
        # One number for a place, wherever it is drawn again: bases that no coordinate reaches.
        index = patches[:, 0]
        for axis in range(3):
            index = index * 2**16 + patches[:, 1 + axis] + 2**15
        return Batch(
            image=image.float(),
            index=torch.from_numpy(index).to(self.device),
            scan=torch.from_numpy(self.scan[patches[:, 0]]).to(self.device),
            subject=torch.from_numpy(self.subject[patches[:, 0]]).to(self.device),
            position=torch.from_numpy(height.astype(np.float32)).to(self.device),
            spacing_mm=self._spacing_mm[row.to(self.device)],
            inside=self._inside(patches).to(self.device),
            label=None if label is None else label.long(),
        )

    def _read(self, patches: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Regions (B, C, *region_px) float16 and (B, *region_px) uint8 on the device, zeros where the scan ends."""
        where = self.device if self.resident else torch.device("cpu")
        image = torch.zeros(len(patches), len(self.store.channels), *self.region_px, dtype=torch.float16, device=where)
        label = None
        if self.with_labels:
            label = torch.zeros(len(patches), *self.region_px, dtype=torch.uint8, device=where)
        for k, patch in enumerate(patches):
            row, (source, target) = int(patch[0]), self._region(patch)
            if self.resident:
                volume, labels = self._volumes[row]
                volume, labels = volume[:, *source], None if labels is None else labels[source]
            else:
                volume, labels = self._open(row, source)
            image[k][:, *target] = volume
            if label is not None and labels is not None:
                label[k][target] = labels
        image = image.to(self.device, non_blocking=True)
        return image, None if label is None else label.to(self.device, non_blocking=True)

    def _region(self, patch: NDArray[np.int64]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a region and its scan meet: in the scan, and in the region."""
        first = patch[1:] - (self.region_px - self.patch_px) // 2
        low = np.maximum(first, 0)
        high = np.maximum(np.minimum(first + self.region_px, self.shape[patch[0]]), low)
        source = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return source, tuple(slice(int(a), int(b)) for a, b in zip(low - first, high - first, strict=True))

    def _inside(self, patches: NDArray[np.int64]) -> Tensor:
        """(B, 1, *region_px) bool."""
        inside = torch.zeros(len(patches), 1, *self.region_px, dtype=torch.bool)
        for k, patch in enumerate(patches):
            inside[k, 0][self._region(patch)[1]] = True
        return inside

    def _open(self, row: int, part: tuple[slice, ...] = (slice(None),) * 3) -> tuple[Tensor, Tensor | None]:
        """(C, *part) float16 and (*part) uint8 of a scan: on the device where volumes are resident, else on the CPU."""
        slices, *in_plane = part
        image = self.store.image(int(self.scan[row]))[(slices, slice(None), *in_plane)]
        where = self.device if self.resident else torch.device("cpu")
        volume = torch.from_numpy(np.array(image)).transpose(0, 1).contiguous().to(where)
        if not self.with_labels:
            return volume, None
        return volume, torch.from_numpy(np.array(self._label(row)[part])).to(where)

    def _label(self, row: int) -> NDArray[np.uint8]:
        scan = int(self.scan[row])
        label = self.store.label(scan)
        assert label is not None, f"{self.store.scans[scan].id} has no label"
        return label


def _places(label: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Voxels (n, 3) of each structure of a label map, at most ``PLACES`` of each, evenly spread over its voxels."""
    places = []
    for value in np.unique(label):
        if value != 0:
            flat = np.flatnonzero(label == value)
            some = flat[np.linspace(0, len(flat) - 1, min(PLACES, len(flat))).astype(np.int64)]
            places.append(np.stack(np.unravel_index(some, label.shape), axis=1))
    return places
