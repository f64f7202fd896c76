"""Rows to Markdown, CSV and LaTeX, and a count of things as people write it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None, *, digits: int = 3) -> str:
    """A Markdown table; numbers are aligned right."""
    names = _columns(rows, columns)
    rule = ["---:" if all(_is_number(row.get(name)) for row in rows) else "---" for name in names]
    body = [[_text(row.get(name), digits).replace("|", r"\|") for name in names] for row in rows]
    return "".join(
        f"| {' | '.join(cells)} |\n" for cells in [[name.replace("|", r"\|") for name in names], rule, *body]
    )


def comma_separated(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """CSV with a header line, full precision, an empty field where a number does not exist."""
    names = _columns(rows, columns)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if _missing(row.get(name)) else row[name] for name in names] for row in rows])
    return out.getvalue()


def latex(rows: Sequence[Row], columns: Sequence[str] | None = None, *, digits: int = 3) -> str:
    """A LaTeX ``tabular`` (package ``booktabs``); text is escaped."""
    names = _columns(rows, columns)
    align = "".join("r" if all(_is_number(row.get(name)) for row in rows) else "l" for name in names)
    head = " & ".join(name.translate(_LATEX) for name in names)
    body = [" & ".join(_text(row.get(name), digits).translate(_LATEX) for name in names) for row in rows]
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
    return _missing(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: object, digits: int) -> str:
    if _missing(value):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
