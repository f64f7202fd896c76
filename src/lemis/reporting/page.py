"""The report as one HTML page: what was done, how good it is, and everything needed to judge that.

``render`` turns the facts of a work folder into the page. A part that is missing is named, with the command
that makes it; nothing is fetched from anywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from markupsafe import Markup

from lemis.checking.faults import Fault
from lemis.datasets.index import Index, Scan, by_slice_axis
from lemis.datasets.layouts.recognised import TITLES
from lemis.measure.tables import count
from lemis.records import plain
from lemis.reporting import audited
from lemis.reporting.figures import plots
from lemis.reporting.figures.svg import TEXT, structure_colours
from lemis.reporting.methods_section import methods_paragraph, references
from lemis.reporting.numbers import duration, flat, listed, number
from lemis.reporting.sentences import missing, sentences, warnings
from lemis.reporting.templating import page
from lemis.reporting.viewer.library import parts
from lemis.reporting.work_facts import RunFacts, WorkFacts, scan_rows
from lemis.work_files.run import Figures


def render(work: WorkFacts) -> str:
    """The whole page."""
    shown = work.viewer.structures if work.viewer else ()
    colours = structure_colours(list(dict.fromkeys([*_structures(work), *shown])))
    viewing = work.viewer is not None and bool(work.viewer.scans)
    return page(
        "report.html",
        name=work.name,
        index=work.index,
        data=data_rows(work.index) if work.index else [],
        faults=work.faults,
        fault_groups=fault_groups(work.faults or ()),
        runs=work.runs,
        in_use=work.in_use,
        not_in_use=work.not_in_use,
        run_rows={run.name: run_row(run) for run in work.runs},
        learning={run.name: learning_figures(run, place, colours) for place, run in enumerate(work.runs)},
        summary=work.summary,
        default=work.summary.protocols.default if work.summary else None,
        definitions=plain(work.summary.protocols.default.definitions) if work.summary else {},
        paper=work.summary.protocols.paper if work.summary else None,
        plots=score_figures(work),
        scans=scan_rows(work.per_case),
        examples=work.examples,
        review=work.review,
        pictured=work.pictured,
        similarity=work.similarity,
        features=work.features,
        keypoints=work.keypoints,
        colours=colours,
        label_next=not work.elsewhere and _has_unlabelled(work.index),
        warnings=warnings(work),
        done=sentences(work),
        audited=audited.sentences(work.summary) if work.summary else [],
        missing=missing(work),
        out_of_date=work.out_of_date,
        methods=methods_paragraph(work),
        references=references(work),
        viewer=work.viewer,
        viewing=viewing,
        **(parts(work.viewer, colours) if work.viewer and viewing else {}),
        settings=[(run.name, flat(run.settings)) for run in (*work.in_use, *work.not_in_use)],
        environments=[
            (run.name, flat(plain(run.environment)) if run.environment else [])
            for run in (*work.in_use, *work.not_in_use)
        ],
    )


# ---------------------------------------------------------------- tables


def data_rows(index: Index) -> list[tuple[str, str]]:
    """Facts of the data set, as (what, value)."""
    scans = index.scans
    labelled = sum(scan.label is not None for scan in scans)
    values = Counter(value for scan in scans for value in scan.label_values)
    names = [
        f"{name} ({value}; in {count(values[value], 'scan')})" for name, value in index.labels.items() if value != 0
    ]
    groups = by_slice_axis(scan for scan in scans if scan.shape and scan.spacing_mm)
    several = len(groups) > 1

    def said(ranges: Callable[[Sequence[Scan]], str]) -> str:
        parts = (ranges(group) + (f" in {count(len(group), 'scan')}" if several else "") for group in groups)
        return "; ".join(parts) or "–"

    return [
        ("Scans", f"{len(scans)} ({labelled} labelled)"),
        ("Subjects", str(len({scan.subject for scan in scans}))),
        ("Layout of the folder", TITLES.get(index.layout, index.layout)),
        ("Channels", listed(index.channels)),
        ("Structures", listed(names, most=40)),
        ("Shape, voxels", said(lambda group: _ranges([scan.shape for scan in group], "{:g}"))),
        ("Spacing, mm", said(lambda group: _ranges([scan.spacing_mm for scan in group], "{:.3g}"))),
    ]


def _ranges(rows: Sequence[Sequence[float]], form: str) -> str:
    """Median of each axis, with the range where it varies."""
    parts = []
    for column in zip(*rows, strict=True):
        middle, low, high = (form.format(value) for value in (median(column), min(column), max(column)))
        parts.append(middle if low == high else f"{middle} ({low}–{high})")
    return " × ".join(parts)


def fault_groups(faults: Sequence[Fault]) -> list[tuple[str, str, list[Fault]]]:
    """Faults by (severity, kind), errors first."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.severity, fault.kind), []).append(fault)
    return [(severity, kind, found) for (severity, kind), found in sorted(groups.items(), key=lambda item: item[0])]


