"""The store of prepared scans, read: its facts at once, each array memory-mapped when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis.datasets.frame import Frame
from lemis.errors import UsageError, first_of
from lemis.measure.tables import count
from lemis.preparation import store_files
from lemis.preparation.crops import crop_field, field_of_view
from lemis.preparation.facts import Facts, inside_field
from lemis.preparation.keypoints import ScanKeypoints
from lemis.preparation.slices import Shape2


class Slices(NamedTuple):
    """Every slice of the store, scan after scan: five arrays of one length."""

    scan: NDArray[np.int64]  # index into Store.scans
    slice_index: NDArray[np.int64]  # within the scan
    position: NDArray[np.float32]  # (slice index + 1) / number of slices of the scan, in (0, 1]
    subject: NDArray[np.int64]  # index into Store.subjects
    labelled: NDArray[np.bool_]


class Stack(NamedTuple):
    """Slices at one common shape, to keep whole on the device."""

    image: NDArray[np.float16]  # (N, C, H, W)
    label: NDArray[np.uint8]  # (N, H, W) class indices; 0 where there is no label
    has_label: NDArray[np.bool_]  # (N,)
    inside: NDArray[np.bool_]  # (N, H, W), False where a slice was padded


@dataclass(frozen=True, kw_only=True)
class Store:
    """A finished folder of prepared scans. Arrays are opened when they are read."""

    path: Path
    scans: tuple[Facts, ...]
    channels: tuple[str, ...]
    label_names: tuple[str, ...]  # index 0 is the background
    label_values: tuple[int, ...]  # original integer of each class
    settings: Mapping[str, Any]  # settings.Settings, settled, as of ``settings.as_stored``
    keypoint_settings: Mapping[str, Any] | None = None  # keypoints.Settings as plain values; None: no keypoints
    frame: Frame | None = None  # None: prepared before there were frames, in RAS+ order
    asked: Mapping[str, Any] | None = None  # settings.Settings before they were settled; None: not written down

    @property
    def num_classes(self) -> int:
        """Background included."""
        return len(self.label_names)

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Sorted; ``Slices.subject`` counts in them."""
        return tuple(sorted({facts.subject for facts in self.scans}))

    def index_of(self, id: str) -> int:
        """Place of a scan in ``scans``.

        Raises:
            UsageError: No such scan.
        """
        if id not in self._places:
            raise UsageError(
                f"scan {id!r} is not in {self.path}",
                allowed=f"{count(len(self.scans), 'scan')}: {first_of(self._places, 3)}",
                next="`lemis check` lists the scans of a folder",
            )
        return self._places[id]

    def image(self, i: int) -> NDArray[np.float16]:
        """(n, C, H, W) of scan ``i``, memory-mapped, read-only.

        Raises:
            UsageError: The file is damaged.
        """
        return store_files.read_image(self.path, self.scans[i], len(self.channels))

    def digest(self, id: str) -> str:
        """sha256 of the prepared image of one scan, its shape included: equal for one scan under two names.

        Raises:
            UsageError: No such scan.
        """
        image = self.image(self.index_of(id))
        content = hashlib.sha256(repr((image.shape, image.dtype.str)).encode())
        content.update(np.ascontiguousarray(image).data)
        return content.hexdigest()

    def label(self, i: int) -> NDArray[np.uint8] | None:
        """(n, H, W) class indices of scan ``i``, memory-mapped, read-only; None where it has no label.

        Raises:
            UsageError: The file is damaged.
        """
        return store_files.read_label(self.path, self.scans[i]) if self.scans[i].labelled else None

    def keypoints(self, i: int) -> ScanKeypoints:
        """Keypoints of scan ``i``, in pixels of ``image(i)``.

        Raises:
            UsageError: The store has none, or the file is damaged.
        """
        if self.keypoint_settings is None:
            raise UsageError(
                f"no keypoints in {self.path}",
                allowed="a preparation with keypoints",
                next=f"lemis prepare {self.path.parent} keypoints.detector=sift",
            )
        return store_files.read_keypoints(self.path, self.scans[i])

    @cached_property
    def slices(self) -> Slices:
        """All prepared slices of all scans."""
        counts = np.array([facts.slices for facts in self.scans], np.int64)
        scan = np.repeat(np.arange(len(counts)), counts)
        index = np.arange(len(scan)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = {subject: i for i, subject in enumerate(self.subjects)}
        subject = np.array([place[facts.subject] for facts in self.scans], np.int64)
        labelled = np.array([facts.labelled for facts in self.scans], bool)
        position = ((index + 1) / counts[scan]).astype(np.float32)
        return Slices(scan, index, position, subject[scan], labelled[scan])

    @property
    def common_shape(self) -> Shape2:
        """(H, W) that holds every prepared slice."""
        shapes = [facts.prepared_shape for facts in self.scans]
        return max(rows for rows, _ in shapes), max(cols for _, cols in shapes)

    @property
    def nbytes_resident(self) -> int:
        """Bytes of ``stack()``."""
        rows, cols = self.common_shape
        pixels = sum(facts.slices for facts in self.scans) * rows * cols
        return pixels * (2 * len(self.channels) + 2) + sum(facts.slices for facts in self.scans)

    def stack(self, scans: Sequence[int] | None = None, shape: Shape2 | None = None) -> Stack:
        """All slices of ``scans``, in that order, at one shape.

        Args:
            scans: Indices into ``scans``; all of them by default.
            shape: (H, W); the largest of the store by default. Smaller slices are centred in zeros, larger
                ones cut to their centre.
        """
        chosen = range(len(self.scans)) if scans is None else scans
        shape = shape or self.common_shape
        total = sum(self.scans[i].slices for i in chosen)
        out = Stack(
            np.zeros((total, len(self.channels), *shape), np.float16),
            np.zeros((total, *shape), np.uint8),
            np.zeros(total, bool),
            np.zeros((total, *shape), bool),
        )
        start = 0
        for i in chosen:
            facts, label = self.scans[i], self.label(i)
            rows = slice(start, start + facts.slices)
            window = field_of_view(facts.prepared_shape, shape)
            out.image[rows] = crop_field(self.image(i), window)
            out.inside[rows] = crop_field(inside_field(facts), window)
            if label is not None:
                out.label[rows] = crop_field(label, window)
                out.has_label[rows] = True
            start += facts.slices
        return out

    @cached_property
    def _places(self) -> dict[str, int]:
        return {facts.id: i for i, facts in enumerate(self.scans)}


def open_store(path: Path) -> Store:
    """The store in ``path`` (``work/prepared``).

    Raises:
        UsageError: No finished store there, or one of another version.
    """
    path = Path(path)
    if not (path / "meta.json").is_file():
        raise UsageError(
            f"no finished preparation in {path}",
            allowed="a folder that `lemis prepare` has finished",
            next=f"lemis prepare {path.parent}",
        )
    meta = store_files.read_meta(path)
    assert meta is not None, "the file is there"
    return Store(
        path=path,
        scans=tuple(store_files.facts_of(path, id) for id in meta.scans),
        channels=meta.channels,
        label_names=meta.label_names,
        label_values=meta.label_values,
        settings=meta.settings,
        keypoint_settings=meta.keypoints,
        frame=meta.frame,
        asked=meta.asked,
    )
