"""Where rows of a plan are compared: each number of labelled subjects, fold and seed, and whose labels these are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.comparison import rounds
from lemis.comparison.plans import Plan, Row
from lemis.datasets.split import BUDGET_SEED, Scanned, Split, choose, in_order, labelled_subset, number_of_folds
from lemis.errors import UsageError


class Place(NamedTuple):
    """One column of one fold and seed: whose labels are used, and who is tested."""

    labelled: int  # M as it is printed; where the plan says ``all``, the most that a fold has
    wanted: int | None  # None: all
    fold: int
    seed: int
    selection_seed: int
    split: Split
    named: bool = False  # the labelled subjects of the split were chosen one by one, not drawn


def places(plan: Plan, scans: Iterable[Scanned], root: Path | None) -> tuple[Place, ...]:
    """Every M of every fold and seed, in the order in which they are trained.

    Raises:
        UsageError: Fewer than two labelled subjects, a fold that is not there, or a larger M than a fold has.
    """
    scans = tuple(scans)
    subjects = {scan.subject for scan in scans if scan.label is not None}
    if len(subjects) < 2:
        raise UsageError(
            f"{len(subjects)} labelled subject{'' if len(subjects) == 1 else 's'}",
            allowed="at least two: one to train on, one to test on",
            next="label more scans, and run the same command again",
        )
    there = number_of_folds(scans, root=root, scheme=plan.split)
    folds = tuple(range(there)) if plan.folds == "all" else plan.folds
    trained_on = [len(choose(scans, fold=fold, root=root, scheme=plan.split).train_subjects) for fold in folds]
    wanted = _labelled(plan, min(trained_on))
    for row in plan.rows:
        if row.suggest is not None:
            rounds.refuse_too_many(row.suggest, row.title, min(trained_on))
    found = []
    for seed in plan.seeds:
        selection_seed = BUDGET_SEED + seed if plan.selection == "seeded" else BUDGET_SEED
        for m in wanted:
            for fold in folds:
                split = choose(scans, fold=fold, labelled=m, root=root, seed=selection_seed, scheme=plan.split)
                found.append(Place(m or max(trained_on), m, fold, seed, selection_seed, split))
    return tuple(found)


def starts(row: Row, columns: Sequence[Place]) -> list[Place]:
    """Where a row with rounds begins, in each fold and seed of ``columns``: with subjects that are drawn, the same for
    every such row.
    """
    assert row.suggest is not None, "it has rounds"
    number = row.suggest.start
    first = {(place.fold, place.seed): place for place in reversed(columns)}.values()
    return [
        at(place, labelled_subset(place.split.train_subjects, number, seed=place.selection_seed))
        for place in sorted(first, key=columns.index)
    ]


def at(place: Place, labelled: Iterable[str]) -> Place:
    """The same fold and seed with the labels of these subjects."""
    subjects = in_order(labelled)
    split = dataclasses.replace(place.split, labelled_subjects=subjects)
    return place._replace(labelled=len(subjects), wanted=None, split=split, named=True)


def _labelled(plan: Plan, most: int) -> list[int | None]:
    if isinstance(plan.labelled, str):
        fewest = min(2, most)
        return [*sorted({fewest, round(math.sqrt(fewest * most)), most})]
    numbers = [None if m == "all" else m for m in plan.labelled]
    too_many = [m for m in numbers if m is not None and m > most]
    if too_many:
        raise UsageError(
            f"labelled: {too_many[0]}",
            allowed=f"1 to {most}, the labelled subjects of the smallest fold that may be trained on; or all",
            next=f"labelled: [{', '.join(str(m or 'all') for m in numbers if m not in too_many) or most}]",
        )
    return [*numbers]
