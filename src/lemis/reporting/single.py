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
from lemis.work_files.one_image import Agreement, Folder, MaskRecord, Means, Slice, SliceScores, SummaryRow


class Outcome(NamedTuple):
    """What became of one image of a folder."""

    record: MaskRecord | None  # None where it failed
    kept: bool = False  # made before
    error: Exception | None = None


# ---------------------------------------------------------------- one image


def pictures(
    name: str, method: str, stack: Stack, slices: Sequence[Slice], label_map: Mapping[int, NDArray[Any]]
) -> dict[str, bytes]:
    """An overlay of every slice, as PNG by file name.

    Args:
        name: Of the image.
        method: That made the clusters.
        stack: The image, its planes as large as they are shown.
        slices: Those of the image that were divided.
        label_map: (H, W) clusters by slice number.
    """
    shown = dict(zip(stack.numbers, stack.planes, strict=True))
    drawn = {}
    for one in slices:
        number = one.slice
        entries = [
            overlay.Entry(
                cluster.label, cluster.share, cluster.label == one.proposed, cluster.label in one.chosen,
            )
            for cluster in one.clusters
        ]  # fmt: skip
        title = name + (f", slice {number}" if len(slices) > 1 else "") + f" ({method})"
        labels = single_image.nearest(label_map[number], shown[number].shape[1:])
        drawn[f"{number:04d}.png"] = overlay.clusters(
            shown[number], labels, entries, shape=stack.shape, spacing=stack.spacing_mm, title=title
        )
    return drawn


def show(record: MaskRecord, image: Path, mask: Path) -> None:
    """Print what was found in one image, how to choose another cluster, and where everything lies."""
    console = terminal.console()
    several = len(record.slices) > 1
    made_from = record.made_from
    starts = made_from.settings.get("starts", 1)
    best = f", best of {starts} starts" if starts > 1 else ""
    for one in record.slices:
        where = f", slice {one.slice}" if several else ""
        again = f", {count(one.restarts, 'restart')}" if one.restarts else ""
        title = (
            f"{image.name}{where}: {made_from.method}, seed {made_from.seed}{best}, "
            f"{count(one.iterations, 'iteration')}{again}, {one.seconds:.1f} s"
        )
        terminal.print_table(console, _cluster_table(one, title))
        console.print(_said(one, record.chosen_by))
        if one.scores is not None:
            console.print(_score_line(one.scores))
    if several and record.means is not None:
        _show_means(console, record.means, "slice")
    console.print(_how_to_choose(record, image, mask))
    others = ", ".join([record.files.labels, record.files.overlay, beside(mask, "", ".json").name])
    console.print(f"written: {mask} (object 1, rest 0); beside it {others}")


def _cluster_table(one: Slice, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("cluster", "share", "of the border", "contrast", "compactness", "score"):
        table.add_column(head, justify="right")
    table.add_column("")
    for cluster in one.clusters:
        roles = [
            *(["proposed"] if cluster.label == one.proposed else []),
            *(["mask"] if cluster.label in one.chosen else []),
        ]
        table.add_row(
            str(cluster.label),
            f"{cluster.share:.1%}",
            f"{cluster.border:.0%}",
            *(f"{value:.2f}" for value in (cluster.contrast, cluster.compactness, cluster.score)),
            ", ".join(roles),
        )
    return table


def _said(one: Slice, by: str) -> str:
    if one.proposed is None:
        return f"nothing is proposed: {one.why}"
    said = f"proposed as the object: cluster {one.proposed}, because {one.why}"
    if by == "proposal":
        return said
    return f"{said}\nin the mask: cluster {' + '.join(map(str, one.chosen))}, by {by}"


def _score_line(scores: SliceScores) -> str:
    best = "none may be chosen" if scores.best_cluster is None else f"cluster {scores.best_cluster}"
    return (
        f"against the reference, protocol {scores.protocol}: best overlap {best}: {_three(scores)}; "
        f"the mask as it was written: {_three(scores.chosen)}"
    )


def _three(scores: SliceScores | Agreement) -> str:
    return f"DSC {scores.dice:.3f}, HM {scores.hammoude:.3f}, XOR {scores.xor:.3f}"


def _how_to_choose(record: MaskRecord, image: Path, mask: Path) -> str:
    again = f"lemis segment-one {shlex.quote(str(image))} -o {shlex.quote(str(mask))}"
    one = next((one for one in record.slices if len(one.clusters) > 1), None)
    if one is None:
        return f"to try again: {again} --seed {record.made_from.seed + 1}"
    others = [cluster for cluster in one.clusters if cluster.label not in one.chosen] or one.clusters
    other = max(others, key=lambda cluster: cluster.score).label
    label = other if len(record.slices) == 1 else f"{one.slice}:{other}"
    return f"to choose another, without training again: {again} --pick {label} (or --click ROW,COL)"


# ---------------------------------------------------------------- a folder


def rows(name: str, outcome: Outcome) -> list[SummaryRow]:
    """One row of the summary per slice, or one that names the problem."""
    if outcome.record is None:
        return [SummaryRow(image=name, status="failed", problem=" ".join(str(outcome.error).split()))]
    return [
        SummaryRow(
            image=name,
            slice=one.slice,
            status="kept" if outcome.kept else "done",
            clusters=len(one.clusters),
            chosen="+".join(map(str, one.chosen)),
            share=one.mask_share,
            iterations=one.iterations,
            restarts=one.restarts,
            seconds=one.seconds,
            **_score_cells(one.scores),
        )
        for one in outcome.record.slices
    ]


def _score_cells(scores: SliceScores | None) -> dict[str, Any]:
    if scores is None:
        return {}
    return {
        "protocol": scores.protocol,
        "best_cluster": scores.best_cluster,
        **{name: getattr(scores, name) for name in Overlap._fields},
        **{f"chosen_{name}": getattr(scores.chosen, name) for name in Overlap._fields},
    }


def line(name: str, outcome: Outcome) -> str:
    """One image of a folder, in a line."""
    if outcome.record is None:
        return f"{name}: failed: {outcome.error}"
    if outcome.kept:
        return f"{name}: made before"
    slices = outcome.record.slices
    chosen = [f"{'+'.join(map(str, one.chosen)) or 'none'} of {len(one.clusters)}" for one in slices[:3]]
    what = ", ".join(chosen) + ("..." * (len(slices) > 3))
    iterations, seconds = sum(one.iterations for one in slices), sum(one.seconds for one in slices)
    return f"{name}: cluster {what}, {count(iterations, 'iteration')}, {seconds:.1f} s"


def show_folder(folder: Folder) -> None:
    """Print the means over a folder, and what has no reference or failed."""
    console = terminal.console()
    if folder.means is not None:
        _show_means(console, folder.means, "image")
    if folder.without_reference:
        console.print(f"not scored, as they have no reference: {', '.join(folder.without_reference)}")
    if folder.failed:
        console.print(f"{count(len(folder.failed), 'image')} failed: {', '.join(folder.failed)}")
    console.print(f"written: {folder.summary}")


def _show_means(console: Console, means: Means, noun: str) -> None:
    table = Table(
        "", "DSC", "HM", "XOR", title=f"mean over {count(means.scored, noun)} with a reference", title_justify="left",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for name, mean in (
        (f"best-overlap cluster, protocol {means.protocol}", means.best),
        ("mask as written", means.chosen),
    ):
        table.add_row(name, *(f"{getattr(mean, score):.3f}" for score in Overlap._fields))
    terminal.print_table(console, table)
    console.print(f"protocol {means.protocol}: {means.what}")
