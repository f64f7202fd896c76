"""What ``lemis segment-one`` records: ``mask.json`` beside each mask, and of a folder ``summary.csv``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lemis import files
from lemis.errors import UsageError
from lemis.formats.names import readable
from lemis.measure import tables
from lemis.measure.clusters import Protocol
from lemis.records import Count, Record, Size, each_row, find, read_table
from lemis.records import write as write_record
from lemis.work_files.run import Environment

SUMMARY = "summary.csv"
Positive = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Stamp(Record):
    """Which file an image is of: its name, and a digest of its time and size."""

    name: str
    stamp: str


class MadeFrom(Record):
    """All that a label map depends on."""

    image: Stamp
    method: str
    settings: dict[str, Any]  # the method's, resolved
    seed: int
    size: Size | Literal["native"]  # side of the square that it worked at, in pixels
    slices: str | None  # as typed; None: all
    window: str | None  # as typed; None: 8 bits as they are, else percentiles
    stored_axis: int | None = None  # never said of most images


class ClusterFacts(Record):
    """What is known of a cluster without a reference; ``measure.clusters`` defines the numbers."""

    label: Count
    share: Share
    border: Share
    distance: Positive
    contrast: Positive
    compactness: Positive
    score: Positive
    network_label: int  # that of the method; of both parts, where a cluster is shown in two


class Agreement(Record):
    """How a mask meets a reference."""

    dice: Share
    hammoude: Share
    xor: Positive


class SliceScores(Record):
    """The best-overlap cluster of a slice (None where none may be chosen), and the mask as it was written."""

    protocol: Protocol
    best_cluster: Count | None
    dice: Share
    hammoude: Share
    xor: Positive
    chosen: Agreement


class Divided(Record):
    """A slice and its clusters, before one of them is chosen."""

    slice: Size  # counted from 1
    iterations: Count
    restarts: Count
    seconds: Positive
    side_by_side: Size
    worked_at_px: tuple[Size, Size]
    clusters: tuple[ClusterFacts, ...]  # largest first
    proposed: Count | None
    why: str


class Slice(Divided):
    """A slice, the clusters chosen in it, and its scores where it has a reference."""

    chosen: tuple[Count, ...]
    mask_share: Share
    scores: SliceScores | None = None


class Means(Record):
    """Plain means over scored slices."""

    protocol: Protocol
    what: str
    scored: Size
    best: Agreement
    chosen: Agreement


class Names(Record):
    """Of the files beside the record; they are shown, never opened."""

    mask: str
    labels: str
    overlay: str


class MaskRecord(Record):
    """``mask.json``."""

    version: Literal[1]
    image: str
    made_from: MadeFrom
    notes: tuple[str, ...]
    left_empty: tuple[Count, ...]  # numbers of constant slices
    chosen_by: str
    slices: tuple[Slice, ...]
    means: Means | None
    files: Names
    environment: Environment


class Folder(Record):
    """What ``--batch --json`` prints of a folder of images."""

    images: Count
    failed: dict[str, str]  # what went wrong, by image
    without_reference: tuple[str, ...]
    means: Means | None
    summary: str


def _or_none(cell: Any) -> Any:
    return None if cell == "" else cell


_Whole = Annotated[Annotated[int, Field(ge=0, strict=False)] | None, BeforeValidator(_or_none)]
_Number = Annotated[Annotated[float, Field(ge=0, strict=False)] | None, BeforeValidator(_or_none)]


class SummaryRow(Record):
    """One line of ``summary.csv``: a slice of an image, or an image that failed; None where there is no number."""

    image: str
    slice: _Whole = None
    status: Literal["done", "kept", "failed"]
    clusters: _Whole = None
    chosen: str = ""  # 2+3
    share: _Number = None
    iterations: _Whole = None
    restarts: _Whole = None
    seconds: _Number = None
    protocol: str = ""
    best_cluster: _Whole = None
    dice: _Number = None
    hammoude: _Number = None
    xor: _Number = None
    chosen_dice: _Number = None
    chosen_hammoude: _Number = None
    chosen_xor: _Number = None
    problem: str = ""


def read(path: Path) -> MaskRecord | None:
    """The record beside a mask; None where there is none.

    Raises:
        UsageError: A file of its name that is none of ours, or a damaged one.
    """
    again = f"move {path.name}, or choose another name after -o"
    if path.is_file() and not _is_ours(files.read_text(path, next=again)):
        raise UsageError(
            f"{path} is not a record of lemis segment-one",
            allowed="a name for the mask beside which no other file is in the way",
            next=again,
        )
    found: MaskRecord | None = find(path, MaskRecord, next=again)
    return found


def _is_ours(text: str) -> bool:
    """Whether it may be a record; what is no JSON may be one that was cut off."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return isinstance(found, dict) and "version" in found and "made_from" in found


def write(path: Path, record: MaskRecord) -> None:
    """Replace the record beside a mask."""
    write_record(path, record)


def read_summary(folder: Path, *, next: str) -> list[SummaryRow]:
    """The lines of the summary of a folder of masks.

    Args:
        folder: The masks.
        next: What makes it anew.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    path = folder / SUMMARY
    rows = read_table(path, tuple(SummaryRow.model_fields), next=next)
    return each_row(path, rows, SummaryRow.model_validate, next=next)


def write_summary(folder: Path, rows: Sequence[SummaryRow]) -> Path:
    """Write the summary of a folder of masks, which is made where it is missing; gives the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SUMMARY
    cells = [
        {name: readable(value) if isinstance(value, str) else value for name, value in row.model_dump().items()}
        for row in rows
    ]  # names of files may hold bytes that are no UTF-8
    files.write(path, tables.comma_separated(cells, tuple(SummaryRow.model_fields)))
    return path
