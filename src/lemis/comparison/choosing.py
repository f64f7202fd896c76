"""Who is labelled next in the rounds of a comparison, chosen as soon as the trainings that it depends on are done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from lemis import plugins
from lemis.comparison import cells, rounds
from lemis.comparison.cells import Grid
from lemis.comparison.plans import Plan
from lemis.comparison.rounds import Choice, Question
from lemis.plugins import Trust
from lemis.preparation.store import Store
from lemis.selection import measuring, pool
from lemis.selection.networks import Used
from lemis.selection.pool import Seen
from lemis.settings import resolve


def followed(
    grid: Grid, again: Callable[[], Grid], folder: Path, work: Path, store: Store, device: torch.device,
    console: Console,
) -> Grid:  # fmt: skip
    """The grid with the cells that follow from every choice that can be made by what is trained.

    Args:
        grid: As it is known.
        again: Makes it anew, with what was chosen meanwhile.
        folder: Of the comparison.
        work: The work folder.
        store: Its prepared scans.
        device: Where networks compute.
        console: For a line about each choice.
    """
    while True:
        ready = [question for question in grid.questions if _is_ready(question, grid, folder, work)]
        if not ready:
            return grid
        for question in ready:
            named = [name for key in question.after for name in cells.foreign_modules(grid.cells[key])]
            choice = _chosen(question, folder, work, store, device, Trust().also(*named))  # as the plan names them
            rounds.write_choice(folder, question.key, choice)
            console.print(f"{question.way} after {', '.join(question.labelled)}: {', '.join(choice.chosen)}")
        grid = again()


def later_rounds(plan: Plan, grid: Grid) -> str:
    """What of the rounds is not in a grid yet, in words; empty where nothing is."""
    rows = {row.title: row.suggest for row in plan.rows if row.suggest is not None}
    uses = [use for use in grid.uses if use.row in rows]
    left = sum(len(rows[row].budgets) for row, _, _ in {(use.row, use.fold, use.seed) for use in uses}) - len(uses)
    if not left:
        return ""
    return (
        f"on top come the {left} places of later rounds, whose labels are chosen once what is before them is trained, "
        "and a second training where a way looks at two networks; the same command goes on with them"
    )


def _is_ready(question: Question, grid: Grid, folder: Path, work: Path) -> bool:
    return all(cells.is_done(folder, work, grid.cells[key]) for key in question.after)


def _chosen(
    question: Question, folder: Path, work: Path, store: Store, device: torch.device, trust: Trust
) -> Choice:  # fmt: skip
    """As `lemis suggest` chooses, where the pool is all that there is, and its labelled subjects all that are known."""
    module = plugins.load("suggesters", question.way)
    inside, marked = set(question.pool), set(question.labelled)
    scans = [scan for scan in store.scans if scan.subject in inside]
    unlabelled = [scan.id for scan in scans if scan.subject not in marked] if question.networks else []
    seen_in = folder / "choices" / (question.pretrained or "appearance")  # one look serves all rounds
    used = Used(question.pretrained, question.networks)
    found = measuring.measure(work, store, used, unlabelled, seen_in, device, trust)
    seen = [
        Seen(one.id, one.subject, one.subject in marked, found.features[one.id], found.uncertainties.get(one.id))
        for one in scans
    ]
    told = pool.subjects(seen, found.structures, len(question.networks))
    picks = module.suggest(told.pool, question.number, resolve(module.Settings, question.settings), question.seed)
    names = tuple(told.pool.names[pick.subject] for pick in picks)
    return Choice(
        way=question.way, labelled=question.labelled, chosen=names, why=tuple(pick.why for pick in picks)
    )  # fmt: skip
