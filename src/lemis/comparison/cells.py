"""The cells of a comparison: each training runs once, and is found again by a hash of all that its result depends on.

```
WORK/comparisons/NAME/  plan.yaml  facts.json  results.csv  cases.csv  ...
    cells/KEY/  cell.json    what it is made of
                status.json  state, times, error
                log.txt      all that it said
                result.json  what came out; written last, so where it is, the cell is done
WORK/runs/NAME-KEY8/    the training itself
```
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from lemis import __version__, files, plugins, records
from lemis.comparison import rounds
from lemis.comparison.places import Place, at, starts
from lemis.comparison.plans import Plan, Way
from lemis.comparison.rounds import Question
from lemis.errors import UsageError, shown
from lemis.plugins import Trust
from lemis.preparation.store import Store
from lemis.records import one_name
from lemis.runs import material as data
from lemis.runs.folders import effective
from lemis.runs.material import digest as digest
from lemis.settings import plain
from lemis.training import beside, pairing, pool, run_names
from lemis.training.run_settings import Finetuning, Pretraining, as_overrides
from lemis.training.run_settings import code as code
from lemis.work_files import comparison as cell_files
from lemis.work_files.comparison import CellStatus, read_cell_status, read_result, write_cell_status
from lemis.work_files.run import detectors_in

Chosen = Callable[[str], "tuple[str, ...] | None"]
UPSTREAM = "upstream"  # folder in WORK with the other data set's index, prepared scans and runs
_SMALL = ("cell.json", "status.json", "log.txt", "result.json")  # what a cell of another comparison is known by


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training, as plain JSON types."""

    kind: Literal["pretrain", "finetune", "single", "external"]
    key: str  # hash of ``made_of``
    title: str  # for people
    run: str  # name of its folder in runs/
    work: str  # its work folder: "" is WORK, else a folder in it
    needs: tuple[str, ...]  # keys
    made_of: dict[str, Any]
    call: dict[str, Any]  # what the verb is called with
    labelled: tuple[str, ...] = ()  # subjects
    test: tuple[str, ...] = ()  # ids of the scans that are scored
    predict: dict[str, Any] = field(default_factory=dict)  # settings of prediction that are not at their defaults
    pool: tuple[str, ...] = ()  # ids of those that a teacher segments for it
    version: Literal[1] = 1  # of ``cell.json``


def _stays(cell: Cell) -> Cell:
    if cell.work not in ("", UPSTREAM) or (cell.run and one_name(cell.run) != cell.run):
        raise ValueError("should be of a run in this work folder")
    return cell


_CELL = Annotated[Cell, AfterValidator(_stays)]


class Use(NamedTuple):
    """Where the result of a cell goes."""

    row: str
    labelled: int
    fold: int
    seed: int
    cell: str
    pretrained: str | None  # key
    transductive: bool
    semi_transductive: bool = False  # in fine-tuning
    second: str | None = None  # key of the pre-training of a second network
    teacher: str | None = None  # key of the training whose label maps it learned from

    @property
    def pretrainings(self) -> list[str]:
        """Keys of those that it begins with."""
        return list(dict.fromkeys(key for key in (self.pretrained, self.second) if key is not None))


class Begun(NamedTuple):
    """The pre-trainings that a fine-tuning begins with, and its teacher."""

    first: Cell | None
    second: Cell | None  # of a second network, where that has one of its own
    teacher: Cell | None = None  # the same fine-tuning on labels alone, where its label maps are learned from

    @property
    def cells(self) -> list[Cell]:
        """Those that there are."""
        return [cell for cell in self if cell is not None]


class Material(NamedTuple):
    """A prepared data set, as far as results depend on it."""

    facts: dict[str, Any]
    subject_of: dict[str, str]  # by scan id, in the store's order
    image: dict[str, str]  # digests
    label: dict[str, str]  # digests of those that have one


class Grid(NamedTuple):
    """All cells in the order in which they run, and their places in the table."""

    cells: dict[str, Cell]
    uses: tuple[Use, ...]
    questions: tuple[Question, ...] = ()  # whose labels come next; with the answers there are further cells


def _nobody(key: str) -> None:
    """No choice was made."""
    del key


def material(store: Store) -> Material:
    """Digests of everything prepared; reads it all once."""
    seen = data.seen(store, range(len(store.scans)), labels=True)
    return Material(
        data.facts_of(store),
        {id: scan.subject for id, scan in seen.items()},
        {id: scan.image for id, scan in seen.items()},
        {id: scan.label for id, scan in seen.items() if scan.label is not None},
    )


