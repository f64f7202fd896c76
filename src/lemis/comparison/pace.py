"""How long a comparison takes: probes of its trainings, a budget turned into steps, and the table of a dry run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lemis import records, terminal
from lemis.comparison import cells
from lemis.comparison.cells import Cell, Grid, Use
from lemis.comparison.places import Place
from lemis.comparison.plans import Budget, Plan, Way
from lemis.measure.tables import count
from lemis.preparation.store import Store
from lemis.runs.device import chosen_device
from lemis.settings import plain
from lemis.terminal import duration
from lemis.training import probe
from lemis.training.probe import Probe
from lemis.training.run_settings import Pretraining


@final
class Pace:
    """Probes of the trainings of a comparison, each made once and kept in its folder, so that a budget stays one.

    Args:
        folder: Of the comparison.
        here: The scans that are compared on.
        there: Those that are pre-trained on; mostly the same.
        device: As the user gave it.
        console: For a line about each probe.
    """

    def __init__(self, folder: Path, here: Store, there: Store, device: str, console: Console) -> None:
        self.here, self.there, self.device = here, there, device
        self._file, self._console = folder / "probe.json", console
        again = f"delete {self._file} and run the same command again: it probes anew"
        self._known: dict[str, Probe] = records.find(self._file, dict[str, Probe], next=again) or {}

    def of_pretraining(self, way: Way, settings: Pretraining) -> Probe:
        """Probe a pre-training of a row, on all scans."""
        every = range(len(self.there.scans))
        return self._probe(
            "pretrain", way, self.there, settings.stored(),
            lambda: probe.of_pretraining(self.there, every, settings, self.device),
        )  # fmt: skip

    def of_finetuning(self, way: Way, labelled: Iterable[str]) -> Probe:
        """Probe a fine-tuning, on the labelled scans of some subjects."""
        subjects = set(labelled)
        some = [i for i, scan in enumerate(self.here.scans) if scan.labelled and scan.subject in subjects]
        return self._probe(
            "finetune", way, self.here, way.finetuning.stored(),
            lambda: probe.of_finetuning(self.here, some, way.finetuning, self.device),
        )  # fmt: skip

    def budgeted(self, plan: Plan, way: Way) -> Way:
        """A row with as many steps of pre-training as the plan's budget allows."""
        if plan.budget == Budget():
            return way
        first, second = (self._budgeted(plan, way, settings) for settings in (way.pretraining, way.second))
        return way._replace(pretraining=first, second=second)

    def _budgeted(self, plan: Plan, way: Way, settings: Pretraining | None) -> Pretraining | None:
        if settings is None:
            return None
        found = self.of_pretraining(way, settings)
        if plan.budget.images is not None:
            steps = round(plan.budget.images / found.images)
        else:
            steps = round(60 * (plan.budget.minutes or 0) / found.seconds)
        return dataclasses.replace(settings, schedule=dataclasses.replace(settings.schedule, steps=max(1, steps)))

    def _probe(self, verb: str, way: Way, store: Store, stored: Mapping[str, Any], make: Callable[[], Probe]) -> Probe:
        # Not the length: a probe serves before and after a budget was turned into steps.
        settings = {key: value for key, value in stored.items() if key not in ("steps", "epochs")}
        facts = [verb, settings, self.device, plain(store.settings), [scan.id for scan in store.scans]]
        key = cells.digest(facts)[:16]
        if key not in self._known:
            found = self._known[key] = make()
            self._console.print(
                f"probe: {way.row.title}, {verb}: {found.seconds:.2g} s and {found.images:.0f} images a step"
            )
            known = {name: one._asdict() for name, one in self._known.items()}
            records.write_tree(self._file, known, dict[str, Probe])
        return self._known[key]


class _Cost(NamedTuple):
    """Of one row."""

    before: set[str]  # keys of its pre-trainings
    after: set[str]  # of its other trainings
    one: tuple[float, ...]  # seconds of one pre-training and of the longest other training
    missing: float  # seconds
    memory_gb: float
    disk_gb: float


