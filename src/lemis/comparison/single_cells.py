"""Comparisons of methods for single images: a cell is one row with one seed, on all images of a folder.

Nothing is trained on any label, so there is no M and no fold: both are 0 in the tables. Each slice is a case.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lemis import __version__
from lemis.comparison import cells
from lemis.comparison.cells import Cell, Grid, Use
from lemis.comparison.plans import Plan, single_settings
from lemis.errors import UsageError
from lemis.one_image import single_sets
from lemis.settings import plain
from lemis.work_files import one_image
from lemis.work_files.comparison import CellCase

OBJECT = "object"  # the one structure


def expand(plan: Plan, folder: Path) -> tuple[Grid, int]:
    """A cell for each row and seed, and how many images there are.

    Raises:
        UsageError: An image without reference, or no image.
    """
    found = single_sets.find(folder)
    without = [pair.name for pair in found.pairs if pair.reference is None]
    if without:
        raise UsageError(
            f"{folder}: no reference for {without[0]}" + (f" and {len(without) - 1} more" if without[1:] else ""),
            allowed="a folder of images with a reference for each, as one_image/single_sets.py lists them",
            next="images/ with labels/ of the same names",
        )
    images = cells.digest(
        [[pair.name, _bytes(pair.image), _bytes(pair.reference), plain(list(pair[3:]))] for pair in found.pairs]
    )
    grid: dict[str, Cell] = {}
    uses = []
    for seed in plan.seeds:
        for row in plan.rows:
            settings, protocol = plain(single_settings(row)), protocol_of(plan)
            made_of = {
                "kind": "single", "lemis": __version__, "images": images, "method": row.method, "seed": seed,
                "settings": settings, "size_px": plan.size_px, "protocol": protocol,
                "code": cells.code(single=row.method),
            }  # fmt: skip
            key = cells.digest(made_of)[:16]
            call = {
                "batch": str(folder.absolute()), "method": row.method, "seed": seed, "protocol": protocol,
                "size": None if plan.size_px is None else str(plan.size_px),
                "overrides": [f"{name}={json.dumps(value)}" for name, value in settings.items()],
            }  # fmt: skip
            title = f"{row.title}: {len(found.pairs)} images, seed {seed}"
            grid[key] = Cell(
                kind="single", key=key, title=title, run="", work="", needs=(), made_of=made_of, call=call
            )  # fmt: skip
            uses.append(Use(row.title, 0, 0, seed, key, None, False))
    return Grid(grid, tuple(uses)), len(found.pairs)


def protocol_of(plan: Plan) -> str:
    """``honest`` where the plan names none."""
    return "honest" if plan.protocol == "default" else plan.protocol


def cases_of(masks: Path) -> tuple[CellCase, ...]:
    """A case for each slice in the summary of ``segment-one``, which lies among its masks.

    Raises:
        UsageError: The summary is damaged, or an image could not be segmented.
    """
    rows = one_image.read_summary(masks, next=f"delete {masks} and run the same `lemis compare` again")
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        raise UsageError(
            f"{failed[0].image}: {failed[0].problem}" + (f" (and {len(failed) - 1} more)" if failed[1:] else ""),
            allowed="images that can be segmented",
            next="repair or remove it, then run the same command again",
        )
    return tuple(
        CellCase(
            subject=row.image, scan=f"{row.image}:{row.slice}", structure=OBJECT,
            dice=_cell(row.dice), hd95_mm="", assd_mm="", status="scored", hm=_cell(row.hammoude), xor=_cell(row.xor),
        )
        for row in rows
    )  # fmt: skip


def _cell(value: float | None) -> str:
    return "" if value is None else str(value)


def _bytes(file: Path | None) -> str:
    assert file is not None, "references are there"
    files = sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.read_bytes())
    return whole.hexdigest()