def run_row(run: RunFacts) -> dict[str, str]:
    """One line of the table of runs."""
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    return {
        "name": run.name,
        "what": {"pretrain": "pre-training", "finetune": "fine-tuning"}.get(run.verb, run.verb),
        "method": run.method,
        "state": run.state,
        "steps": str(run.status.step or run.steps),
        "time": duration(run.status.seconds),
        "loss": number(losses[-1] if losses else None),
    }


def _has_unlabelled(index: Index | None) -> bool:
    return index is not None and any(scan.label is None for scan in index.scans)


def _structures(work: WorkFacts) -> list[str]:
    if work.summary is not None:
        return list(work.summary.protocols.default.structures)
    return [name for name, value in work.index.labels.items() if value] if work.index else []


# ---------------------------------------------------------------- figures


def learning_figures(run: RunFacts, place: int, structures: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """(caption, SVG) of a run's curves: loss and its terms, held-out score, spread of the embeddings."""
    keys = list(dict.fromkeys(key for line in run.metrics for key in line))
    terms = [key for key in keys if key.startswith("loss/")]
    embeddings = [key for key in keys if key.startswith("embedding/")]
    panels = (
        ("Loss and its terms", ["loss", *terms], "loss")
        if len(terms) > 1
        else ("Loss", [key for key in keys if key == "loss"], "loss"),
        (
            "Score on the held-out subjects (not used to choose weights)",
            [k for k in keys if k.startswith("held_out/pooled_dice")],
            "Dice",
        ),
        ("Spread of the embeddings (towards 0: collapse)", _ending(embeddings, "/std"), "standard deviation"),
        ("Cosine of two embeddings (towards 1: collapse)", _ending(embeddings, "/cosine"), "mean cosine"),
    )
    drawn = []
    for panel, (caption, wanted, label) in enumerate(panels):
        lines = {_curve_name(key): _curve(run.metrics, key) for key in wanted}
        if lines:
            alt = f"{caption} of {run.name}: {'; '.join(_curve_in_words(*item) for item in lines.items())}."
            colours = {"mean": TEXT, **structures} if label == "Dice" else {}
            svg = plots.curves(f"run{place}-{panel}", lines, label=label, alt=alt, colours=colours)
            drawn.append((caption, Markup(svg)))
    return drawn


def _ending(keys: Iterable[str], end: str) -> list[str]:
    return [key for key in keys if key.endswith(end)]


def _curve_name(key: str) -> str:
    """What the legend calls a key of the metrics: ``held_out/pooled_dice/LV`` -> ``LV``."""
    name = key.removesuffix("/std").removesuffix("/cosine")
    return "mean" if name == "held_out/pooled_dice" else name.rsplit("/", 1)[-1]


def _curve(metrics: Sequence[Figures], key: str) -> tuple[list[float], list[float]]:
    there = [(float(line["step"]), float(line[key])) for line in metrics if line.get(key) is not None]
    return [step for step, _ in there], [value for _, value in there]


def _curve_in_words(name: str, curve: tuple[Sequence[float], Sequence[float]]) -> str:
    return f"{name} from {curve[1][0]:.3g} to {curve[1][-1]:.3g}"


def score_figures(work: WorkFacts) -> list[tuple[str, Markup]]:
    """(caption, SVG) of the scores over scans."""
    if work.summary is None:
        return []
    default = work.summary.protocols.default
    wanted = [("dice", "Dice, one point per scan", "Dice", False)]
    if not default.without_millimetres:
        wanted.append(("hd95_mm", "95th percentile Hausdorff distance, one point per scan", "HD95, mm", True))
    drawn = []
    for metric, caption, label, millimetres in wanted:
        groups = {
            name: [
                (getattr(row, metric), row.status == "scored")
                for row in work.per_case
                if row.structure == name and not math.isnan(getattr(row, metric))
            ]
            for name in default.structures
        }
        groups = {name: points for name, points in groups.items() if points}
        if groups:
            medians = "; ".join(f"{name} median {median(v for v, _ in points):.3g}" for name, points in groups.items())
            svg = plots.boxes(
                f"boxes-{metric}", groups, label=label, millimetres=millimetres, alt=f"{caption}. {medians}."
            )
            drawn.append((caption, Markup(svg)))
    return drawn
