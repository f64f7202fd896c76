"""How far a comparison is: the state of each cell on the disk, and a line for each that ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

from rich.console import Console

from lemis.comparison import cells
from lemis.comparison.cells import Cell, Grid
from lemis.terminal import duration


@final
class Progress:
    """Writes each cell's state down, and says a line for each that ends.

    Args:
        folder: Of the comparison.
        grid: Its cells.
        todo: Those that will run.
        console: For the lines.
    """

    def __init__(self, folder: Path, grid: Grid, todo: Sequence[Cell], console: Console) -> None:
        self._folder, self._cells, self._console = folder, grid.cells, console
        self._waiting = [cell.key for cell in todo]
        self._total, self.ended = len(todo), 0
        self._began: dict[str, float] = {}
        self._seconds: dict[str, list[float]] = {}  # by kind
        self._side_by_side = 1

    def __call__(self, key: str, state: str, message: str) -> None:
        """An executor's report."""
        cells.write_status(self._folder, key, state, message)
        if state == "running":
            self._began[key] = time.monotonic()
            self._side_by_side = max(self._side_by_side, len(self._began))
            return
        cell = self._cells[key]
        if state == "retried":
            self._console.print(f"{cell.title}: {message}")
            return
        self.ended += 1
        self._waiting.remove(key)
        took = time.monotonic() - self._began.pop(key, time.monotonic())
        if state == "done":
            self._seconds.setdefault(cell.kind, []).append(took)
        said = f"{duration(took)}{self._left()}" if state == "done" else message
        self._console.print(f"[{self.ended}/{self._total}] {state}: {cell.title} ({said})")

    def _left(self) -> str:
        if not self._waiting:
            return ""
        every = [value for values in self._seconds.values() for value in values]
        means = {kind: sum(values) / len(values) for kind, values in self._seconds.items()}
        kinds = [self._cells[key].kind for key in self._waiting]
        left = sum(means.get(kind, sum(every) / len(every)) for kind in kinds) / self._side_by_side
        return f", about {duration(left)} left"
