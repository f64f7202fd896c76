"""``predictions.json``: which networks made each label map of a folder, and what they had been trained on.

Two ``predict`` into one folder lose nothing: each entry is added under a lock to what is there at that moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field

from lemis.datasets.index import Scan
from lemis.formats.directions import Axes
from lemis.formats.paths import is_picture
from lemis.preparation.exposure import Strange
from lemis.records import Count, Name, Record, find, write
from lemis.work_files.run import OnePiece

RECORD = "predictions.json"
_WAIT_S = 60  # for another process, which holds the lock for milliseconds


class Kept(OnePiece):
    """Of what only the largest connected piece is kept in a label map."""

    least_share: float = 0.0  # of its voxels that the largest piece must hold; else all pieces stay
    by: Literal["labels", "held-out scans", "command"] = "labels"  # who says so


class Pieces(Record):
    """What became of the pieces of a label map."""

    voxels: Count  # of all structures, before any was removed
    removed: dict[str, Count] = Field(default_factory=dict)  # voxels of islands, by structure; they are background now
    foreground_in_pieces: bool = False  # all structures together stay in several pieces, as none is large enough
    in_pieces: tuple[str, ...] = ()  # structures that do


class Prediction(Record):
    """One label map."""

    file: Name | None = None
    runs: tuple[Name, ...] = ()
    run: Name | None = None  # where there is one, as older records have it
    weights: tuple[str, ...] = ()  # digests, of each run
    labelled_subjects: tuple[str, ...] | None = None  # whose labels the runs saw; None: not known
    pretraining_subjects: tuple[str, ...] | None = None  # whose images the runs' pre-training saw; None: not known
    unlabelled_subjects: tuple[str, ...] = ()  # whose images the runs' fine-tuning saw without their labels
    tiles: dict[str, Any] | None = None  # in which a volume was seen
    mirrored: tuple[int, ...] = ()  # axes of what a network sees, along which its logits are of all mirror images
    kept: Kept | None = None  # None: every piece
    pieces: Pieces | None = None  # what that did; None: nothing was looked at
    images: tuple[tuple[str, str], ...] = ()  # path and stamp of each file of the scan
    scan: Scan | None = None  # as its folder lists it, with whole paths
    inputs: str | None = None  # the folder; None: the work folder's own scans
    digest: str | None = None  # ``scans.image_digest`` of the image
    known_as: tuple[str, ...] = ()  # subjects of the runs' data set with this very image
    strange: tuple[Strange, ...] = ()  # in what it is far from all that the runs were trained on


class Pooled(Record):
    """The papers' Dice, where ``predict`` wrote it."""

    dice: dict[str, float]
    mean: float


class Predictions(Record):
    """All label maps of a folder. What stands beside ``scans`` holds for each of them that does not say otherwise."""

    version: Literal[1] = 1
    scans: dict[Name, Prediction] = Field(default_factory=dict)
    pretraining_subjects: tuple[str, ...] | None = None
    runs: tuple[Name, ...] = ()
    run: Name | None = None
    labelled_subjects: tuple[str, ...] | None = None
    test_subjects: tuple[str, ...] | None = None
    nominal_spacing: bool = False
    pooled: Pooled | None = None
    structures: dict[str, int] = Field(default_factory=dict)  # name -> value in the label maps, background left out
    ignored_values: tuple[int, ...] = ()  # further values in references, which count as background
    known_labels: dict[str, str] = Field(default_factory=dict)  # digest -> subject, of the labels of the runs' data set
    run_folders: dict[Name, str] = Field(default_factory=dict)
    channels: tuple[str, ...] = ()
    layout: str | None = None
    frame: Axes | None = None

    def made(self, scan: str) -> Prediction:
        """How the label map of a scan was made: as its entry says, else as what holds for all does."""
        entry = self.scans.get(scan) or Prediction()
        shared = ("runs", "run", "labelled_subjects", "pretraining_subjects")
        return entry.model_copy(
            update={name: getattr(self, name) for name in shared if name not in entry.model_fields_set}
        )

    def are_pixels(self, scan: str) -> bool:
        """Whether no physical size of a scan is known, as of pictures."""
        listed = self.made(scan).scan
        return listed is not None and is_picture(Path(listed.images[0]))


def read(folder: Path) -> Predictions | None:
    """What is known of the label maps of a folder; None where there is no record.

    Raises:
        UsageError: The record is damaged.
    """
    path = folder / RECORD
    again = f"delete {folder} and predict again: what its label maps were made by is lost with {RECORD}"
    found: Predictions | None = find(path, Predictions, next=again)
    return found


def add(folder: Path, scan: str, made: Prediction, shared: Predictions) -> None:
    """Add one label map to the record of a folder, whatever other processes write there meanwhile.

    Args:
        folder: Of the label maps.
        scan: Id.
        made: How its label map was made.
        shared: What holds for all that its runs make; labels and folders are joined with those that are there.
    """
    with FileLock(folder / f".{RECORD}.lock", timeout=_WAIT_S):
        before = read(folder) or Predictions(version=1)
        changed = {
            **{name: getattr(shared, name) for name in shared.model_fields_set},
            "scans": {**before.scans, scan: made},
            "known_labels": {**before.known_labels, **shared.known_labels},
            "run_folders": {**before.run_folders, **shared.run_folders},
        }
        write(folder / RECORD, before.model_copy(update=changed))
