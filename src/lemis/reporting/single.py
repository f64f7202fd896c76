"""What ``lemis segment-one`` says and draws: tables and sentences for the terminal, overlays, the rows of a summary."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lemis import terminal
from lemis.measure.clusters import Overlap
from lemis.measure.tables import count
from lemis.one_image import single_image
from lemis.one_image.single_image import Stack, beside
from lemis.reporting import overlay

Facts = dict[str, Any]

COLUMNS = (
    "image", "slice", "status", "clusters", "chosen", "share", "iterations", "restarts", "seconds", "protocol",
    "best_cluster", *Overlap._fields, *(f"chosen_{name}" for name in Overlap._fields), "problem",
)  # fmt: skip


class Outcome(NamedTuple):
    """What became of one image of a folder."""

    record: Facts | None  # None where it failed
    kept: bool = False  # made before
    error: Exception | None = None


# ---------------------------------------------------------------- one image


def pictures(
    name: str, method: str, stack: Stack, slices: Sequence[Facts], label_map: Mapping[int, NDArray[Any]]
) -> dict[str, bytes]:
    """An overlay of every slice, as PNG by file name.

    Args:
        name: Of the image.
        method: That made the clusters.
        stack: The image, its planes as large as they are shown.
        slices: Of each its number, its clusters, the proposed and the chosen ones.
        label_map: (H, W) clusters by slice number.
    """
    shown = dict(zip(stack.numbers, stack.planes, strict=True))
    drawn = {}
    for facts in slices:
        number = facts["slice"]
        entries = [
            overlay.Entry(
                cluster["label"], cluster["share"], cluster["label"] == facts["proposed"],
                cluster["label"] in facts["chosen"],
            )
            for cluster in facts["clusters"]
        ]  # fmt: skip
        title = name + (f", slice {number}" if len(slices) > 1 else "") + f" ({method})"
        labels = single_image.nearest(label_map[number], shown[number].shape[1:])
        drawn[f"{number:04d}.png"] = overlay.clusters(
            shown[number], labels, entries, shape=stack.shape, spacing=stack.spacing_mm, title=title
        )
    return drawn


def show(record: Facts, image: Path, mask: Path) -> None:
    """Print what was found in one image, how to choose another cluster, and where everything lies."""
    console = terminal.console()
    several = len(record["slices"]) > 1
    made_from = record["made_from"]
    starts = made_from["settings"].get("starts", 1)
    best = f", best of {starts} starts" if starts > 1 else ""
    for facts in record["slices"]:
        where = f", slice {facts['slice']}" if several else ""
        again = f", {count(facts['restarts'], 'restart')}" if facts["restarts"] else ""
        title = (
            f"{image.name}{where}: {made_from['method']}, seed {made_from['seed']}{best}, "
            f"{count(facts['iterations'], 'iteration')}{again}, {facts['seconds']:.1f} s"
        )
        terminal.print_table(console, _cluster_table(facts, title))
        console.print(_said(facts, record["chosen_by"]))
        if "scores" in facts:
            console.print(_score_line(facts["scores"]))
    if several and record["means"]:
        _show_means(console, record["means"], "slice")
    console.print(_how_to_choose(record, image, mask))
    others = ", ".join([record["files"]["labels"], record["files"]["overlay"], beside(mask, "", ".json").name])
    console.print(f"written: {mask} (object 1, rest 0); beside it {others}")


def _cluster_table(facts: Facts, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("cluster", "share", "of the border", "contrast", "compactness", "score"):
        table.add_column(head, justify="right")
    table.add_column("")
    for cluster in facts["clusters"]:
        roles = [
            *(["proposed"] if cluster["label"] == facts["proposed"] else []),
            *(["mask"] if cluster["label"] in facts["chosen"] else []),
        ]
        table.add_row(
            str(cluster["label"]),
            f"{cluster['share']:.1%}",
            f"{cluster['border']:.0%}",
            *(f"{cluster[name]:.2f}" for name in ("contrast", "compactness", "score")),
            ", ".join(roles),
        )
    return table


def _said(facts: Facts, by: str) -> str:
    if facts["proposed"] is None:
        return f"nothing is proposed: {facts['why']}"
    said = f"proposed as the object: cluster {facts['proposed']}, because {facts['why']}"
    if by == "proposal":
        return said
    return f"{said}\nin the mask: cluster {' + '.join(map(str, facts['chosen']))}, by {by}"


def _score_line(scores: Facts) -> str:
    best = "none may be chosen" if scores["best_cluster"] is None else f"cluster {scores['best_cluster']}"
    return (
        f"against the reference, protocol {scores['protocol']}: best overlap {best}: {_three(scores)}; "
        f"the mask as it was written: {_three(scores['chosen'])}"
    )


def _three(scores: Facts) -> str:
    return f"DSC {scores['dice']:.3f}, HM {scores['hammoude']:.3f}, XOR {scores['xor']:.3f}"


def _how_to_choose(record: Facts, image: Path, mask: Path) -> str:
    again = f"lemis segment-one {shlex.quote(str(image))} -o {shlex.quote(str(mask))}"
    facts = next((facts for facts in record["slices"] if len(facts["clusters"]) > 1), None)
    if facts is None:
        return f"to try again: {again} --seed {record['made_from']['seed'] + 1}"
    others = [cluster for cluster in facts["clusters"] if cluster["label"] not in facts["chosen"]] or facts["clusters"]
    other = max(others, key=lambda cluster: cluster["score"])["label"]
    label = other if len(record["slices"]) == 1 else f"{facts['slice']}:{other}"
    return f"to choose another, without training again: {again} --pick {label} (or --click ROW,COL)"


# ---------------------------------------------------------------- a folder


def rows(name: str, outcome: Outcome) -> list[Facts]:
    """One row of the summary per slice, or one that names the problem; under ``facts`` all that is known of a slice."""
    if outcome.record is None:
        return [{"image": name, "status": "failed", "problem": " ".join(str(outcome.error).split())}]
    found = []
    for facts in outcome.record["slices"]:
        scored = facts.get("scores", {})
        found.append(
            {
                "image": name,
                "status": "kept" if outcome.kept else "done",
                **{key: facts[key] for key in ("slice", "iterations", "restarts", "seconds")},
                "clusters": len(facts["clusters"]),
                "chosen": "+".join(map(str, facts["chosen"])),
                "share": facts["mask_share"],
                **{key: value for key, value in scored.items() if key != "chosen"},
                **{f"chosen_{key}": value for key, value in scored.get("chosen", {}).items()},
                "facts": facts,
            }
        )
    return found


def line(name: str, outcome: Outcome, rows: Sequence[Facts]) -> str:
    """One image of a folder, in a line."""
    if outcome.record is None:
        return f"{name}: failed: {outcome.error}"
    if outcome.kept:
        return f"{name}: made before"
    what = ", ".join(f"{row['chosen'] or 'none'} of {row['clusters']}" for row in rows[:3]) + ("..." * (len(rows) > 3))
    iterations, seconds = (sum(row[key] for row in rows) for key in ("iterations", "seconds"))
    return f"{name}: cluster {what}, {count(iterations, 'iteration')}, {seconds:.1f} s"


def show_folder(record: Facts) -> None:
    """Print the means over a folder, and what has no reference or failed."""
    console = terminal.console()
    if record["means"]:
        _show_means(console, record["means"], "image")
    if record["without_reference"]:
        console.print(f"not scored, as they have no reference: {', '.join(record['without_reference'])}")
    if record["failed"]:
        failed = count(len(record["failed"]), "image")
        console.print(f"{failed} failed: {', '.join(record['failed'])}")
    console.print(f"written: {record['summary']}")


def _show_means(console: Console, means: Facts, noun: str) -> None:
    scored = count(means["scored"], noun)
    table = Table(
        "", "DSC", "HM", "XOR", title=f"mean over {scored} with a reference", title_justify="left", box=SIMPLE_HEAD
    )
    for name, key in ((f"best-overlap cluster, protocol {means['protocol']}", "best"), ("mask as written", "chosen")):
        table.add_row(name, *(f"{means[key][score]:.3f}" for score in Overlap._fields))
    terminal.print_table(console, table)
    console.print(f"protocol {means['protocol']}: {means['what']}")