def expand(
    plan: Plan, ways: Sequence[Way], places: Sequence[Place], here: Material, there: Material | None,
    chosen: Chosen = _nobody,
) -> Grid:  # fmt: skip
    """Every cell of a plan that can be known. A pre-training serves all M, and all folds where it sees the test
    subjects' images too.

    Cells that differ in settings of prediction alone share one training: the first of them makes it, and the others
    come after that one.

    Args:
        plan: For what holds for all rows.
        ways: Its rows, any budget already turned into steps.
        places: Its columns.
        here: The data set that is compared on.
        there: The one to pre-train on, where it is another.
        chosen: Who was chosen by the key of a question; None where nobody was yet.
    """
    cells: dict[str, Cell] = {}
    uses = []
    questions: dict[str, Question] = {}
    trained_by: dict[str, str] = {}  # run -> the cell that comes first
    for seed in plan.seeds:
        for row in ways:
            own = [place for place in places if place.seed == seed]
            waiting = deque(own if row.row.suggest is None else starts(row.row, own))
            while waiting:
                place = waiting.popleft()
                way = _where_unlabelled(row, place, here)
                before = Begun(
                    _pretraining_cell(plan, way.row.title, way.pretraining, place, here, there),
                    _pretraining_cell(plan, f"{way.row.title}, second network", way.second, place, here, there),
                )
                saw_test = bool(before.cells) and there is None and not plan.inductive
                if beside.is_taught(way.finetuning.semi, plugins.load):
                    teacher = _finetuning_cell(plan, _teacher(way), place, here, before)
                    before = before._replace(teacher=_in_turn(teacher, trained_by))
                after = _in_turn(_finetuning_cell(plan, way, place, here, before), trained_by)
                asked = _question(plan, way, place, here, before, after, trained_by)
                for cell in (*before.cells, after, *asked.cells):
                    cells.setdefault(cell.key, cell)
                if asked.question is not None:
                    more = chosen(asked.question.key)
                    if more is None:
                        questions[asked.question.key] = asked.question
                    else:
                        waiting.append(at(place, (*place.split.labelled_subjects, *more)))
                uses.append(
                    Use(
                        way.row.title, place.labelled, place.fold, seed, after.key,
                        before.first.key if before.first else None, saw_test, _sees_test(way),
                        before.second.key if before.second else None, before.teacher.key if before.teacher else None,
                    )
                )  # fmt: skip
    return Grid(cells, tuple(uses), tuple(questions.values()))


class _Asked(NamedTuple):
    """Who is to be labelled after a place, and the cells that only the question needs."""

    question: Question | None = None
    cells: tuple[Cell, ...] = ()


def _question(
    plan: Plan, way: Way, place: Place, here: Material, before: Begun, after: Cell, trained_by: dict[str, str]
) -> _Asked:
    asked = way.row.suggest
    if asked is None or place.labelled == asked.budgets[-1]:
        return _Asked()
    networks: tuple[Cell, ...] = ()
    if rounds.networks_of(asked):  # the same training with the next seed: what two networks disagree on is told apart
        other = _finetuning_cell(plan, way, place._replace(seed=place.seed + 1), here, before)
        networks = (after, _in_turn(other, trained_by))
    cells = (*((before.first,) if before.first else ()), *networks)
    question = Question(
        key="", way=asked.name, settings=plain(rounds.settings_of(asked)), seed=place.seed,
        pool=place.split.train_subjects, labelled=place.split.labelled_subjects,
        number=asked.add[asked.budgets.index(place.labelled)], pretrained=before.first.run if before.first else None,
        networks=tuple(cell.run for cell in networks), after=tuple(cell.key for cell in cells),
    )  # fmt: skip
    images = [[id, here.image[id]] for id, subject in here.subject_of.items() if subject in set(question.pool)]
    facts = {
        **rounds.made_of(question), "lemis": __version__, **here.facts, "cells": list(question.after),
        "images": digest(images), "code": code(suggesters=asked.name),
    }  # fmt: skip
    return _Asked(question._replace(key=digest(facts)[:16]), networks)


def _in_turn(cell: Cell, trained_by: dict[str, str]) -> Cell:
    """The cell, after the one that trains its run, where that is another."""
    first = trained_by.setdefault(cell.run, cell.key)
    return cell if first == cell.key else replace(cell, needs=(*cell.needs, first))


