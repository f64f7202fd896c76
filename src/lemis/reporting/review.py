"""Which label maps to look at first: in the terminal, and as the table of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lemis.measure.expected import LEAST, rank
from lemis.measure.tables import count
from lemis.work_files.quality import RECORD, TABLE, Basis, LookAt, Row, Verdict

SHOWN = 3  # scans that ``lemis predict`` names
FIRST = 10  # scans of the report's queue; the others are folded
_IN_WORDS: Mapping[Verdict, str] = {
    "look": "look", "check": "check edges", "usual": "as usual", "unknown": "cannot say"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Review:
    """The table, and what it is based on."""

    basis: str
    first: tuple[tuple[str, tuple[Row, ...]], ...]  # scans with their rows
    others: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def look_at(self) -> dict[str, dict[str, LookAt]]:
        """Of each scan the slices in which its views differ most, by structure, those of the worst row in front."""
        return {
            scan: {row.structure: place for row in rows if (place := row.look_at) is not None}
            for scan, rows in (*self.first, *self.others)
        }


def review(rows: Sequence[Row], basis: Basis) -> Review | None:
    """What the report shows; None where nothing was measured.

    Args:
        rows: Of the table, in its order.
        basis: What it is based on.
    """
    scans = _by_scan(rows)
    return Review(basis=based_on(basis), first=scans[:FIRST], others=scans[FIRST:]) if scans else None


def based_on(basis: Basis) -> str:
    """In a sentence or two."""
    people = count(basis.subjects, "labelled subject")
    if basis.subjects < LEAST:
        said = f"{people} held out, and {LEAST} are needed for a number: the order is by flags and by how views agree"
    elif rank(basis.level, basis.subjects) > basis.subjects:
        needed = math.ceil(basis.level / (1 - basis.level) - 1e-9)
        said = f"{people} held out, and an interval of {basis.level:.0%} needs {needed}: no numbers are given"
    else:
        said = (
            f"Based on {people} held out; on average over such sets of subjects, about {basis.level:.0%} of these "
            "intervals hold the true Dice, for scans like the labelled ones"
        )
    if not basis.labelled:
        return f"{said}. No labelled scan is known, so anatomy is not judged."
    said = f"{said}. What is odd is so beside {count(basis.labelled, 'labelled scan')}."
    if basis.without_distance:
        far = f"{count(basis.without_distance, 'scan')} {'is' if basis.without_distance == 1 else 'are'}"
        said += (
            f" How far {far} from these was not measured when the label maps were made: delete {RECORD} and {TABLE} "
            "beside them, and run the same command again."
        )
    return said


def worst(rows: Sequence[Row], basis: Basis, folder: Path, files: Mapping[str, str]) -> Iterator[str]:
    """Lines for the terminal: the first few scans that are not as usual, each with its reason and its label map.

    Args:
        rows: Of the table, in its order.
        basis: What it is based on.
        folder: Of the label maps.
        files: Of each scan.
    """
    scans = _by_scan(rows)
    odd = [(id, own) for id, own in scans if own[0].verdict in ("look", "check")]
    if not scans:
        return
    if not odd:
        yield f"no label map stands out. {based_on(basis)}"
        return
    yield f"look at these first, of {count(len(scans), 'scan')}:"
    for id, own in odd[:SHOWN]:
        yield f"  {folder / files[id] if id in files else id}: {reason(own[0])}"
    if len(odd) > SHOWN:
        yield f"  and {len(odd) - SHOWN} more, all in {folder / TABLE}"
    yield based_on(basis)


def reason(row: Row) -> str:
    """Why to look at it, in a line."""
    told = f"{row.structure}: Dice {expected(row)}" if row.has_number else row.structure
    if row.flags:
        first, *more = row.flags.split(". ")
        said = f"{first}; {count(len(more), 'more reason')}" if more else first
        return f"{said} ({told})" if row.has_number else said
    return f"{told}, views agree {row.agreement:.2f}"


def in_words(row: Row) -> str:
    """The verdict, as a reader sees it."""
    return _IN_WORDS[row.verdict]


def expected(row: Row) -> str:
    """``probably 0.71 to 0.86``."""
    return f"probably {row.low:.2f} to {row.high:.2f}"


def _by_scan(rows: Sequence[Row]) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    return tuple((scan, tuple(own)) for scan, own in groupby(rows, key=lambda row: row.scan))
