"""The files of prepared scans, each with its reader and its writer: one plain array file per scan, slice axis first.

```
prepared/  meta.json  ID.npy (n, C, H, W) float16  ID.label.npy (n, H, W) uint8  ID.json (facts.Facts)
           keypoints.json  ID.keypoints.npz (keypoints.ScanKeypoints)      where keypoints were asked for
```
``meta.json`` is written last: a folder without it was not finished. It names the keypoints' settings once those of
every scan are there; ``keypoints.json`` names the ones asked for from the beginning. While scans are prepared anew,
``meta.json.before`` says what the store was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from lemis import files, records
from lemis.datasets.frame import Frame, StoredFrame
from lemis.errors import UsageError
from lemis.formats import npz
from lemis.formats.names import unfit_id
from lemis.preparation import array_files
from lemis.preparation.array_files import Form
from lemis.preparation.facts import Facts
from lemis.preparation.keypoints import ScanKeypoints
from lemis.preparation.keypoints import Settings as Keypoints
from lemis.preparation.settings import Settings as Preparation
from lemis.records import Name, Record
from lemis.settings import plain, resolve

VERSION = 2  # 2: digests of images and labels
_BEFORE = "meta.json.before"  # no scan has a file of this name


def _prepared_so(settings: dict[str, Any]) -> dict[str, Any]:
    resolve(Preparation, settings, prefix="settings.")
    return settings


def _found_so(settings: dict[str, Any]) -> dict[str, Any]:
    resolve(Keypoints, settings, prefix="keypoints.")
    if settings.keys() != asdict(Keypoints()).keys():
        raise ValueError("should be all settings of keypoints")
    return settings


_Keypoints = Annotated[dict[str, Any], AfterValidator(_found_so)]


class Meta(Record):
    """``meta.json``."""

    version: Literal[2]  # VERSION
    settings: Annotated[dict[str, Any], AfterValidator(_prepared_so)]
    asked: dict[str, Any] | None = None  # settings.Settings as they were given, before they were settled
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
    records.write_tree(path / "meta.json", meta, Meta)
    (path / _BEFORE).unlink(missing_ok=True)


def begin(path: Path) -> None:
    """Declare the store unfinished; what it was is kept until it is finished again."""
    if (path / "meta.json").exists():
        (path / "meta.json").replace(path / _BEFORE)


def read_last(path: Path) -> Meta | None:
    """``meta.json`` of the last finished preparation, also while the next one is unfinished; None where there was none,
    or it is damaged.
    """
    for name in ("meta.json", _BEFORE):
        try:
            found: Meta | None = records.find(path / name, Meta, next="")
        except UsageError:
            continue
        if found is not None:
            return found
    return None


def read_facts(path: Path, id: str) -> Facts | None:
    """Facts of one scan of the store; None where it is not there, is damaged or was written by another version."""
    try:
        return facts_of(path, id)
    except UsageError:
        return None


def facts_of(path: Path, id: str) -> Facts:
    """Facts of one scan of the store.

    Raises:
        UsageError: They are not there, are damaged, or are of another scan.
    """
    again = f"lemis prepare {path.parent}"
    facts: Facts = records.read(path / f"{id}.json", _FACTS, next=again)
    if facts.id != id:
        raise UsageError(f"{path / id}.json is of the scan {facts.id!r}", allowed=id, next=again)
    return facts


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
    array_files.write(path / f"{facts.id}.npy", image.astype(np.float16, copy=False))
    if label is not None:
        assert label.shape == (facts.slices, *facts.prepared_shape), "label and image on one grid"
        array_files.write(path / f"{facts.id}.label.npy", label.astype(np.uint8, copy=False))
    records.write_tree(path / f"{facts.id}.json", asdict(facts), _FACTS)


def forget_scan(path: Path, id: str) -> None:
    """Remove what the store holds of one scan."""
    for suffix in (".json", ".npy", ".label.npy", ".keypoints.npz"):
        (path / f"{id}{suffix}").unlink(missing_ok=True)


def read_image(path: Path, facts: Facts, channels: int) -> NDArray[np.float16]:
    """(n, C, H, W) of a scan, memory-mapped, read-only.

    Raises:
        UsageError: The file is gone or damaged.
    """
    return array_files.read(path / f"{facts.id}.npy", _image_form(facts, channels))


def read_label(path: Path, facts: Facts) -> NDArray[np.uint8]:
    """(n, H, W) class indices of a labelled scan, memory-mapped, read-only. Raises like ``read_image``."""
    return array_files.read(path / f"{facts.id}.label.npy", _label_form(facts))


def is_whole(path: Path, facts: Facts, channels: int) -> bool:
    """Whether the arrays of a scan are there, complete, and of the shapes that follow from its facts."""
    forms = {f"{facts.id}.npy": _image_form(facts, channels)}
    if facts.labelled:
        forms[f"{facts.id}.label.npy"] = _label_form(facts)
    return all(array_files.fault_of(path / name, form) is None for name, form in forms.items())


def _image_form(facts: Facts, channels: int) -> Form:
    return Form((facts.slices, channels, *facts.prepared_shape), np.float16)


def _label_form(facts: Facts) -> Form:
    return Form((facts.slices, *facts.prepared_shape), np.uint8)


def ask_keypoints(path: Path, settings: Mapping[str, Any]) -> None:
    """Write down which keypoints this store is to have, before any are found."""
    records.write_tree(path / "keypoints.json", dict(settings), _Keypoints)


def asked_keypoints(path: Path) -> Mapping[str, Any] | None:
    """The settings of ``ask_keypoints``; None if nobody asked for keypoints."""
    file = path / "keypoints.json"
    again = f"delete {file}, and then lemis prepare {path.parent} keypoints.detector=sift where keypoints are wanted"
    settings: Mapping[str, Any] | None = records.find(file, _Keypoints, next=again)
    return settings


def write_keypoints(path: Path, id: str, found: ScanKeypoints, fingerprint: str) -> None:
    """Store the keypoints of one scan, and what they were made from."""
    with files.replacing(path / f"{id}.keypoints.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **found._asdict())


def read_keypoints(path: Path, facts: Facts) -> ScanKeypoints:
    """Keypoints of a scan.

    Raises:
        UsageError: The file is gone or damaged.
    """
    file = path / f"{facts.id}.keypoints.npz"
    try:
        return _keypoints_in(file, facts)[0]
    except (FileNotFoundError, npz.Damaged) as fault:
        raise array_files.damaged(file, str(fault)) from None


def keypoint_fingerprint(path: Path, facts: Facts) -> str | None:
    """What the stored keypoints of one scan were made from; None where there are none, or damaged ones."""
    try:
        return _keypoints_in(path / f"{facts.id}.keypoints.npz", facts)[1]
    except (FileNotFoundError, npz.Damaged):
        return None


def _keypoints_in(file: Path, facts: Facts) -> tuple[ScanKeypoints, str]:
    """Keypoints of a scan, and what they were made from."""
    content = npz.read(file, (*ScanKeypoints._fields, "fingerprint"))
    fingerprint = str(content.pop("fingerprint"))
    found = ScanKeypoints(**content)
    count, place, descriptor = found
    total = int(count.sum()) if count.dtype == np.int32 and count.shape == (facts.slices,) else -1
    if count.min(initial=0) < 0 or place.dtype != np.int16 or place.shape != (total, 2) or len(descriptor) != total:
        raise npz.Damaged("its arrays do not fit together")
    if descriptor.ndim != 2 or ((place < 0) | (place >= facts.prepared_shape)).any():
        raise npz.Damaged("a keypoint outside its slice")
    return found, fingerprint