def _pretraining_cell(
    plan: Plan, title: str, settings: Pretraining | None, place: Place, here: Material, there: Material | None
) -> Cell | None:
    if settings is None:
        return None
    excluded = set(place.split.test_subjects) if plan.inductive and there is None else set()
    source = there or here
    seen = [[id, subject, source.image[id]] for id, subject in source.subject_of.items() if subject not in excluded]
    stored = settings.stored()
    made_of = {
        "kind": "pretrain", "lemis": __version__, **source.facts, "scans": digest(seen), "seed": place.seed,
        "settings": effective(stored), "code": code(method=settings.method, backbone=settings.backbone),
    }  # fmt: skip
    key = digest(made_of)[:16]
    start = run_names.start(settings.method, settings.backbone)
    without = f", without fold {place.fold}" if excluded else ""
    return Cell(
        kind="pretrain", key=key, title=f"{title}: pre-training, seed {place.seed}{without}",
        run=f"{start}-{key[:8]}", work=UPSTREAM if there else "", needs=(), made_of=made_of,
        call={
            "method": settings.method, "backbone": settings.backbone, "seed": place.seed, "split": plan.split,
            "fold": place.fold if excluded else None, "overrides": as_overrides(stored),
        },
    )  # fmt: skip


def _teacher(way: Way) -> Way:
    """The same on labels alone, and predicted as usual: a row of its own has the same cell."""
    row = replace(way.row, title=f"{way.row.title}, teacher", semi=None)
    return way._replace(row=row, finetuning=way.finetuning.labels_alone(), predict={})


def _where_unlabelled(way: Way, place: Place, here: Material) -> Way:
    """The same, on labels alone where only the preset named a way to use unlabelled scans, and there is none."""
    if not way.row.semi_is_preset or _unlabelled(way, place, here):
        return way
    return way._replace(finetuning=way.finetuning.labels_alone())


def _sees_test(way: Way) -> bool:
    return way.finetuning.semi is not None and way.finetuning.pool.transductive


def _pool(way: Way, place: Place, here: Material) -> list[str]:
    """Ids of the scans whose images fine-tuning sees without their labels.

    Raises:
        UsageError: There is none.
    """
    if way.finetuning.semi is None:
        return []
    found = _unlabelled(way, place, here)
    pool.refuse_empty(found, way.finetuning.semi, f", in row {way.row.title!r} with {place.labelled} labelled")
    return found


def _unlabelled(way: Way, place: Place, here: Material) -> list[str]:
    scans = [(subject, id in here.label) for id, subject in here.subject_of.items()]
    ids = list(here.subject_of)
    return [ids[i] for i in pool.chosen(scans, place.split, way.finetuning.pool)]


def _finetuning_cell(plan: Plan, way: Way, place: Place, here: Material, before: Begun) -> Cell:
    settings: Finetuning = way.finetuning
    stored = settings.stored()
    train, test = (
        [id for id, subject in here.subject_of.items() if subject in subjects and id in here.label]
        for subjects in (set(place.split.labelled_subjects), set(place.split.test_subjects))
    )
    made_of = {
        "kind": "finetune", "lemis": __version__, **here.facts, "seed": place.seed,
        "train": digest([_whole(here, id) for id in train]), "test": digest([_whole(here, id) for id in test]),
        # In the order of their draw, which the run folder holds too: it takes no run with another.
        "labelled": list(place.split.labelled_subjects),
        "settings": effective(stored), "pretrained": before.first.key if before.first else None,
        "code": code(backbone=settings.backbone, auxiliary=settings.auxiliary, semi=settings.semi),
    }  # fmt: skip
    if before.second is not None:
        made_of["second"] = before.second.key
    if before.teacher is not None:
        made_of["teacher"] = before.teacher.key
    if unlabelled := _pool(way, place, here):
        made_of["pool"] = digest([[id, here.subject_of[id], here.image[id]] for id in unlabelled])
    training = key = digest(made_of)[:16]
    if way.predict:
        made_of["predict"] = dict(way.predict)
        key = digest(made_of)[:16]
    method = way.pretraining.method if way.pretraining else pairing.SCRATCH
    start = run_names.start(method, settings.backbone, settings.auxiliary, settings.semi, way.row.second)
    return Cell(
        kind="finetune", key=key, title=f"{way.row.title}: M = {place.labelled}, fold {place.fold}, seed {place.seed}",
        run=f"{start}-m{place.labelled}-fold{place.fold}-{training[:8]}", work="",
        needs=tuple(dict.fromkeys(cell.key for cell in before.cells)), made_of=made_of,
        labelled=place.split.labelled_subjects, test=tuple(test), predict=dict(way.predict),
        pool=tuple(unlabelled if before.teacher else ()),
        call={
            "backbone": settings.backbone, "auxiliary": settings.auxiliary, "fold": place.fold,
            **_whose_labels(place), "split": plan.split, "seed": place.seed, "overrides": as_overrides(stored),
            **({"semi": settings.semi} if settings.semi else {}),
        },
    )  # fmt: skip


def _whose_labels(place: Place) -> dict[str, Any]:
    if place.named:
        return {"subjects": list(place.split.labelled_subjects)}
    return {"labelled": place.wanted, "selection_seed": place.selection_seed}


