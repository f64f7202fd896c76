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
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import AfterValidator, Field, model_validator

from lemis import files, records
from lemis.datasets.frame import Frame, StoredFrame
from lemis.errors import UsageError
from lemis.formats.names import unfit_id
from lemis.preparation import keypoints as detection
from lemis.preparation import preprocess
from lemis.preparation.keypoints import ScanKeypoints
from lemis.preparation.preprocess import Facts, Shape2, crop_field, field_of_view, inside_field
from lemis.records import Name, Record
from lemis.settings import plain, resolve

VERSION = 2  # 2: digests of images and labels


def _prepared_so(settings: dict[str, Any]) -> dict[str, Any]:
    resolve(preprocess.Settings, settings, prefix="settings.")
    return settings


def _found_so(settings: dict[str, Any]) -> dict[str, Any]:
    resolve(detection.Settings, settings, prefix="keypoints.")
    if settings.keys() != asdict(detection.Settings()).keys():
        raise ValueError("should be all settings of keypoints")
    return settings


_Keypoints = Annotated[dict[str, Any], AfterValidator(_found_so)]


class Meta(Record):
    """``meta.json``."""

    version: Literal[2]  # VERSION
    settings: Annotated[dict[str, Any], AfterValidator(_prepared_so)]
    asked: dict[str, Any] | None = None  # preprocess.Settings as they were given, before they were settled
    frame: StoredFrame | None = None  # None: prepared before there were frames
    keypoints: _Keypoints | None = None
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    label_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]
    label_values: tuple[int, ...]
    scans: Annotated[tuple[Name, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.label_names) == len(self.label_values) == len(set(self.label_values)):
            raise ValueError(f"label_values {list(self.label_values)} for the names {list(self.label_names)}")
        if len(set(self.scans)) != len(self.scans):
            raise ValueError("scans, one of them twice")
        return self


def _possible(facts: Facts) -> Facts:
    shapes = (facts.slices, *facts.canonical_shape, *facts.slice_shape, *facts.resampled_shape, *facts.prepared_shape)
    lengths = (*facts.canonical_spacing_mm, *facts.prepared_spacing_mm)
    if min(shapes) < 1 or not 0 <= facts.slice_axis <= 2:
        raise ValueError("should have shapes of 1 or more, and an axis of 0 to 2")
    if not all(0 < length < math.inf for length in lengths):
        raise ValueError("should have spacings above 0")
    if not all(math.isfinite(one.mean) and 0 < one.std < math.inf for one in facts.intensity):
        raise ValueError("should have finite intensities")
    return facts


_FACTS = Annotated[Facts, AfterValidator(_possible)]


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
        """(n, C, H, W) of scan ``i``, memory-mapped, read-only.

        Raises:
            UsageError: The file is damaged.
        """
        return _map(self.path / f"{self.scans[i].id}.npy", _image_form(self.scans[i], len(self.channels)))

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
        facts = self.scans[i]
        return _map(self.path / f"{facts.id}.label.npy", _label_form(facts)) if facts.labelled else None

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
        file = self.path / f"{self.scans[i].id}.keypoints.npz"
        try:
            return _read_keypoints(file, self.scans[i])[0]
        except (FileNotFoundError, _Damaged) as fault:
            raise _damaged(file, str(fault)) from None

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
    meta = read_meta(path)
    assert meta is not None, "the file is there"
    return Store(
        path=path,
        scans=tuple(_facts(path, id) for id in meta.scans),
        channels=meta.channels,
        label_names=meta.label_names,
        label_values=meta.label_values,
        settings=meta.settings,
        keypoint_settings=meta.keypoints,
        frame=meta.frame,
        asked=meta.asked,
    )


def write_scan(path: Path, facts: Facts, image: NDArray[np.float16], label: NDArray[np.uint8] | None = None) -> None:
    """Store one prepared scan. ``ID.json`` goes first and comes last: where it is, the arrays are whole.

    Args:
        path: The store.
        facts: Of the scan.
        image: (n, C, H, W).
        label: (n, H, W) class indices.

    Raises:
        UsageError: An id that cannot be a file name, or that another file of the store would be named by.
    """
    if reason := unfit_id(facts.id):
        raise UsageError(
            f"scan id {facts.id!r} {reason}",
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
    files.write(path / f"{facts.id}.json", json.dumps(asdict(facts), indent=1) + "\n")


def forget_scan(path: Path, id: str) -> None:
    """Remove what the store holds of one scan."""
    for suffix in (".json", ".npy", ".label.npy", ".keypoints.npz"):
        (path / f"{id}{suffix}").unlink(missing_ok=True)


def write_keypoints(path: Path, id: str, found: ScanKeypoints, fingerprint: str) -> None:
    """Store the keypoints of one scan, and what they were made from."""
    with files.replacing(path / f"{id}.keypoints.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **found._asdict())


def keypoint_fingerprint(path: Path, facts: Facts) -> str | None:
    """What the stored keypoints of one scan were made from; None where there are none, or damaged ones."""
    try:
        return _read_keypoints(path / f"{facts.id}.keypoints.npz", facts)[1]
    except (FileNotFoundError, _Damaged):
        return None


def is_whole(path: Path, facts: Facts, channels: int) -> bool:
    """Whether the arrays of a scan are there, as long as they say, and of the shapes that follow from its facts."""
    forms = {f"{facts.id}.npy": _image_form(facts, channels)}
    if facts.labelled:
        forms[f"{facts.id}.label.npy"] = _label_form(facts)
    return all(_fault_of(path / name, form) is None for name, form in forms.items())


def ask_keypoints(path: Path, settings: Mapping[str, Any]) -> None:
    """Remember which keypoints this store is to have, whatever happens before they are found."""
    files.write(path / "keypoints.json", json.dumps(dict(settings), indent=1) + "\n")


def asked_keypoints(path: Path) -> Mapping[str, Any] | None:
    """The settings of ``ask_keypoints``; None where nobody asked."""
    file = path / "keypoints.json"
    again = f"delete {file}, and then lemis prepare {path.parent} keypoints.detector=sift where keypoints are wanted"
    settings: Mapping[str, Any] | None = records.find(file, _Keypoints, next=again)
    return settings


def read_facts(path: Path, id: str) -> Facts | None:
    """Facts of one scan of the store; None where it is not there, is damaged or was written by another version."""
    try:
        return _facts(path, id)
    except UsageError:
        return None


def read_meta(path: Path) -> Meta | None:
    """The contents of ``meta.json``; None where the store is not finished.

    Raises:
        UsageError: It is damaged, or of another version.
    """
    meta: Meta | None = records.find(path / "meta.json", Meta, next=f"lemis prepare {path.parent}")
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


def _facts(path: Path, id: str) -> Facts:
    again = f"lemis prepare {path.parent}"
    facts: Facts = records.read(path / f"{id}.json", _FACTS, next=again)
    if facts.id != id:
        raise UsageError(f"{path / id}.json is of the scan {facts.id!r}", allowed=id, next=again)
    return facts


class _Form(NamedTuple):
    """What an array file is to hold."""

    shape: tuple[int, ...]
    dtype: DTypeLike


class _Damaged(Exception):
    """Why a file cannot be used."""


def _image_form(facts: Facts, channels: int) -> _Form:
    return _Form((facts.slices, channels, *facts.prepared_shape), np.float16)


def _label_form(facts: Facts) -> _Form:
    return _Form((facts.slices, *facts.prepared_shape), np.uint8)


def _damaged(file: Path, fault: str) -> UsageError:
    return UsageError(
        f"{file} is damaged: {fault}",
        allowed="prepared scans as they were written",
        next=f"lemis prepare {file.parent.parent}",
    )


def _map(path: Path, form: _Form) -> NDArray[Any]:
    # The time stamp is part of the key, so that a scan prepared anew is not read from the old file.
    name = os.fspath(path)
    try:
        stamp = os.stat(name).st_mtime_ns
    except FileNotFoundError:
        raise _damaged(path, "it is gone") from None
    return _mapped(name, stamp, form)


@lru_cache(maxsize=256)  # each open map holds a file descriptor; 1024 is a common limit
def _mapped(name: str, stamp: int, form: _Form) -> NDArray[Any]:  # noqa: ARG001
    fault = _fault_of(Path(name), form)
    if fault is not None:
        raise _damaged(Path(name), fault)
    array: NDArray[Any] = np.load(name, mmap_mode="r")
    return array


def _fault_of(file: Path, form: _Form) -> str | None:
    """What is wrong with an array file, by its header and its length; None where it is whole."""
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                return f"version {version} of the format"
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            begins = stream.tell()
        length = file.stat().st_size
    except OSError as error:
        return error.strerror or "it cannot be read"
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:  # of its header
        return str(error).partition("\n")[0] or "its header cannot be read"
    if (shape, fortran, dtype) != (form.shape, False, np.dtype(form.dtype)):
        return f"shape {shape} of {dtype}, not {form.shape} of {np.dtype(form.dtype)}"
    if length != begins + math.prod(shape) * dtype.itemsize:
        return f"{length} bytes, not {begins + math.prod(shape) * dtype.itemsize}"
    return None


def _read_keypoints(file: Path, facts: Facts) -> tuple[ScanKeypoints, str]:
    """Keypoints of a scan, and what they were made from."""
    try:
        # Opened here: NumPy leaves a file open that turns out to be none of its own.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = ScanKeypoints(*(arrays[field] for field in ScanKeypoints._fields))
            fingerprint = str(arrays["fingerprint"])
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, ValueError, TypeError, MemoryError, NotImplementedError, zlib.error) as error:
        raise _Damaged(str(error).partition("\n")[0]) from None
    except zipfile.BadZipFile as error:
        raise _Damaged(str(error)) from None
    count, place, descriptor = found
    total = int(count.sum()) if count.dtype == np.int32 and count.shape == (facts.slices,) else -1
    if count.min(initial=0) < 0 or place.dtype != np.int16 or place.shape != (total, 2) or len(descriptor) != total:
        raise _Damaged("its arrays do not fit together")
    if descriptor.ndim != 2 or ((place < 0) | (place >= facts.prepared_shape)).any():
        raise _Damaged("a keypoint outside its slice")
    return found, fingerprint


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))
