"""``lemis compare``: methods x labelled subjects x folds x seeds on one data set, and whether pre-training is worth it.

Every training is a cell, found again by the hash of all that decides on its outcome, so the same command again does
only what is missing; see ``comparison/cells.py`` for the files.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from lemis import files
from lemis.asked import refuse_errors
from lemis.comparison import (
    cells,
    choosing,
    executors,
    external_cells,
    external_runs,
    facts,
    plan_files,
    results,
    rounds,
    single_cells,
    slurm,
)
from lemis.comparison.cells import Cell, Grid
from lemis.comparison.executors import Task
from lemis.comparison.facts import Data
from lemis.comparison.pace import Pace, print_dry_run
from lemis.comparison.places import places
from lemis.comparison.plans import (
    Plan,
    Way,
    load_plan,
    preparation,
    refuse_contradictions,
    require_layout,
    ways,
)
from lemis.comparison.progress import Progress
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.datasets.layouts.recognised import PUBLIC_TITLES
from lemis.errors import UsageError
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.preparation.keypoints import Settings as Keypoints
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.store import Store, open_store
from lemis.reporting import comparison as output_page
from lemis.runs import memory
from lemis.runs.device import chosen_device
from lemis.runs.run import messages
from lemis.settings import write_yaml
from lemis.training import build, pairing, pseudo_labels
from lemis.verbs.check import check
from lemis.verbs.evaluate import evaluate
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.segment_one import segment_one
from lemis.work_files.comparison import (
    CellCase,
    Result,
    read_cell_status,
    read_result,
    write_result,
)
from lemis.work_files.run import detectors_in


class Outcome(NamedTuple):
    """Where the comparison lies, and the cells that failed or could not run."""

    folder: Path
    failed: tuple[str, ...] = ()


class Job(NamedTuple):
    """All that a cell needs to run, wherever that is."""

    work: Path
    folder: Path  # of the comparison
    key: str
    device: str
    keep_predictions: bool


def compare(
    scans: Path,
    *,
    output: Path = Path("work"),
    plan: str | Path = "default",
    name: str | None = None,
    upstream: Path | None = None,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    on: str | None = None,
    gpus: float | None = None,
    emit: str | None = None,
    cell: str | None = None,
    dry_run: bool = False,
    keep_predictions: bool = False,
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Outcome:
    """Run what is missing of a plan, and write its tables, figure, verdicts and page.

    Args:
        scans: A folder of scans, or a CSV that lists them; labelled ones among them.
        output: The work folder; what other comparisons there have trained is taken over.
        plan: What is compared: a plan that ships (`lemis compare --list`), a YAML file, or a function. The default one:
            the preset's method against none, few to all labels, every fold.
        name: Of the folder in WORK/comparisons; by default the plan's.
        upstream: Pre-train on this other data set; by default the same.
        overrides: Settings over the plan: seeds=[0,1] labelled=[2,6] preset=tiny settings.finetune.steps=100
            budget.minutes=10.
        jobs: Processes that train side by side.
        on: Train on a Ray cluster: ``ray`` starts one here, ``auto`` or ``ray://HOST:PORT`` joins one; by default this
            machine. Needs lemis[ray].
        gpus: Share of a GPU that a training takes; by default a whole one if there is any.
        emit: Write the scripts of an array job, for ``slurm``, and run nothing.
        cell: Run this cell only, by its key, as those scripts do.
        dry_run: Prepare, time a few steps, say what would run and what it takes, and stop.
        keep_predictions: Keep every cell's label maps. Else they are deleted once scored; the weights stay, and
            `lemis predict WORK/runs/NAME` makes them again.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        trust: With ``cell``: import modules that its file names, even if they are not part of Lemis.

    Returns:
        The folder, and what failed. Failing cells do not stop the others; the tables mark what is missing.

    Raises:
        UsageError: A plan that cannot be run on these scans.
        DataFault: ``check`` found errors, or one scan lies on both sides of a fold.
    """
    output, console = output.absolute(), messages()
    folder = output / "comparisons" / (name or plan_files.short_name(plan))
    job = partial(Job, output, folder, device=device, keep_predictions=keep_predictions)
    if cell is not None:
        return _one(job(cell), trust, console)
    asked = load_plan(plan, overrides)
    refuse_contradictions(asked, upstream, jobs, on, emit)
    files.require_writable(folder)
    make = _of_images if asked.kind == "single" else _of_scans
    made = make(asked, scans, output, folder, upstream, device, console)
    folder.mkdir(parents=True, exist_ok=True)
    if dry_run:
        made.estimate(cells.missing(folder, output, made.grid))
        _say_later_rounds(asked, made.grid, console)
        return Outcome(folder)
    made = _with_choices(made, folder, output, device, console)
    todo = _taken_up(asked, folder, output, made, console)
    if emit is not None:
        tasks = _tasks(todo, job, gpus, device)
        command = _command(scans, output, plan, folder.name, upstream, overrides, device, keep_predictions)
        command += ["--trust"] if any(map(cells.foreign_modules, todo)) else []  # the plan names them, as the user did
        submit, *_ = slurm.script(tasks, command, folder / "slurm")
        console.print(f"{count(len(tasks), 'cell')} for SLURM; hand them over with\n  {submit}")
        _say_later_rounds(asked, made.grid, console)
        return Outcome(folder)
    tried: dict[str, Cell] = {}
    while todo:
        progress = Progress(folder, made.grid, todo, console)
        try:
            _execute(_tasks(todo, job, gpus, device), progress, jobs=jobs, on=on)
        except KeyboardInterrupt:
            console.print(f"interrupted after {progress.ended} of {count(len(todo), 'cell')}; the same command goes on")
            raise
        tried |= {cell.key: cell for cell in todo}
        if not made.grid.questions:
            break
        made = _with_choices(made, folder, output, device, console)
        todo = [cell for cell in _taken_up(asked, folder, output, made, console) if cell.key not in tried]
    return _finish(asked, folder, made, [*tried.values()], console)


def run_cell(job: Job) -> None:
    """Run one cell; all that it says goes to its log. Its result is written last.

    Raises:
        Exception: Whatever went wrong; the log has the traceback.
    """
    cell = cells.read_cell(job.folder, job.key)
    assert cell is not None, "cells are written before they run"
    own = job.folder / "cells" / job.key
    with (own / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        print(f"-- {datetime.now(UTC).isoformat(timespec='seconds')} {cell.title}", flush=True)
        try:
            alone = memory.reset_peak_memory()
            result = _RUN[cell.kind](job, cell)
            if alone and cell.kind != "external":  # else it is the run's own figure: the most since the process began
                result = result.model_copy(update={"peak_memory_gb": memory.peak_memory_gb()})
        except BaseException:
            traceback.print_exc()
            raise
    write_result(job.folder, job.key, result)


def _pretrained(job: Job, cell: Cell) -> Result:
    run = pretrain(job.work / cell.work, name=cell.run, device=job.device, prefix="settings.pretrain.", **cell.call)
    return results.of_run(run)


def _finetuned(job: Job, cell: Cell) -> Result:
    own = job.folder / "cells" / job.key
    pretrained, second, teacher = (
        cells.run_of(job.work, job.folder, cell, what) for what in ("pretrained", "second", "teacher")
    )
    trust = Trust().also(cell.call["backbone"], *detectors_in(cell.call["overrides"]))  # as the plan names them
    maps = None
    if teacher is not None:
        folder = pseudo_labels.folder_of(job.work, teacher.name)
        maps = predict(
            teacher, scans=cell.pool, output=folder, overrides={"quality": False}, device=job.device, trust=trust
        )
    run = finetune(
        job.work, pretrained=pretrained, second=second, pseudo_labels=maps, name=cell.run, device=job.device,
        prefix="settings.finetune.", **cell.call,
    )  # fmt: skip
    predict(
        run, scans=cell.test, output=own / "predictions", overrides={**cell.predict, "quality": False},
        device=job.device, trust=trust,
    )  # fmt: skip
    return results.of_run(run, **results.of_papers(run), cases=_scored(job, own))


def _scored(job: Job, own: Path) -> tuple[CellCase, ...]:
    """The cases of a cell, scored in its folder; then its label maps go, unless they are to be kept."""
    evaluate(own / "predictions", work=job.work, output=own / "evaluation", jobs=torch.get_num_threads())
    if not job.keep_predictions:
        shutil.rmtree(own / "predictions")
    return results.cases_of(own / "evaluation")


def _segmented(job: Job, cell: Cell) -> Result:
    own = job.folder / "cells" / job.key
    begun, core_begun = time.monotonic(), time.process_time()
    given = {**cell.call, "batch": Path(cell.call["batch"])}
    segment_one(output=own / "predictions", device=job.device, **given)
    cases = single_cells.cases_of(own / "predictions")
    if not job.keep_predictions:
        shutil.rmtree(own / "predictions")
    seconds, core_seconds = time.monotonic() - begun, time.process_time() - core_begun
    return Result(version=1, seconds=round(seconds, 1), core_seconds=round(core_seconds, 1), cases=cases)


def _by_another_program(job: Job, cell: Cell) -> Result:
    answer = external_runs.run(job.work, job.folder, cell, job.device)
    return external_runs.result_of(answer, _scored(job, job.folder / "cells" / job.key))


_RUN: Mapping[str, Callable[[Job, Cell], Result]] = {
    "pretrain": _pretrained, "finetune": _finetuned, "single": _segmented, "external": _by_another_program,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- beforehand


class _Made(NamedTuple):
    """A plan on its data."""

    grid: Grid
    ways: tuple[Way, ...]  # none of single images
    data: Data
    estimate: Callable[[Sequence[Cell]], None]  # says what these cells will take
    again: Callable[[], Grid] | None = None  # the grid with what was chosen meanwhile
    store: Store | None = None  # none of single images


def _of_scans(
    plan: Plan, scans: Path, work: Path, folder: Path, upstream: Path | None, device: str, console: Console
) -> _Made:
    """Check, prepare, and make the cells."""
    others = external_cells.versions(plan)
    index = _checked(plan, scans, work, upstream)
    columns = places(plan, index.scans, Path(index.root))
    _refuse_losses(plan, index)
    here, there = _prepared(plan, work, upstream is not None, console)
    source, other = cells.material(here), cells.material(there) if there else None
    folder.mkdir(parents=True, exist_ok=True)
    pace = Pace(folder, here, there or here, device, console)
    rows = tuple(pace.budgeted(plan, way) for way in ways(plan))

    def expanded() -> Grid:
        grid = cells.expand(plan, rows, columns, source, other, partial(rounds.choice_of, folder))
        return external_cells.added(plan, grid, rows, columns, here, others, device)

    grid = expanded()
    data = Data(
        PUBLIC_TITLES.get(index.layout, scans.resolve().name),
        scans=len(index.scans), subjects=len({scan.subject for scan in index.scans}),
        labelled_subjects=len({scan.subject for scan in index.scans if scan.label is not None}),
        upstream=(plan.upstream or upstream.name) if upstream else None,
    )  # fmt: skip
    return _Made(grid, rows, data, partial(print_dry_run, pace, rows, columns, grid), expanded, here)


def _of_images(
    plan: Plan, scans: Path, work: Path, folder: Path, upstream: Path | None, device: str, console: Console
) -> _Made:
    """Images, each segmented by itself: there is nothing to check or prepare, and no probe."""
    del work, folder, upstream, device
    grid, images = single_cells.expand(plan, scans)
    data = Data(plan.data or scans.name, scans=images, subjects=images, labelled_subjects=images, upstream=None)
    of = count(images, "image")

    def estimate(todo: Sequence[Cell]) -> None:
        console.print(f"{count(len(grid.cells), 'cell')} of {of}, {len(todo)} missing; nothing was segmented")

    return _Made(grid, (), data, estimate)


def _checked(plan: Plan, scans: Path, work: Path, upstream: Path | None) -> Index:
    for folder, own, is_upstream in ((scans, work, False), (upstream, work / cells.UPSTREAM, True)):
        if folder is None:
            continue
        found = check(folder, output=own, layout=require_layout(plan, folder, upstream=is_upstream))
        refuse_errors(found.errors, folder)
    return index_file.load(work / "index.json")


def _refuse_losses(plan: Plan, index: Index) -> None:
    """What an extra loss refuses of these structures is refused before they are prepared."""
    foreseen = build.Foreseen.of(index.channels, index.labels.values())
    for tuning in (way.finetuning for way in ways(plan) if way.finetuning.auxiliary is not None):
        build.objective(tuning, build.network(tuning, foreseen), foreseen)


def _prepared(plan: Plan, work: Path, upstream: bool, console: Console) -> tuple[Store, Store | None]:
    """The stores of the data set compared on and of the one to pre-train on, where that is another."""
    console.rule("prepare")
    here = _store(work, *preparation(plan))
    if not upstream:
        return here, None
    there = _store(work / cells.UPSTREAM, *preparation(plan, upstream=True))
    if len(there.channels) != len(here.channels) != 1:  # for one channel, transfer sums the weights of several
        raise UsageError(
            f"--upstream with {count(len(there.channels), 'channel')}, where the scans have {len(here.channels)}",
            allowed="as many channels in both data sets, or one in the scans",
            next="another data set for --upstream",
        )
    return here, there


def _store(work: Path, images: Preparation, asked: Keypoints | None, wanted: Keypoints | None) -> Store:
    found = pairing.keypoints_to_find(work / "prepared", asked, wanted)
    prepare(work, settings=images, keypoints=found, trust=Trust().also(wanted.detector if wanted else None))
    store = open_store(work / "prepared")
    pairing.require_keypoints(store, wanted)
    return store


# ------------------------------------------------------------------------------------------------------------- running


def _taken_up(asked: Plan, folder: Path, output: Path, made: _Made, console: Console) -> list[Cell]:
    """Write the plan and its cells down; the cells that are not done, here or in another comparison."""
    write_yaml(asked, folder / "plan.yaml")
    adopted = cells.adopt(folder, made.grid.cells)
    todo = cells.missing(folder, output, made.grid)
    for one in made.grid.cells.values():
        cells.write_cell(folder, one)
    console.rule("compare")
    console.print(
        f"{folder}: {count(len(made.grid.cells), 'cell')}, {len(made.grid.cells) - len(todo)} done"
        + (f" ({adopted} of them by another comparison)" if adopted else "")
    )
    return todo


def _with_choices(made: _Made, folder: Path, work: Path, device: str, console: Console) -> _Made:
    if not made.grid.questions or made.again is None or made.store is None:
        return made
    target = torch.device(chosen_device(device))
    return made._replace(
        grid=choosing.followed(made.grid, made.again, folder, work, made.store, target, console)
    )  # fmt: skip


def _say_later_rounds(plan: Plan, grid: Grid, console: Console) -> None:
    if said := choosing.later_rounds(plan, grid):
        console.print(said)


def _tasks(todo: Sequence[Cell], job: partial[Job], gpus: float | None, device: str) -> list[Task]:
    if gpus is None:
        gpus = float(device == "cuda" or (device == "auto" and torch.cuda.is_available()))
    keys = {cell.key for cell in todo}
    return [Task(cell.key, tuple(need for need in cell.needs if need in keys), job(cell.key), gpus) for cell in todo]


def _execute(tasks: Sequence[Task], report: executors.Report, *, jobs: int, on: str | None) -> None:
    if on is not None:
        executors.on_ray(tasks, run_cell, report, address=on)
    elif jobs > 1:
        executors.in_processes(tasks, run_cell, report, jobs=jobs)
    else:
        executors.in_process(tasks, run_cell, report)


def _one(job: Job, trust: Trust, console: Console) -> Outcome:
    """One cell by its key."""
    cell = cells.read_cell(job.folder, job.key)
    if cell is None:
        raise UsageError(
            f"--cell {job.key} of {job.folder}",
            allowed="the name of a folder in its cells/",
            next="this command without --cell, or with --emit slurm, makes them",
        )
    if read_result(job.folder, job.key) is not None:
        console.print(f"{cell.title}: nothing to do")
        return Outcome(job.folder)
    for need in cell.needs:
        before = cells.read_cell(job.folder, need)
        if before is None or not (cells.run_folder(job.work, before) / "model.json").is_file():
            raise UsageError(
                f"{cell.title} needs what is not done: {before.title if before else need}",
                allowed="a cell whose trainings before it are done",
                next=f"--cell {need}",
            )
    cells.refuse_modules(job.folder, cell, trust)
    progress = Progress(job.folder, Grid({cell.key: cell}, ()), [cell], console)
    executors.in_process([Task(job.key, (), job)], run_cell, progress)
    failed = read_cell_status(job.folder, job.key).state != "done"
    return Outcome(job.folder, (cell.title,) if failed else ())


def _command(
    scans: Path, output: Path, plan: str | Path, name: str, upstream: Path | None, overrides: Sequence[str],
    device: str, keep_predictions: bool,
) -> list[str]:  # fmt: skip
    return [
        "lemis", "compare", str(scans), "-o", str(output), "--plan", str(plan), "--name", name, "--device", device,
        *(["--upstream", str(upstream)] if upstream else []),
        *(["--keep-predictions"] if keep_predictions else []), *overrides,
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- afterwards


def _finish(plan: Plan, folder: Path, made: _Made, todo: Sequence[Cell], console: Console) -> Outcome:
    """Tables, figure and page of what is done; what failed, with its log."""
    left = results.collect(folder, made.grid, plan, made.ways)
    failed = [cell for cell in todo if read_result(folder, cell.key) is None]
    facts.write(plan, folder, made.grid, made.data, left, ran=bool(todo))
    for cell in failed:
        status, log = read_cell_status(folder, cell.key), folder / "cells" / cell.key / "log.txt"
        where = f"\n  {log}" if log.is_file() else ""
        console.print(f"{status.state}: {cell.title}: {status.message}{where}")
    if failed:
        total = len(made.grid.cells)
        console.print(f"{len(failed)} of {count(total, 'cell')} missing; the same command tries them again")
    if len(left) < len(made.grid.uses):
        console.print(f"\n{output_page.write(folder)}\n")
        console.print(f"open {folder / 'index.html'}")
    return Outcome(folder, tuple(cell.title for cell in failed))
