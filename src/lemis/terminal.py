"""What is said on the terminal. Text is said as it stands: a folder ``[/bold]`` or a structure ``[LV]`` is a name, not
a style, and a control character in a name is shown, not obeyed. Every verb speaks through ``console``.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, final

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

# What moves the cursor, colours or hides text (C0 and C1, DEL) or turns the direction of writing; not tab and newline.
# And half characters, as which Python shows the bytes of a name that is not UTF-8: no terminal takes them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_AS_WIDE_AS_IT_IS = 10_000  # columns


def visible(text: str) -> str:
    """Control characters as escapes: ``\\x1b`` for the one that begins colours."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def warn(to: Console, text: str) -> None:
    """Say it with a coloured ``warning:`` before it."""
    to.print(Text.assemble(("warning:", "yellow"), " ", visible(text)))


def duration(seconds: float) -> str:
    """An estimate of time in words: ``0.41 s``, ``41 s``, ``12.5 min``, ``2.5 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


@final
class _Console(Console):
    # Every plain string that is printed, in a table too, comes through here.
    def render_str(self, text: str, **style: Any) -> Text:  # type: ignore[override]
        return super().render_str(visible(text), **style)


def console(*, stderr: bool = False, unbroken: bool = True, quiet: bool = False) -> Console:
    """The one way to the terminal.

    Args:
        stderr: Speak on stderr, where results go to stdout.
        unbroken: Leave long lines to the terminal, so that a path can be copied whole.
        quiet: Say nothing.
    """
    return _Console(stderr=stderr, soft_wrap=unbroken, quiet=quiet, markup=False, emoji=False, highlight=False)


def messages(*, quiet: bool = False) -> Console:
    """The console for what is said beside results: stderr, where lines are not broken in a log."""
    return console(stderr=True, unbroken=not sys.stderr.isatty(), quiet=quiet)


def print_table(out: Console, table: Table) -> None:
    """The table with its words wrapped to the terminal's width; where numbers need more, row by row, so that none is
    cut. Columns that are justified right hold numbers. Where nobody looks on, the table is as wide as it must be.
    """
    for column in table.columns:
        column.no_wrap, column.overflow = column.justify == "right", "fold"
    least = Measurement.get(out, out.options.update(max_width=_AS_WIDE_AS_IT_IS), table).minimum
    if out.width < least and (out.is_terminal or "COLUMNS" in os.environ):
        _print_rows(out, table)
        return
    before = out.width
    out.width = max(least, before)  # a console prints nothing wider than itself
    out.print(table, soft_wrap=False)
    out.width = before


def _print_rows(out: Console, table: Table) -> None:
    if table.title:
        out.print(table.title, style=table.title_style, soft_wrap=True)
    first, *others = table.columns
    cells = [list(column.cells) for column in others]
    for row, name in enumerate(first.cells):
        out.print(Text.assemble(_text(first.header), " ", _text(name), style="bold"), soft_wrap=True)
        for column, values in zip(others, cells, strict=True):
            value = Text(" ").join(_text(values[row]).split())
            if value:
                out.print(Text.assemble("  ", _text(column.header), " ", value), soft_wrap=True)


def _text(cell: Any) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(visible(str(cell)))


def progress(out: Console, what: str, *fields: str, transient: bool = False) -> Progress:
    """A bar on a terminal, nothing elsewhere: ``what`` is done, how much of it, ``fields`` of the task, the time left.

    Args:
        out: Where.
        what: Any text.
        fields: Formats, such as ``"loss {task.fields[loss]:.4f}"``.
        transient: Leave nothing behind at the end.
    """
    columns: tuple[ProgressColumn, ...] = (
        TextColumn(visible(what).replace("{", "{{").replace("}", "}}"), markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(field, markup=False) for field in fields),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out, transient=transient, disable=not out.is_terminal)
