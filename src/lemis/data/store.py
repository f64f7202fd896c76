"""Prepared scans on disk: one plain array file per scan, slice axis first, read by memory map.

```
prepared/  meta.json  ID.npy (n, C, H, W) float16  ID.label.npy (n, H, W) uint8  ID.json (preprocess.Facts)
           keypoints.json  ID.keypoints.npz (keypoints.ScanKeypoints)      where keypoints were asked for
```
``meta.json`` is written last: a folder without it was not finished. It names the keypoints' settings once those of
every scan are there; ``keypoints.json`` names the ones asked for from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from lemis import files
from lemis.data.frame import Frame, read_frame
from lemis.data.keypoints import ScanKeypoints
from lemis.data.preprocess import Facts, Shape2, crop_field, field_of_view, inside_field
from lemis.errors import UsageError
from lemis.settings import plain

VERSION = 2  # 2: digests of images and labels

_FACTS = TypeAdapter(Facts)


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
    settings: Mapping[str, Any]  # preprocess.Settings, settled, as of ``preprocess.stored``
    keypoint_settings: Mapping[str, Any] | None = None  # keypoints.Settings as plain values; None: no keypoints
    frame: Frame | None = None  # None: prepared before there were frames, in RAS+ order
    asked: Mapping[str, Any] | None = None  # preprocess.Settings before they were settled; None: not written down

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
                allowed=f"{len(self.scans)} scans, {', '.join(list(self._places)[:3])}, ...",
                next="`lemis check` lists the scans of a folder",
            )
        return self._places[id]

    def image(self, i: int) -> NDArray[np.float16]:
        """(n, C, H, W) of scan ``i``, memory-mapped, read-only."""
        return _map(self.path / f"{self.scans[i].id}.npy")

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
        """(n, H, W) class indices of scan ``i``, memory-mapped, read-only; None where it has no label."""
        return _map(self.path / f"{self.scans[i].id}.label.npy") if self.scans[i].labelled else None

    def keypoints(self, i: int) -> ScanKeypoints:
        """Keypoints of scan ``i``, in pixels of ``image(i)``.

        Raises:
            UsageError: The store has none.
        """
        if self.keypoint_settings is None:
            raise UsageError(
                f"no keypoints in {self.path}",
                allowed="a preparation with keypoints",
                next=f"lemis prepare {self.path.parent} keypoints.detector=sift",
            )
        with np.load(self.path / f"{self.scans[i].id}.keypoints.npz", allow_pickle=False) as file:
            return ScanKeypoints(*(file[field] for field in ScanKeypoints._fields))

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
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    if meta.get("version") != VERSION:
        raise UsageError(
            f"{path} is a store of version {meta.get('version')}",
            allowed=f"version {VERSION}",
            next=f"lemis prepare {path.parent}",
        )
    scans = [read_facts(path, id) for id in meta["scans"]]
    missing = [id for id, facts in zip(meta["scans"], scans, strict=True) if facts is None]
    if missing:
        raise UsageError(
            f"{path} lacks {missing[0]}.json",
            allowed="every scan of meta.json",
            next=f"lemis prepare {path.parent}",
        )
    return Store(
        path=path,
        scans=tuple(facts for facts in scans if facts is not None),
        channels=tuple(meta["channels"]),
        label_names=tuple(meta["label_names"]),
        label_values=tuple(meta["label_values"]),
        settings=meta["settings"],
        keypoint_settings=meta.get("keypoints"),
        frame=read_frame(meta.get("frame"), path / "meta.json"),
        asked=meta.get("asked"),
    )


def write_scan(path: Path, facts: Facts, image: NDArray[np.float16], label: NDArray[np.uint8] | None = None) -> None:
    """Store one prepared scan. ``ID.json`` goes first and comes last: where it is, the arrays are whole.

    Args:
        path: The store.
        facts: Of the scan.
        image: (n, C, H, W).
        label: (n, H, W) class indices.

    Raises:
        UsageError: An id that another file of the store would be named by.
    """
    taken = facts.id in ("meta", "keypoints") or facts.id.endswith((".label", ".keypoints"))
    if taken or "/" in facts.id or "\\" in facts.id:
        raise UsageError(
            f"scan id {facts.id!r}",
            allowed="an id without / that is not 'meta', 'keypoints', '*.label' or '*.keypoints'",
            next="rename the scan",
        )
    assert image.shape[0] == facts.slices, "one image slice per slice of the scan"
    assert image.shape[2:] == facts.prepared_shape, "slices of the prepared shape"
    assert (label is not None) == facts.labelled, "a label where the facts say so"
    forget_scan(path, facts.id)
    _save_array(path / f"{facts.id}.npy", image.astype(np.float16, copy=False))
    if label is not None:
        assert label.shape == (facts.slices, *facts.prepared_shape), "label and image on one grid"
        _save_array(path / f"{facts.id}.label.npy", label.astype(np.uint8, copy=False))
    files.write(path / f"{facts.id}.json", _FACTS.dump_json(facts, indent=1).decode() + "\n")


def forget_scan(path: Path, id: str) -> None:
    """Remove what the store holds of one scan."""
    for suffix in (".json", ".npy", ".label.npy", ".keypoints.npz"):
        (path / f"{id}{suffix}").unlink(missing_ok=True)


def write_keypoints(path: Path, id: str, found: ScanKeypoints, fingerprint: str) -> None:
    """Store the keypoints of one scan, and what they were made from."""
    with files.replacing(path / f"{id}.keypoints.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **found._asdict())


def keypoint_fingerprint(path: Path, id: str) -> str | None:
    """What the stored keypoints of one scan were made from; None where there are none."""
    try:
        with np.load(path / f"{id}.keypoints.npz", allow_pickle=False) as file:
            return str(file["fingerprint"])
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def ask_keypoints(path: Path, settings: Mapping[str, Any]) -> None:
    """Remember which keypoints this store is to have, whatever happens before they are found."""
    files.write(path / "keypoints.json", json.dumps(dict(settings), indent=1) + "\n")


def asked_keypoints(path: Path) -> Mapping[str, Any] | None:
    """The settings of ``ask_keypoints``; None where nobody asked."""
    try:
        settings: Mapping[str, Any] = json.loads((path / "keypoints.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return settings


def read_facts(path: Path, id: str) -> Facts | None:
    """Facts of one scan of the store; None where it is not there or was written by another version."""
    try:
        return _FACTS.validate_json((path / f"{id}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_meta(path: Path) -> Mapping[str, Any] | None:
    """The contents of ``meta.json``; None where the store is not finished."""
    try:
        meta: Mapping[str, Any] = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return meta


def write_meta(
    path: Path,
    *,
    scans: Sequence[str],
    channels: Sequence[str],
    label_names: Sequence[str],
    label_values: Sequence[int],
    settings: Mapping[str, Any],
    frame: Frame | None = None,
    asked: Mapping[str, Any] | None = None,
    keypoints: Mapping[str, Any] | None = None,
) -> None:
    """Declare the store finished; ``keypoints`` only when those of every scan are there too."""
    meta = {
        "version": VERSION,
        "settings": dict(settings),
        "frame": plain(frame),
        "asked": None if asked is None else dict(asked),
        "keypoints": None if keypoints is None else dict(keypoints),
        "channels": list(channels),
        "label_names": list(label_names),
        "label_values": list(label_values),
        "scans": list(scans),
    }
    files.write(path / "meta.json", json.dumps(meta, indent=1) + "\n")


def _map(path: Path) -> NDArray[Any]:
    # The time stamp is part of the key, so that a scan prepared anew is not read from the old file.
    name = os.fspath(path)
    return _mapped(name, os.stat(name).st_mtime_ns)


@lru_cache(maxsize=256)  # each open map holds a file descriptor; 1024 is a common limit
def _mapped(name: str, stamp: int) -> NDArray[Any]:  # noqa: ARG001
    array: NDArray[Any] = np.load(name, mmap_mode="r")
    return array


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))
