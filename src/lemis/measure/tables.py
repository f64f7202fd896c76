"""Rows to Markdown, CSV and LaTeX, and a count of things as people write it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lemis.records import guarded

Row = Mapping[str, object]


class Written(NamedTuple):
    """Numbers that are already text (``0.812 (0.021)``): aligned as numbers are, in bold where they are best."""

    text: str
    bold: bool = False


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "−": "$-$",
    }
)


def escape_markdown(text: str) -> str:
    """``text`` as it stands, wherever it stands in Markdown: no emphasis, no HTML, no cell's end."""
    return re.sub(r"([\\`*|<~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=#?\w+;))", r"\\\1", text)


def escape_latex(text: str) -> str:
    """``text`` as it stands, in LaTeX."""
    return text.translate(_LATEX)


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None, *, digits: int = 3) -> str:
    """A Markdown table; numbers are aligned right."""
    names = _columns(rows, columns)
    rule = ["---:" if all(_is_number(row.get(name)) for row in rows) else "---" for name in names]
    body = [[_in_markdown(row.get(name), digits) for name in names] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [[escape_markdown(name) for name in names], rule, *body])


def comma_separated(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """CSV with a header line, full precision, an empty field where a number does not exist; no cell is a formula.

    ``records.read_table`` gives back the texts.
    """
    names = _columns(rows, columns)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_in_csv(row.get(name)) for name in names] for row in rows])
    return out.getvalue()


def latex(rows: Sequence[Row], columns: Sequence[str] | None = None, *, digits: int = 3) -> str:
    """A LaTeX ``tabular`` (package ``booktabs``); text is escaped."""
    names = _columns(rows, columns)
    align = "".join("r" if all(_is_number(row.get(name)) for row in rows) else "l" for name in names)
    head = " & ".join(_first_in_row(escape_latex(name), place) for place, name in enumerate(names))
    body = [
        " & ".join(_first_in_row(_in_latex(row.get(name), digits), place) for place, name in enumerate(names))
        for row in rows
    ]
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    lines += [rf"{line} \\" for line in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def count(amount: int, noun: str) -> str:
    """``1 scan``, ``2 scans``."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _columns(rows: Sequence[Row], columns: Sequence[str] | None) -> list[str]:
    return list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: object) -> bool:
    return _missing(value) or (isinstance(value, int | float | Written) and not isinstance(value, bool))


def _in_csv(value: object) -> object:
    if _missing(value):
        return ""
    return guarded(value) if isinstance(value, str) else value


def _in_markdown(value: object, digits: int) -> str:
    text = escape_markdown(_text(value, digits))
    return f"**{text}**" if isinstance(value, Written) and value.bold else text


def _in_latex(value: object, digits: int) -> str:
    text = escape_latex(_text(value, digits))
    return rf"\textbf{{{text}}}" if isinstance(value, Written) and value.bold else text


def _first_in_row(text: str, place: int) -> str:
    # After \\ a bracket would be read as its argument, after \toprule and the like as theirs.
    return f"{{}}{text}" if place == 0 and text.startswith(("[", "*", "(")) else text


def _text(value: object, digits: int) -> str:
    if _missing(value):
        return "-"
    if isinstance(value, Written):
        return value.text
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
