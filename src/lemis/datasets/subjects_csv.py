"""``subjects.csv`` (columns id, subject): whose scan each one is, as the user says."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

from lemis.datasets.listing import Doubt
from lemis.errors import UsageError, first_of
from lemis.formats import spreadsheet
from lemis.formats.names import readable
from lemis.plugins import nearest

FILE = "subjects.csv"


def read(root: Path) -> dict[str, str]:
    """Subject by id, of the folder's ``subjects.csv``; empty where there is none, or for an empty cell.

    Raises:
        UsageError: Other columns, a row without an id, or an id with two subjects.
    """
    file = root / FILE
    if not file.is_file():
        return {}
    table = spreadsheet.read(file)
    if not {"id", "subject"} <= set(table.columns):
        raise UsageError(
            f"{file} has the columns {', '.join(table.columns)}",
            allowed="id, subject",
            next="name the columns id and subject",
        )
    found: dict[str, str] = {}
    for line, cells in table.rows:
        id, subject = unicodedata.normalize("NFC", cells["id"]), cells["subject"]
        if not id or found.get(id, subject) != subject:
            given = "no id" if not id else f"the subject {subject!r} for {id!r}, which had {found[id]!r} before"
            raise UsageError(
                f"{file}, line {line}: {given}",
                allowed="an id and its subject in every line, each id once",
                next=f"correct line {line}",
            )
        found[id] = subject
    return {id: subject for id, subject in found.items() if subject}


def strangers(table: Mapping[str, str], ids: Collection[str]) -> list[Doubt]:
    """Ids of the folder's ``subjects.csv`` that no scan has: what is said of them reaches nobody."""
    odd = [id for id in table if id not in ids]
    if not odd:
        return []
    guess = nearest(odd[0], list(ids))
    return [
        Doubt(
            FILE,
            "unknown ids",
            f"{first_of(map(readable, odd), 5)}: no scan has this id ({len(odd)} of {len(table)} ids)",
            f"correct the column id{f' (did you mean {guess} instead of {odd[0]}?)' if guess else ''}; fine if the "
            "table lists more scans than these",
        )
    ]
