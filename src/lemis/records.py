"""What all files between verbs share: how one is read, and how it is refused.

A reader answers with a typed model, or with a ``UsageError`` that names the file, the field, what was found there, and
what makes the file anew. Numbers are finite and of the type that is written; what a later version adds is kept.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lemis import files, yaml_text
from lemis.errors import UsageError

T = TypeVar("T")

# A cell of a table with a longer text is no table of ours; the csv module's own limit is an error of another kind.
MOST_CELL_CHARACTERS = 100_000
# What a spreadsheet takes for a formula; any ' before it is kept apart from the one that guards.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_SHOWN = 60  # characters of a value in an error


class Record(BaseModel):
    """One file between verbs, or a part of one; immutable."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


def one_name(text: str) -> str:
    """A name that stays in its folder: of a scan, a run, a file."""
    if not text or text in (".", "..") or any(sign in text for sign in "/\\\0"):
        raise ValueError("should be a name without / or \\, and not . or ..")
    return text


Name = Annotated[str, AfterValidator(one_name)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(gt=0)]


def read(path: Path, kind: Any, *, next: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        kind: A ``Record`` or another type that pydantic knows.
        next: What makes the file anew.

    Raises:
        UsageError: There is no such file, it is no JSON, of another version, or has a field that cannot be.
    """
    return parse(files.read_text(path, next=next), kind, where=str(path), next=next)


def of_yaml(path: Path, kind: Any, *, next: str) -> Any:
    """As ``read``, of a YAML file."""
    try:
        tree = yaml_text.read(path)
    except UsageError as error:
        raise UsageError(error.given, allowed=error.allowed, next=next) from None
    if tree is None:
        raise UsageError(f"{path} is empty", allowed="what was written there", next=next)
    return parse(json.dumps(tree), kind, where=str(path), next=next)


def find(path: Path, kind: Any, *, next: str) -> Any:
    """As ``read``; None where there is no such file."""
    return read(path, kind, next=next) if path.exists() else None


def parse(text: str, kind: Any, *, where: str, next: str) -> Any:
    """What a JSON text holds; ``where`` it stands is for the error. Errors as of ``read``."""
    files.parse_json(text, where=where, next=next)  # it says more exactly what is wrong with the text
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise refused(error, where=where, next=next) from None
    except UsageError as error:  # of settings that the file holds
        raise UsageError(f"{where}: {error.given}", allowed=error.allowed, next=next) from None


def refused(error: ValidationError, *, where: str, next: str) -> UsageError:
    """The first fault of a file, as a person reads it."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    found = "nothing" if first["type"] == "missing" else _short(first["input"])
    if first["loc"] and first["loc"][-1] == "version":
        return UsageError(f"{where} is of version {found}", allowed=_allowed(first["msg"], "version"), next=next)
    return UsageError(f"{where}: {field or 'the whole'} is {found}", allowed=_allowed(first["msg"], field), next=next)


def plain(record: Record) -> dict[str, Any]:
    """As plain JSON types, fields in the model's order; what was never said is left out."""
    return record.model_dump(mode="json", exclude_unset=True)


def text_of(record: Record) -> str:
    """JSON for people."""
    return _pretty(plain(record))


def write(path: Path, record: Record) -> None:
    """Replace a JSON file, once its text was read back: what a reader would refuse does not take a good file's place.

    Raises:
        ValidationError: It is nothing that could be read; a mistake of ours.
    """
    write_tree(path, plain(record), type(record))


def write_tree(path: Path, tree: Any, kind: Any) -> None:
    """As ``write``, of plain values that are read as ``kind``."""
    text = _pretty(tree)
    _adapter(kind).validate_json(text, strict=True)
    files.write(path, text)


def read_table(path: Path, columns: Sequence[str], *, next: str) -> list[dict[str, str]]:
    """The lines of a CSV file with at least these columns, each cell as text.

    Raises:
        UsageError: There is no such file, it is no table, or it lacks a column or a cell.
    """
    lines = io.StringIO(files.read_text(path, next=next), newline="")
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path} is no table: {error}", allowed="a CSV file as it was written", next=next) from None
    head = rows[0] if rows else []
    for column in columns:
        if head.count(column) != 1:
            seen = f"has {'no' if column not in head else 'more than one'} column {column}"
            raise UsageError(f"{path} {seen}", allowed=f"one column of each of {', '.join(columns)}", next=next)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(head) or any(len(cell) > MOST_CELL_CHARACTERS for cell in row):
            raise UsageError(
                f"{path}, line {number}: {len(row)} cells, or one that is too long",
                allowed=f"{len(head)} cells, as the first line has",
                next=next,
            )
    return [dict(zip(head, map(unguarded, row), strict=True)) for row in rows[1:]]


def guarded(text: str) -> str:
    """A text as a cell of a table that people open: with ``'`` before what a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that ``guarded`` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def each_row(path: Path, rows: Sequence[dict[str, str]], kind: Callable[[dict[str, str]], T], *, next: str) -> list[T]:
    """Rows of a table as what ``kind`` makes of each.

    Raises:
        UsageError: It cannot (a ``ValueError``, of pydantic's too); names the line.
    """
    made = []
    for number, row in enumerate(rows, start=2):
        try:
            made.append(kind(row))
        except ValidationError as error:
            raise refused(error, where=f"{path}, line {number}", next=next) from None
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}", allowed="a line as it was written", next=next) from None
    return made


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # it takes milliseconds to build
    return TypeAdapter(kind)


def _pretty(tree: Any) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _allowed(message: str, field: str) -> str:
    said = message.removeprefix("Value error, ").replace("Input should be", "").strip()
    return f"{field or 'the file'}: {said}" if said != "Field required" else f"a file that has {field}"
