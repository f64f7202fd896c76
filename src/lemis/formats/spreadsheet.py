"""Tables as spreadsheet programs save them: CSV with commas, semicolons or tabs, in UTF-8 or as "Unicode text"."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lemis import files
from lemis.errors import UsageError
from lemis.formats.names import readable

_SEPARATORS = (",", ";", "\t")
_LONGEST_HEADER = 2**16  # characters
# What Excel's "Unicode text" begins with. Only such a mark tells UTF-16 from damaged bytes.
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Row(NamedTuple):
    """One row below the header."""

    line: int  # of the file, from 1, on which it begins
    cells: dict[str, str]  # by column; "" where the row is too short


@dataclass(frozen=True)
class Table:
    """Column names in lower case, and the rows that hold anything."""

    file: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read(file: Path) -> Table:
    """A table whose first line names its columns; cells are stripped, empty rows and nameless empty columns dropped.

    The separator is the one of comma, semicolon and tab that cuts the header into the most columns, or what a line
    ``sep=;`` above it says. A first column of numbers without a name is the index that pandas writes, and dropped.

    Raises:
        UsageError: It is not in UTF-8 (or UTF-16 with its mark), holds NUL bytes or a quote that is never closed, names
            a column twice, or has a row with more cells than there are columns. It names the file and the line.
    """
    text, separator = _separator_line(_text(file))
    header, separator = _header(text, separator)
    twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if twice:
        raise UsageError(
            f"{file} has {Counter(header)[twice[0]]} columns {twice[0]!r}",
            allowed="columns of different names",
            next="rename or remove all but one of them",
        )
    rows = []
    lines = _lines(file, text, separator)
    index = _is_index(header, [cells for _, cells in lines])
    for line, cells in lines:
        if index and cells:
            cells[0] = ""
        if any(cells[len(header) :]) or any(cell for name, cell in zip(header, cells, strict=False) if not name):
            raise UsageError(
                f"{file}, line {line}: a value without a column: {readable(separator.join(cells))[:100]}",
                allowed=f"one value for each of the columns {', '.join(filter(None, header))}",
                next=f'put a value that holds a "{separator.strip() or "tab"}" between double quotes',
            )
        found = {name: "" for name in header if name} | dict(zip(header, cells, strict=False))
        if any(found.values()):
            rows.append(Row(line, {name: cell for name, cell in found.items() if name}))
    return Table(file, tuple(filter(None, header)), tuple(rows))


def columns_of(file: Path) -> tuple[str, ...]:
    """Column names of a file that may be anything: of one that cannot be read, those that its bytes seem to spell."""
    if not file.is_file():  # a named pipe would be waited for
        return ()
    try:
        with file.open("rb") as stream:
            start = stream.read(_LONGEST_HEADER)
    except OSError:
        return ()
    encoding = "utf-16" if start.startswith(_UTF16) else "utf-8-sig"
    text, separator = _separator_line(start.decode(encoding, errors="replace").replace("\0", ""))
    return tuple(filter(None, _header(text, separator)[0]))


def _text(file: Path) -> str:
    again = f"save {file.name} as CSV in UTF-8 (Excel: Save as, CSV UTF-8), and run the same command again"
    content = files.read_bytes(file, next=again)
    if content.startswith(_UTF16):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            raise UsageError(f"{file} is damaged UTF-16", allowed="CSV in UTF-8", next=again) from None
    else:
        text = files.decode(content, where=str(file), next=again)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{file} holds a NUL byte in line {line}", allowed="CSV in UTF-8", next=again)
    return text


def _separator_line(text: str) -> tuple[str, str]:
    """The table without the line that tells Excel the separator, left empty so that lines count as before; and that
    separator, "" where nothing says it.
    """
    match = re.match(r"sep=([,;\t])[ \t]*(?=[\r\n])", text, re.IGNORECASE)
    return (text[match.end() :], match[1]) if match else (text, "")


def _is_index(header: list[str], rows: list[list[str]]) -> bool:
    """Whether the first column has no name, and a number of its own in every row."""
    if not header or header[0] or len(header) == 1:
        return False
    numbers = [cells[0] for cells in rows if any(cells)]
    return all(re.fullmatch("[0-9]+", number) for number in numbers) and len(set(numbers)) == len(numbers)


def _header(text: str, separator: str) -> tuple[list[str], str]:
    """The names in the first line that is not empty, in lower case, and what separates them (``separator`` if said)."""
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0][:_LONGEST_HEADER]
    cut = {one: next(csv.reader([line], delimiter=one), []) for one in ([separator] if separator else _SEPARATORS)}
    separator = max(cut, key=lambda separator: len(cut[separator]))
    return [readable(name.strip().lower()) for name in cut[separator]], separator


def _lines(file: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The cells of every row below the header, with the line on which it begins; a cell may run over several lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found, line = [], 1
    try:
        for cells in reader:
            found.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{file}, line {line}: {error}",
            allowed=f"values of at most {csv.field_size_limit():,} characters, each quote closed",
            next='look for a " without its partner in this line; a " inside of a value is written twice',
        ) from None
    first = next((number for number, (_, cells) in enumerate(found) if cells), 0)  # the header
    return found[first + 1 :]
