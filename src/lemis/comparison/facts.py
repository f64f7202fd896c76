"""What the page of a comparison says beside the numbers: data, command, machine, cost and citations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from lemis import plugins
from lemis.comparison import external_cells, results
from lemis.comparison.cells import Grid
from lemis.comparison.plans import Plan
from lemis.runs.run import environment
from lemis.work_files.comparison import Facts, Missing, find_facts, write_facts


class Data(NamedTuple):
    """What a comparison is on."""

    data: str  # its name
    scans: int
    subjects: int
    labelled_subjects: int
    upstream: str | None  # the name of another data set, which was pre-trained on


def write(plan: Plan, folder: Path, grid: Grid, data: Data, left: tuple[Missing, ...], *, ran: bool) -> None:
    """Write ``facts.json``.

    Args:
        plan: As it was asked for.
        folder: Of the comparison.
        grid: Its cells.
        data: What it is on.
        left: Places without a result.
        ran: Whether there was anything to do; if not, command and machine stay as they were.
    """
    before = find_facts(folder)
    here = environment()
    kind = "single" if plan.kind == "single" else "methods"
    used = {
        (of, name)
        for row in plan.rows
        for of, name in (
            (kind, row.method), (kind, row.second), ("semi", row.semi),
            ("suggesters", row.suggest.name if row.suggest else None),
        )
        if name in plugins.names(of)
    }  # fmt: skip
    semi = any(of == "semi" for of, _ in used)
    pretrained = [use for use in grid.uses if use.pretrainings]
    facts = Facts(
        version=1, title=plan.title, **data._asdict(), command=here.command,
        machine=f"{here.gpu or here.processor}, {here.cores} cores, {here.platform}", lemis=here.lemis,
        torch=here.packages["torch"], date=datetime.now(UTC).date().isoformat(), published=plan.published, missing=left,
        core_seconds=results.core_seconds(folder, grid),
        learned_nothing=results.learned_nothing(folder, grid),
        transductive=any(use.transductive for use in pretrained) if pretrained else None,
        semi_transductive=any(use.semi_transductive for use in grid.uses) if semi else None,
        citations=_citations(used) | external_cells.papers(plan),
        external=external_cells.described(plan, folder, grid),
    )  # fmt: skip
    if before and not ran:
        kept = {name: getattr(before, name) for name in ("command", "machine", "lemis", "torch", "date")}
        facts = facts.model_copy(update=kept)
    write_facts(folder, facts)


def _citations(used: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Titles of files, given by folder and name; where two folders have one name, the folder is said with it."""
    places = sorted(used, key=itemgetter(1, 0))
    several = {name for name, found in Counter(name for _, name in places).items() if found > 1}
    titles = ((of, name, plugins.describe(of, name)["title"]) for of, name in places)
    return {f"{name} ({of})" if name in several else name: title for of, name, title in titles}
