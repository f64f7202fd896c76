"""The cells of rows that another program trains: what they are made of, and what a page says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lemis import __version__
from lemis.comparison import cells, external_rows
from lemis.comparison.cells import Cell, Grid, Use
from lemis.comparison.external_rows import PROGRAMS, SCRIPT, Settings
from lemis.comparison.places import Place
from lemis.comparison.plans import Plan, Row, Way
from lemis.errors import UsageError
from lemis.preparation.store import Store
from lemis.runs.device import chosen_device
from lemis.training.pairing import SCRATCH
from lemis.work_files.comparison import External, read_result

Versions = Mapping[str, Mapping[str, str]]  # row -> package -> version


class Sizes(NamedTuple):
    """Those of a network of Lemis that nnU-Net's plan takes over."""

    spacing_mm: float
    patch_px: tuple[int, int]
    base_width: int
    batch_size: int


def versions(plan: Plan) -> dict[str, dict[str, str]]:
    """What is in the environment of each such row.

    Raises:
        UsageError: There is no such environment, or no nnunetv2 in it.
    """
    found = {row.title: external_rows.interpreter(row.python, row.title) for row in external_rows.external(plan.rows)}
    known = {python: external_rows.versions(python) for python in dict.fromkeys(found.values())}
    return {title: known[python] for title, python in found.items()}


def added(
    plan: Plan, grid: Grid, ways: Sequence[Way], places: Sequence[Place], store: Store, there: Versions, device: str
) -> Grid:
    """The cells of Lemis' own rows and those of the others, each after what its length is measured by.

    Args:
        plan: What is compared.
        grid: The cells of the rows that Lemis trains.
        ways: Those rows.
        places: The columns.
        store: The prepared scans.
        there: ``versions`` of the environments.
        device: As the user gave it.

    Raises:
        UsageError: Networks of three dimensions, sizes that nnU-Net's plan cannot take over, or equal time on a GPU.
    """
    found, uses = dict(grid.cells), list(grid.uses)
    known = {(use.row, use.labelled, use.fold, use.seed): use for use in grid.uses}
    for row in external_rows.external(plan.rows):
        settings, like = external_rows.settings_of(row.settings), external_rows.like(row, plan.rows, plan.baseline)
        (way,) = (way for way in ways if way.row.title == like)
        _refuse_volumes(row, way)
        if settings.steps is None and chosen_device(device) != "cpu":
            raise UsageError(
                f"row {row.title!r}, which takes the core-seconds of {like}, on a GPU",
                allowed="a number of steps, or --device cpu",
                next="settings: {steps: 2000}",
            )
        sizes = _sizes(row, way, store) if settings.plan == "lemis" else None
        for place in places:
            before = known[like, place.labelled, place.fold, place.seed]
            cell = _cell(row, settings, sizes, place, store, there[row.title], before)
            found[cell.key] = cell
            uses.append(Use(row.title, place.labelled, place.fold, place.seed, cell.key, None, False))
    return Grid(found, tuple(uses), grid.questions)


def _refuse_volumes(row: Row, way: Way) -> None:
    if way.finetuning.dims != 2:
        raise UsageError(
            f"row {row.title!r} beside networks of three dimensions",
            allowed="beside networks that see slices: nnU-Net is trained in two dimensions here",
            next="leave the row out, or compare networks of two dimensions",
        )


def _sizes(row: Row, way: Way, store: Store) -> Sizes:
    """Pixels, patches, width and batches of a row of Lemis."""
    spacing_mm, objective = store.settings.get("spacing_mm"), way.finetuning.objective
    width = getattr(way.finetuning.backbone_settings, "base_width", None)
    size_px = objective.size_px
    if width is None or not isinstance(spacing_mm, float) or not isinstance(size_px, int):
        what = {
            f"the network {way.finetuning.backbone}, which has no base_width": width is None,
            "scans that are not resampled to one spacing": not isinstance(spacing_mm, float),
        }
        why = next((said for said, so in what.items() if so), f"patches of {size_px} pixels")
        raise UsageError(
            f"row {row.title!r} at the plan of {way.row.title}: {why}",
            allowed="a U-Net on squares of one size, prepared at one spacing; or nnU-Net's own plan",
            next="settings: {plan: own}",
        )
    return Sizes(spacing_mm, (size_px, size_px), width, objective.batch_size)