def _whole(here: Material, id: str) -> list[str]:
    return [id, here.subject_of[id], here.image[id], here.label[id]]


# ------------------------------------------------------------------------------------------------------- on the disk


def write_cell(folder: Path, cell: Cell) -> None:
    """``cells/KEY/cell.json`` of a comparison."""
    (folder / "cells" / cell.key).mkdir(parents=True, exist_ok=True)
    records.write_tree(folder / "cells" / cell.key / "cell.json", asdict(cell), _CELL)


def read_cell(folder: Path, key: str) -> Cell | None:
    """What ``write_cell`` wrote; None where there is no such cell.

    Raises:
        UsageError: The file is damaged.
    """
    cell: Cell | None = cell_files.read_cell(folder, key, _CELL)
    return cell


def write_status(folder: Path, key: str, state: str, message: str = "") -> None:
    """State of a cell, and when it began and ended."""
    started, ended, now = None, None, round(time.time(), 1)
    if state == "running":
        started = now
    elif (started := read_cell_status(folder, key).started) is not None:
        ended = now
    status = CellStatus(version=1, started=started, ended=ended, state=state, message=message)
    write_cell_status(folder, key, status)


def refuse_modules(folder: Path, cell: Cell, trust: Trust) -> None:
    """Refuse a cell of a folder from anybody whose file names modules that are not ours.

    Raises:
        UsageError: It names one; nothing of it was imported.
    """
    for name in foreign_modules(cell):
        if name not in trust:
            raise UsageError(
                f"{folder / 'cells' / cell.key / 'cell.json'} names the module {shown(name)}, "
                "which is not part of Lemis and would be run",
                allowed="modules of Lemis; those of others if you know who wrote them",
                next=f"--cell {cell.key} --trust",
            )


def foreign_modules(cell: Cell) -> list[str]:
    """Modules and functions from outside that a cell names."""
    kinds = {
        "method": "single" if cell.kind == "single" else "methods", "backbone": "backbones", "auxiliary": "auxiliary",
        "semi": "semi",
    }  # fmt: skip
    named = [
        str(cell.call[key]) for key, kind in kinds.items() if cell.call.get(key) not in (None, *plugins.names(kind))
    ]
    if cell.call.get("python") is not None:
        named.append(str(cell.call["python"]))
    overrides = cell.call.get("overrides")
    return named + (detectors_in(overrides) if isinstance(overrides, Mapping) else [])


def run_folder(work: Path, cell: Cell) -> Path:
    """Where its training lies."""
    return work / cell.work / "runs" / cell.run


def run_of(work: Path, folder: Path, cell: Cell, what: str) -> Path | None:
    """The run of a cell that a fine-tuning is made of; None where it needs none."""
    key = cell.made_of.get(what)
    if key is None:
        return None
    before = read_cell(folder, key)
    assert before is not None, "a cell is written with what it needs"
    return run_folder(work, before)


def adopt(folder: Path, keys: Iterable[str]) -> int:
    """Take over what other comparisons in the same work folder have done; how many cells that were."""
    count = 0
    for key in keys:
        own = folder / "cells" / key
        others = (other / "cells" / key for other in sorted(folder.parent.iterdir()) if other != folder)
        done = next((other for other in others if (other / "result.json").is_file()), None)
        if done is None or (own / "result.json").is_file():
            continue
        own.mkdir(parents=True, exist_ok=True)
        for name in _SMALL:  # the result comes last
            if (done / name).is_file():
                files.write(own / name, (done / name).read_bytes())
        count += 1
    return count


def is_done(folder: Path, work: Path, cell: Cell) -> bool:
    """Whether a training has its result, and its weights are there."""
    return read_result(folder, cell.key) is not None and (run_folder(work, cell) / "model.json").is_file()


def missing(folder: Path, work: Path, grid: Grid) -> list[Cell]:
    """What is to be run, in order: trainings without a result, and those whose weights or cost they need."""
    todo = {key for key, cell in grid.cells.items() if cell.kind != "pretrain" and read_result(folder, key) is None}
    todo |= {key for question in grid.questions for key in question.after if not is_done(folder, work, grid.cells[key])}
    waiting = [*todo]
    while waiting:
        cell = grid.cells[waiting.pop()]
        for key in cell.needs:
            # Of another program's cell only the cost of what it needs counts.
            there = cell.kind == "external" or (run_folder(work, grid.cells[key]) / "model.json").is_file()
            if key not in todo and (read_result(folder, key) is None or not there):
                todo.add(key)
                waiting.append(key)
    return [cell for key, cell in grid.cells.items() if key in todo]
