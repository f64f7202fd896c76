"""The scores of an evaluation on the terminal: a table, and what a reader must know beside it."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lemis import terminal
from lemis.measure import slices
from lemis.measure.tables import count
from lemis.reporting import audited
from lemis.work_files.evaluation import COUNTS, PER_CASE, SUMMARY, Estimate, Paper, Summary


def show(summary: Summary, output: Path) -> None:
    """Print what was written to ``output``."""
    out = terminal.console()
    default = summary.protocols.default
    level = f"{100 * summary.settings.intervals.level:.0f} %"
    who = f"{count(summary.scans, 'scan')} of {count(summary.subjects, 'subject')}"
    title = f"{who}; mean over scans, {level} confidence interval below it"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # ASSD and the other forms of the distances are in the files: with them the table is wider than 80 columns.
    heads = {"dice": "Dice", "hd95_mm": "HD95 mm", "nsd": f"NSD {default.tolerance_mm:g} mm"}
    names = ["dice"] if default.without_millimetres else list(heads)
    table.add_column("structure")
    for head in (*(heads[name] for name in names), *COUNTS):
        table.add_column(head, justify="right")
    overall = {"mean of structures": default.overall} if len(default.structures) > 1 else {}
    for structure, found in {**default.structures, **overall}.items():
        means = [_with_interval(getattr(found, name), 1 if name == "hd95_mm" else 3) for name in names]
        table.add_row(structure, *means, *(str(getattr(found, name)) for name in COUNTS))
    terminal.print_table(out, table)
    for line in [*remarks(summary), f"written: {output}/{PER_CASE}, {SUMMARY}"]:
        out.print(line)


def _with_interval(estimate: Estimate, digits: int) -> Text:
    if estimate.mean is None:
        return Text("-")
    low, high = estimate.low, estimate.high
    interval = "" if low is None or high is None else f"\n{low:.{digits}f}-{high:.{digits}f}"
    return Text.assemble(f"{estimate.mean:.{digits}f}", (interval, "dim"))


def remarks(summary: Summary) -> list[str]:
    """What a reader must know beside the numbers, a line each."""
    default = summary.protocols.default
    said = [f"{len(scans)} not scored: {reason}" for reason, scans in summary.not_scored.items() if scans]
    if default.without_millimetres:
        said.append(f"no surface metrics: {default.without_millimetres}")
    if default.overall.missed or default.overall.invented:
        distance = "" if default.without_millimetres else " and the diagonal of the image"
        said.append(f"missed and invented structures count as Dice 0{distance}")
    if summary.subjects < 10:
        few = count(summary.subjects, "subject")
        were = "was" if summary.subjects == 1 else "were"
        said.append(f"only {few} {were} tested: rare failures may not be among them")
    unknown = len(summary.training_not_recorded)
    if 0 < unknown < summary.scans:
        said.append(f"{unknown} of the predictions are not in predictions.json: nobody knows whether they leak")
    if summary.strange:
        ways = sorted({kind for strangers in summary.strange.values() for kind, _ in strangers})
        said.append(
            f"{count(len(summary.strange), 'scan')} unlike what the network was trained on "
            f"({', '.join(ways)}): see predictions.json"
        )
    said += audited.sentences(summary)
    said.append(_exposure(summary))
    if unknown == summary.scans:
        said.append("so these scans may be among those that the network learned from")
    if summary.protocols.paper is not None:
        said.append(_papers(summary.protocols.paper))
    return said


def _papers(paper: Paper) -> str:
    text = f"paper protocol (pooled over slices, network grid): mean Dice {paper.mean:.3f}"
    if not paper.beside:
        return text
    jaccard, hd95, asd = (paper.beside[metric].mean for metric in slices.BESIDE)
    return (
        f"{text}, Jaccard {jaccard:.3f}; of slices HD95 {hd95:.2f} px and ASD {asd:.2f} px, where a missed structure "
        "counts 0"
    )


def _exposure(summary: Summary) -> str:
    if summary.transductive is None:
        if len(summary.training_not_recorded) == summary.scans:
            return "what training saw is not known (no predictions.json beside the predictions)"
        return "what pre-training saw is not known of all test subjects"
    if summary.transductive:
        return f"transductive: {summary.exposed_in} saw the images (not the labels) of test subjects"
    return f"not transductive: {summary.not_exposed_in} saw no image of a test subject"