def _cell(
    row: Row, settings: Settings, sizes: Sizes | None, place: Place, store: Store, there: Mapping[str, str], before: Use
) -> Cell:
    train, test = (
        [scan for scan in store.scans if scan.labelled and scan.subject in subjects]
        for subjects in (place.split.labelled_subjects, place.split.test_subjects)
    )
    seen = [
        [[scan.id, scan.subject, store.digest(scan.id), scan.image_digest, scan.label_digest] for scan in scans]
        for scans in (train, test)
    ]
    needs = (*before.pretrainings, before.cell) if settings.steps is None else ()
    how: dict[str, Any] = {
        "seed": place.seed, "plan": sizes._asdict() if sizes else None, "steps": settings.steps,
        "times": (settings.times or 1.0) if settings.steps is None else None,
    }  # fmt: skip
    made_of = {
        "kind": "external", "external": row.external, "lemis": __version__, "versions": dict(there),
        "labels": dict(zip(store.label_names, store.label_values, strict=True)), "channels": list(store.channels),
        "train": cells.digest(seen[0]), "test": cells.digest(seen[1]), "labelled": list(place.split.labelled_subjects),
        "script": cells.digest(SCRIPT.read_text(encoding="utf-8")), "as_long_as": list(needs), **how,
    }  # fmt: skip
    key = cells.digest(made_of)[:16]
    return Cell(
        kind="external", key=key, title=f"{row.title}: M = {place.labelled}, fold {place.fold}, seed {place.seed}",
        run="", work="", needs=needs, made_of=made_of, labelled=place.split.labelled_subjects,
        test=tuple(scan.id for scan in test),
        call={"external": row.external, "python": row.python, "train": [scan.id for scan in train], **how},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ what is said


def described(plan: Plan, folder: Path, grid: Grid) -> dict[str, str]:
    """For each such row with a result: who trained it, at what plan, how long; a sentence without its title."""
    found = {}
    for row in external_rows.external(plan.rows):
        results = [read_result(folder, use.cell) for use in grid.uses if use.row == row.title]
        done = [result.external for result in results if result is not None and result.external is not None]
        if done:
            found[row.title] = _sentence(plan, row, done)
    return found


def _sentence(plan: Plan, row: Row, done: Sequence[External]) -> str:
    settings, like, first = (
        external_rows.settings_of(row.settings),
        external_rows.like(row, plan.rows, plan.baseline),
        done[0],
    )
    fewest, most = min(one.steps for one in done), max(one.steps for one in done)
    steps = f"{fewest} steps" if fewest == most else f"{fewest} to {most} steps"
    if settings.steps is None:
        with_it = "" if any(one.title == like and one.method == SCRATCH for one in plan.rows) else ", with pre-training"
        steps += f" ({settings.times or 1:g} times the core-seconds of {like}{with_it})"
    whose = f"the plan of {like}" if settings.plan == "lemis" else "its planner's plan (that of the first run)"
    mm, px = (" x ".join(f"{value:.3g}" for value in values) for values in (first.spacing_mm, first.patch_px))
    with_ = ", ".join(f"{name} {number}" for name, number in first.versions.items() if name != "python")
    return (
        f"trained by {PROGRAMS[str(row.external)]}'s own code ({with_}) in 2D, {steps}, at {whose}: {mm} mm, "
        f"patches of {px} pixels, widths {first.widths[0]} to {first.widths[-1]}, batches of {first.batch_size}"
    )


def papers(plan: Plan) -> dict[str, str]:
    """Of the programs, by name."""
    return {str(row.external): external_rows.PAPERS[str(row.external)] for row in external_rows.external(plan.rows)}
