"""How far label maps can be trusted: ``quality.csv`` and ``quality.json`` beside them, and ``held_out.json`` in a run,
by which new scans are judged: what its labelled scans are like, and how well it did on those it held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import BeforeValidator, ConfigDict, Field

from lemis import files
from lemis.formats.source import Source
from lemis.measure import tables
from lemis.measure.anatomy import Shape
from lemis.measure.looks import Looks
from lemis.records import Count, Name, Record, each_row, find, read_table, write

RECORD, TABLE, OF_RUN = "quality.json", "quality.csv", "held_out.json"
LEVEL = 0.8
_WAIT_S = 60

Verdict = Literal["look", "check", "usual", "unknown"]
Share = Annotated[float, Field(ge=0, le=1)]


class StoredShape(Record):
    """``anatomy.Shape``, None where that has NaN."""

    ml: float
    extra: float | None = None
    pieces: Count = 0
    holes: float | None = None
    cut: tuple[float | None, ...] = (None,) * 6
    step: float | None = None
    gaps: Count = 0
    centre_mm: tuple[float | None, ...] = (None,) * 3


class Scan(Record):
    """What a scan is like, with its label, or with the label map that was made of it."""

    subject: str
    shapes: dict[str, StoredShape]
    extent_mm: tuple[float, float, float]
    percentiles: tuple[tuple[float, ...], ...]
    stamp: str = ""  # of its files

    def anatomy(self) -> dict[str, Shape]:
        """By structure."""
        return {name: _shape(one) for name, one in self.shapes.items()}

    def looks(self) -> Looks:
        """Beside its anatomy."""
        return Looks(self.extent_mm, self.percentiles)


class HeldOut(Record):
    """A labelled scan that a run never saw the label of."""

    subject: str
    agreement: dict[str, Share]
    dice: dict[str, Share]  # of structures that the label map has; 0 where the label has them not


class Apart(Record):
    """A labelled scan, by how far it is from the nearest of another subject in what a network sees."""

    subject: str
    distance: Annotated[float, Field(ge=0)]  # 1: usual among the labelled scans


class OfRun(Record):
    """``held_out.json``."""

    version: Literal[1] = 1
    weights: str  # digest: of another training of this name nothing holds
    labelled: dict[Name, Scan] = Field(default_factory=dict)  # that it was trained on
    held_out: dict[Name, HeldOut] = Field(default_factory=dict)
    apart: dict[Name, Apart] = Field(default_factory=dict)  # of ``embedded.npz``; empty: nothing to measure by


class LookAt(Record):
    """A slice of a label map, in the array of its file as it is stored there."""

    axis: Annotated[int, Field(ge=0, le=2)]  # across which the slice lies
    slice: Count  # from 0


class Measured(Record):
    """What was measured of a label map as it was made."""

    scan: Scan
    own: bool  # of the work folder of its networks
    agreement: dict[Name, dict[str, Share]]  # by network, of those that never saw the scan's label
    ensemble: dict[str, Share] = Field(default_factory=dict)  # of all together, where each view shows it
    runs: tuple[Name, ...]  # whose held-out scans say what to expect
    labelled_runs: tuple[Name, ...]  # whose labelled scans say what is usual
    look_at: dict[str, LookAt] = Field(default_factory=dict)  # by structure, of those on which views differ: where most
    distance: dict[Name, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)  # by network, as of ``Apart``


class Basis(Record):
    """What the table is based on."""

    subjects: Count  # held out
    labelled: Count  # scans whose labels say what is usual
    level: Annotated[float, Field(gt=0, lt=1)]
    structures: tuple[str, ...]
    without_distance: Count = 0  # scans of which it was not measured, though it can be: they were predicted before


class OfFolder(Record):
    """``quality.json`` of a folder of label maps."""

    version: Literal[1] = 1
    basis: Basis | None = None
    scans: dict[Name, Measured] = Field(default_factory=dict)
    run_folders: dict[Name, str] = Field(default_factory=dict)


def _cell(text: Any) -> float:
    return math.nan if text == "" else float(text)


def _place(text: Any) -> int | None:
    return None if text in ("", None) else int(text)


_Number = Annotated[float, BeforeValidator(_cell)]
_Place = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_place)]
_Axis = Annotated[Annotated[int, Field(ge=0, le=2)] | None, BeforeValidator(_place)]


class Row(Record):
    """One line of ``quality.csv``: one structure of one label map, those to look at first on top."""

    model_config = ConfigDict(allow_inf_nan=True)

    scan: Annotated[str, Field(min_length=1)]
    structure: str
    agreement: _Number  # of views, the mean over networks; NaN: all of them saw the scan's label
    expected_dice: _Number  # NaN where no number can be given
    low: _Number
    high: _Number
    verdict: Verdict
    flags: str  # sentences, with ``. `` between them; empty: none
    look_at_axis: _Axis = None  # of the stored array, across which slices lie; None: views of the scan do not differ
    look_at_slice: _Place = None  # from 0: where views differ most about the structure
    distance: _Number = math.nan  # of the scan from the labelled ones, 1: usual among them; NaN: not known

    @property
    def has_number(self) -> bool:
        """Whether a Dice can be expected of it."""
        return not math.isnan(self.expected_dice)

    @property
    def look_at(self) -> LookAt | None:
        """Where views differ most, if it is known."""
        if self.look_at_axis is None or self.look_at_slice is None:
            return None
        return LookAt(axis=self.look_at_axis, slice=self.look_at_slice)


def look_at_on(source: Source, slices: Mapping[str, LookAt]) -> dict[str, tuple[int, int]]:
    """Canonical axis and number of these slices, where a scan has them: its file may be another one by now."""
    return {
        name: source.canonical_slice(one.axis, one.slice)
        for name, one in slices.items()
        if one.slice < source.shape[one.axis]
    }


def stored_shapes(found: Mapping[str, Shape]) -> dict[str, StoredShape]:
    """As a record."""
    return {
        name: StoredShape(**{key: _without_nan(value) for key, value in shape._asdict().items()})
        for name, shape in found.items()
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_without_nan, value))
    return None if isinstance(value, float) and math.isnan(value) else value


def _shape(stored: StoredShape) -> Shape:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return Shape(
        ml=stored.ml, extra=number(stored.extra), pieces=stored.pieces, holes=number(stored.holes),
        cut=tuple(map(number, stored.cut)), step=number(stored.step), gaps=stored.gaps,
        centre_mm=tuple(map(number, stored.centre_mm)),
    )  # fmt: skip


def of_run(run: Path, weights: str) -> OfRun:
    """What is known of a run; nothing where it was trained anew since.

    Raises:
        UsageError: The file is damaged.
    """
    found = find_of_run(run)
    return found if found.weights == weights else OfRun(version=1, weights=weights)


def find_of_run(run: Path) -> OfRun:
    """As ``of_run``, whatever weights it is of; empty where there is no file."""
    again = f"delete {run / OF_RUN}, and predict the work folder's scans again: it is measured anew"
    found: OfRun | None = find(run / OF_RUN, OfRun, next=again)
    return found or OfRun(version=1, weights="")


def add_to_run(
    run: Path, weights: str, labelled: Mapping[str, Scan] | None = None, held_out: Mapping[str, HeldOut] | None = None,
    apart: Mapping[str, Apart] | None = None,
) -> OfRun:  # fmt: skip
    """Add to what is known of a run, whatever other processes add meanwhile."""
    with FileLock(run / f".{OF_RUN}.lock", timeout=_WAIT_S):
        before = of_run(run, weights)
        after = before.model_copy(
            update={
                "labelled": {**before.labelled, **(labelled or {})},
                "held_out": {**before.held_out, **(held_out or {})},
                "apart": before.apart if apart is None else dict(apart),
            }
        )
        write(run / OF_RUN, after)
    return after


def read(folder: Path) -> OfFolder | None:
    """What was measured of the label maps of a folder; None where nothing was.

    Raises:
        UsageError: The file is damaged.
    """
    found: OfFolder | None = find(folder / RECORD, OfFolder, next=_again(folder))
    return found


def add(folder: Path, scan: str, measured: Measured, run_folders: Mapping[str, str]) -> None:
    """Add one label map to the record of a folder, whatever other processes add meanwhile."""
    with FileLock(folder / f".{RECORD}.lock", timeout=_WAIT_S):
        before = read(folder) or OfFolder(version=1)
        scans, runs = {**before.scans, scan: measured}, {**before.run_folders, **run_folders}
        write(folder / RECORD, before.model_copy(update={"scans": scans, "run_folders": runs}))


def save(folder: Path, basis: Basis, rows: Sequence[Row]) -> None:
    """Replace the table, and say what it is based on; where both are so already nothing is touched."""
    table = tables.comma_separated([row.model_dump() for row in rows], tuple(Row.model_fields))
    path, known = folder / TABLE, read(folder)
    if known is not None and known.basis == basis and path.exists() and path.read_bytes() == table.encode():
        return
    with FileLock(folder / f".{RECORD}.lock", timeout=_WAIT_S):
        before = read(folder) or OfFolder(version=1)
        write(folder / RECORD, before.model_copy(update={"basis": basis}))
        files.write(path, table)


def read_rows(folder: Path) -> list[Row]:
    """The table, those to look at first on top; empty where there is none.

    Raises:
        UsageError: It is damaged.
    """
    path, again = folder / TABLE, _again(folder)
    if not path.exists():
        return []
    columns = tuple(name for name, field in Row.model_fields.items() if field.is_required())
    return each_row(path, read_table(path, columns, next=again), Row.model_validate, next=again)


def _again(folder: Path) -> str:
    return f"delete {folder / RECORD} and {folder / TABLE}, and run the same `lemis predict` again"