def print_dry_run(pace: Pace, rows: Sequence[Way], columns: Sequence[Place], grid: Grid, todo: Sequence[Cell]) -> None:
    """The cells of each row, what is shared, and what the missing ones will take."""
    left = {cell.key for cell in todo}
    table = Table("row", "pre-trainings", "trainings", "of one", "of what is missing", "GB", box=SIMPLE_HEAD)
    costs: list[_Cost] = []
    for way in rows:
        uses = [use for use in grid.uses if use.row == way.row.title]
        above = set().union(*(cost.before | cost.after for cost in costs))
        cost = _cost(pace, way, columns[0], grid, uses, left - above)
        costs.append(cost)
        shared = ", of a row above" if cost.before & above else ""
        table.add_row(
            way.row.title, f"{len(cost.before)}{shared}" if cost.before else "none", str(len(cost.after)),
            " + ".join(map(duration, cost.one)), duration(cost.missing), f"{cost.memory_gb:.1f}",
        )  # fmt: skip
    out = terminal.console()
    terminal.print_table(out, table)
    free_gb = shutil.disk_usage(pace.here.path).free / 1e9
    out.print(
        f"{count(len(grid.cells), 'cell')}, {len(todo)} missing: about {duration(sum(cost.missing for cost in costs))} "
        f"one after the other on {chosen_device(pace.device)}, scoring on top; "
        f"{max(cost.memory_gb for cost in costs):.1f} GB of memory each while it trains (large scans take more when "
        "they are predicted and scored), "
        f"{sum(cost.disk_gb for cost in costs):.2g} GB of disk ({free_gb:.0f} GB free). Nothing was trained."
    )
    others = sum(cell.kind == "external" for cell in todo)
    if others:
        out.print(f"{count(others, 'cell')} of them another program trains, on top: see the titles of their rows.")


def _cost(pace: Pace, way: Way, column: Place, grid: Grid, uses: Sequence[Use], left: set[str]) -> _Cost:
    before, after = {key for use in uses for key in use.pretrainings}, {use.cell for use in uses}
    tuning = pace.of_finetuning(way, column.split.labelled_subjects)
    seconds = {key: _length(tuning, way, grid.cells[key], pace.here) for key in after}
    one, probes = [max(seconds.values())], [tuning]
    if teachers := {use.teacher for use in uses if use.teacher is not None}:
        alone = way._replace(finetuning=way.finetuning.labels_alone())
        found = pace.of_finetuning(alone, column.split.labelled_subjects)
        of_teachers = {key: _length(found, alone, grid.cells[key], pace.here) for key in teachers}
        seconds, after = seconds | of_teachers, after | teachers
        one, probes = [max(of_teachers.values()), *one], [found, *probes]
    for settings, keys in (
        (way.second, {use.second for use in uses}), (way.pretraining, {use.pretrained for use in uses}),
    ):  # fmt: skip
        if settings is not None:
            found = pace.of_pretraining(way, settings)
            once = found.seconds * found.steps(settings.schedule)
            seconds |= {key: once for key in keys if key is not None}
            one, probes = [once, *one], [found, *probes]
    missing = [value for key, value in seconds.items() if key in left and not _is_trained_before(grid, key)]
    memory = max(found.memory_gb or 0.0 for found in probes)
    return _Cost(before, after, tuple(one), sum(missing), memory, len(missing) * tuning.weights_gb)


def _is_trained_before(grid: Grid, key: str) -> bool:
    """Whether another cell makes its training."""
    cell = grid.cells[key]
    return any(grid.cells[need].run == cell.run for need in cell.needs)


def _length(found: Probe, way: Way, cell: Cell, store: Store) -> float:
    """Seconds that a fine-tuning will take."""
    subjects, tuning = set(cell.labelled), way.finetuning
    slices = sum(scan.slices for scan in store.scans if scan.labelled and scan.subject in subjects)
    epoch = -(-slices // tuning.objective.batch_size) if tuning.dims == 2 else None  # the last batch is kept
    return found.seconds * found.steps(tuning.schedule, epoch)
