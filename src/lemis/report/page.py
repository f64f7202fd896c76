"""The report as one HTML page: what was done, how good it is, and everything needed to judge that.

``render`` turns the facts of a work folder into the page. A part that is missing is named, with the command
that makes it; nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lemis import plugins
from lemis.datasets.index import Index, Scan, by_slice_axis
from lemis.datasets.layouts.recognised import TITLES
from lemis.measure.tables import count
from lemis.report import figures

Facts = Mapping[str, Any]

_STRANGE_SHOWN = 3  # scans of one kind that a warning names


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What one run folder says."""

    name: str
    status: Facts
    settings: Facts
    environment: Facts
    model: Facts  # empty until the run is done
    metrics: tuple[Facts, ...]

    @property
    def verb(self) -> str:
        """``pretrain`` or ``finetune``."""
        return str(self.status.get("verb", ""))

    @property
    def method(self) -> str:
        """Name of the method, ``scratch`` for none."""
        return str(self.status.get("method", ""))

    @property
    def done(self) -> bool:
        """Training reached its end."""
        return self.status.get("state") == "done"

    @property
    def learned_nothing(self) -> str | None:
        """Why a pre-training learned nothing, where that is so."""
        return self.status.get("learned_nothing")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One picture of an example."""

    picture: bytes  # PNG
    caption: str
    width_mm: float | None = None  # of one of three orthogonal planes, so that they are shown in one scale


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scan with a few of its slices."""

    rank: str  # best, median, worst
    scan: str
    dice: float
    slices: tuple[Slice, ...]

    @property
    def widths_mm(self) -> tuple[float, ...]:
        """Of three orthogonal planes; empty where slices of a stack are shown."""
        return tuple(slice_.width_mm for slice_ in self.slices if slice_.width_mm is not None)


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """What networks take for one and the same place, drawn."""

    where: str  # row 64, column 60 of slice 5 of 10, scan NAME
    view: str  # how the other view was made
    stride: str  # 4 x 4 pixels
    places: str  # SVG: the slice and the other view
    maps: str  # SVG: of every network


@dataclass(frozen=True, kw_only=True)
class WorkFacts:
    """Everything a work folder holds that the report tells; None where it does not exist (yet)."""

    name: str
    index: Index | None
    prepared: Facts | None  # prepared/meta.json
    runs: tuple[RunFacts, ...]
    predictions: Facts | None  # predictions/predictions.json
    summary: Facts | None  # evaluation/summary.json
    per_case: tuple[Facts, ...]  # evaluation/per_case.csv, numbers as floats, NaN where empty
    examples: tuple[Example, ...]
    faults: Sequence[Facts] | None  # of check.json
    similarity: Similarity | None = None  # where it was asked for
    out_of_date: tuple[str, ...] = ()  # which run is of another state of the data, and what changed
    elsewhere: bool = False  # label maps of scans that are no part of the work folder of their runs


def render(work: WorkFacts) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("lemis.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    colours = figures.structure_colours(_structures(work))
    environment.filters.update(number=number, span=span, duration=duration, picture=_picture, svg=Markup)
    return environment.get_template("index.html").render(
        name=work.name,
        index=work.index,
        data=data_rows(work.index) if work.index else [],
        faults=work.faults,
        fault_groups=fault_groups(work.faults or ()),
        runs=work.runs,
        run_rows=[run_row(run) for run in work.runs],
        learning=[(run, learning_figures(run, place, colours)) for place, run in enumerate(work.runs)],
        summary=work.summary,
        default=work.summary["protocols"]["default"] if work.summary else None,
        paper=work.summary["protocols"].get("paper") if work.summary else None,
        plots=score_figures(work),
        scans=scan_rows(work.per_case),
        examples=work.examples,
        similarity=work.similarity,
        colours=colours,
        warnings=warnings(work),
        done=sentences(work),
        missing=missing(work),
        out_of_date=work.out_of_date,
        methods=methods_paragraph(work),
        references=references(work),
        settings=[(run.name, flat(run.settings)) for run in work.runs],
        environments=[(run.name, flat(run.environment)) for run in work.runs],
        version=version("lemis"),
    )


# ---------------------------------------------------------------- numbers in words


def number(value: float | None, digits: int = 3) -> str:
    """``0.912``; an en dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def span(estimate: Facts, digits: int = 3) -> str:
    """``0.880–0.940``, empty where there is no interval."""
    return "" if estimate["low"] is None else f"{number(estimate['low'], digits)}–{number(estimate['high'], digits)}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def listed(words: Iterable[str], most: int = 12) -> str:
    """``a, b and c``; long lists end in a count."""
    words = list(words)
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def flat(tree: Facts, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows


# ---------------------------------------------------------------- what was done


def sentences(work: WorkFacts) -> list[str]:
    """What was done, one plain sentence each."""
    said = []
    if work.index is not None:
        said.append(_data_sentence(work.index))
    said += [_run_sentence(run) for run in work.runs]
    if work.summary is not None:
        said += _evaluation_sentences(work.summary)
    return said


def _data_sentence(index: Index) -> str:
    subjects = {scan.subject for scan in index.scans}
    labelled = [scan for scan in index.scans if scan.label]
    return (
        f"The data: {count(len(index.scans), 'scan')} of {count(len(subjects), 'subject')} "
        f"({listed(index.channels)}); {len(labelled)} of them have a label, "
        f"of {listed(name for name, value in index.labels.items() if value)}."
    )


def _run_sentence(run: RunFacts) -> str:
    steps = f"{run.status.get('step', 0)} of {run.status.get('steps', '?')} steps"
    if run.done:
        steps = count(int(run.status.get("steps", run.status.get("step", 0))), "step")
    took = f"{steps}, {duration(float(run.status.get('seconds', 0)))}"
    state = "" if run.done else f" It is not finished (state: {run.status.get('state', 'not begun')})."
    if run.verb == "pretrain":
        seen = run.model.get("subjects")
        on = f"the images of {count(len(seen), 'subject')}" if seen else "images"
        if run.learned_nothing:
            return f"Pre-training “{run.name}”: {run.method} learnt nothing from {on} ({took}): {run.learned_nothing}."
        return f"Pre-training “{run.name}”: {run.method} learnt from {on}, without labels ({took}).{state}"
    labelled = run.model.get("labelled_subjects") or run.settings.get("labelled") or []
    who = f"on {count(len(labelled), 'labelled subject')} ({listed(labelled)})" if labelled else "on labelled scans"
    start = run.model.get("pretrained") or run.settings.get("pretrained")
    begun = f"from the weights of “{start}”" if start else "from scratch"
    extra = f", with the extra loss {run.model['auxiliary']}" if run.model.get("auxiliary") else ""
    return f"Fine-tuning “{run.name}”: {begun}, {who}{extra} ({took}).{state}"


def _evaluation_sentences(summary: Facts) -> list[str]:
    tested = f"{count(summary['scans'], 'scan')} of {count(summary['subjects'], 'subject')}"
    said = [f"Evaluation: {tested}, compared with the reference on each scan's own grid."]
    unknown = summary["training_not_recorded"]
    if not unknown:
        said.append("No scan was segmented by a network that had seen a label of its subject.")
    elif summary["subjects_labelled_in_training"] is not None:
        said.append(f"Which labels training had seen is not recorded for {count(len(unknown), 'prediction')}.")
    said.append(
        {
            True: "The result is transductive: pre-training had seen the images (never the labels) of test "
            "subjects. For scans that arrive later, expect somewhat less.",
            False: "The result is not transductive: pre-training saw no image of a test subject.",
            None: "What training saw is not recorded, so nobody can tell whether the test was fair.",
        }[summary["transductive"]]
    )
    return said


def warnings(work: WorkFacts) -> list[str]:
    """What a reader must know before the first number."""
    used = {run.model.get("pretrained") for run in final_runs(work)}
    return [
        *_unknown_training(work),
        *_strange_scans(work),
        *(
            f"Pre-training “{run.name}” learnt nothing: at its end {run.learned_nothing}. What follows is the result "
            "of networks that had no use of it."
            for run in work.runs
            if run.learned_nothing and (run.name in used or not used)
        ),
    ]


def _unknown_training(work: WorkFacts) -> list[str]:
    if work.summary is None or not work.summary["training_not_recorded"]:
        return []
    unknown = len(work.summary["training_not_recorded"])
    return [
        f"Nobody wrote down what {unknown} of the {count(work.summary['scans'], 'label map')} were made by. Whether "
        "the network had learned from these very scans is not known, so the scores prove nothing of new ones."
    ]


def _strange_scans(work: WorkFacts) -> list[str]:
    """One sentence for each way in which predicted scans are unlike those of training."""
    made = (work.predictions or {}).get("scans", {})
    found = [(id, kind, seen) for id, one in made.items() for kind, seen in one.get("strange", ())]
    said = []
    for kind in dict.fromkeys(kind for _, kind, _ in found):
        own = [(id, seen) for id, other, seen in found if other == kind]
        few = listed((f"{id}: {seen}" for id, seen in own), most=_STRANGE_SHOWN)
        said.append(
            f"{len(own)} of {count(len(made), 'scan')} {'is' if len(own) == 1 else 'are'} unlike what the network was "
            f"trained on ({kind}): {few}."
        )
    return said


def missing(work: WorkFacts) -> list[tuple[str, str]]:
    """What this work folder does not hold, and the command that makes it."""
    if work.elsewhere:
        command = "lemis evaluate MASKS --references LABELS"
        return [("No evaluation", command)] if work.summary is None else []
    verbs = {run.verb for run in work.runs}
    parts = (
        (work.index is None, "No index of scans", "lemis check SCANS -o WORK"),
        (work.prepared is None, "No prepared scans", "lemis prepare WORK"),
        ("finetune" not in verbs, "No fine-tuned network", "lemis finetune WORK"),
        (work.predictions is None, "No predictions", "lemis predict WORK/runs/NAME"),
        (work.summary is None, "No evaluation", "lemis evaluate WORK/predictions"),
    )
    return [(what, command) for is_missing, what, command in parts if is_missing]


def methods_paragraph(work: WorkFacts) -> str:
    """A paragraph for the methods section of a paper; only what the work folder proves."""
    final = final_runs(work)
    said = [_trained_how(work, final)] if final else []
    if work.prepared is not None:
        said.append(_prepared_how(work.prepared))
    if work.summary is not None:
        said.append(_scored_how(work.summary))
    return " ".join(said)


def references(work: WorkFacts) -> list[str]:
    """Citations of the methods, auxiliary losses and networks of ``work``, as their files give them."""
    used = [("methods", run.method) for run in work.runs if run.verb == "pretrain"]
    used += [("auxiliary", str(run.model.get("auxiliary"))) for run in work.runs]
    used += [("backbones", str(run.model.get("backbone"))) for run in work.runs]
    known = [(folder, name) for folder, name in dict.fromkeys(used) if name in plugins.names(folder)]
    return [f"{name}: {plugins.describe(folder, name)['title']}" for folder, name in known]


def final_runs(work: WorkFacts) -> list[RunFacts]:
    """The finished runs whose predictions were scored; all fine-tuned ones where nobody wrote it down."""
    tuned = [run for run in work.runs if run.verb == "finetune" and run.done]
    named = set(work.summary["runs"]) if work.summary else set()
    return [run for run in tuned if run.name in named] or tuned


def _trained_how(work: WorkFacts, final: Sequence[RunFacts]) -> str:
    one = final[0]
    source = next((run for run in work.runs if run.name == one.model.get("pretrained")), None)
    torch = one.environment.get("packages", {}).get("torch", "of unknown version")
    tools = f"Lemis {one.environment.get('lemis', version('lemis'))} and PyTorch {torch}"
    several = len(final) > 1
    begun = f"A segmentation network ({one.model.get('backbone', 'unknown')}) was "
    if source is None:
        begun += "trained from random weights"
    else:
        seen = count(len(source.model.get("subjects", [])), "subject")
        begun += f"pre-trained without labels by {source.method} on the images of {seen} ({_steps([source])}) "
        begun += "without learning anything, and then fine-tuned" if source.learned_nothing else "and then fine-tuned"
    times = f" in {len(final)} runs with different training subjects" if several else ""
    extra = f" and with the extra loss {one.model['auxiliary']}" if one.model.get("auxiliary") else ""
    how = f"{begun}{times} on the labelled scans of {_labelled(final)} ({_steps(final)}){extra}, with {tools}."
    if several and work.summary is not None and not work.summary["training_not_recorded"]:
        how += " Every scan was segmented by networks that had not seen a label of its subject."
    return how


def _labelled(runs: Sequence[RunFacts]) -> str:
    sizes = sorted({len(run.model.get("labelled_subjects", [])) for run in runs})
    return count(sizes[0], "subject") if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]} subjects"


def _steps(runs: Sequence[RunFacts]) -> str:
    steps = sorted({int(run.status.get("steps", run.status.get("step", 0))) for run in runs})
    return count(steps[0], "step") if len(steps) == 1 else f"{steps[0]}–{steps[-1]} steps"


def _prepared_how(prepared: Facts) -> str:
    settings = prepared.get("settings", {})
    normalised = {"zscore": "each scan was normalised to zero mean and unit variance"}
    how = normalised.get(str(settings.get("normalise")), f"normalisation: {settings.get('normalise')}")
    limits = settings.get("clip_values")
    clipped = f"intensities were clipped to {limits[0]:g} ... {limits[1]:g}; " if limits else ""
    return f"{_resampled_how(settings)}; {clipped}{how}."


def _resampled_how(settings: Facts) -> str:
    whole, spacing, through = (settings.get(name) for name in ("whole_px", "spacing_mm", "slice_spacing_mm"))
    if whole:
        return f"Scans were resampled to {' × '.join(map(str, whole))} voxels (slices, rows, columns)"
    in_plane = f"resampled in their plane to {spacing:g} mm" if isinstance(spacing, int | float) else ""
    across = f"resampled across it to {through:g} mm" if through else ""
    done = listed(part for part in (in_plane, across) if part)
    return f"Slices were {done or 'kept at their own spacing'}"


def _scored_how(summary: Facts) -> str:
    default = summary["protocols"]["default"]
    definitions = default["definitions"]
    distances = (
        f"The 95th percentile Hausdorff distance is the {definitions['hd95_mm']}. "
        if not default["without_millimetres"]
        else "No distances are given, because the spacing is not known. "
    )
    exposure = "The evaluation is transductive: test images, not their labels, were used in pre-training. "
    return (
        f"Segmentations were compared with the reference in {count(summary['scans'], 'scan')} of "
        f"{count(summary['subjects'], 'subject')} by the Dice coefficient, per scan on its native grid. "
        f"{distances}"
        "A structure that was missed or invented counts as Dice 0 and as the diagonal of the image in every "
        "mean. "
        f"{exposure if summary['transductive'] else ''}"
        f"Intervals: {definitions['interval']}."
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


def fault_groups(faults: Sequence[Facts]) -> list[tuple[str, str, list[Facts]]]:
    """Faults by (severity, kind), errors first."""
    groups: dict[tuple[str, str], list[Facts]] = {}
    for fault in faults:
        groups.setdefault((fault["severity"], fault["kind"]), []).append(fault)
    return [(severity, kind, found) for (severity, kind), found in sorted(groups.items(), key=lambda item: item[0])]


def run_row(run: RunFacts) -> dict[str, str]:
    """One line of the table of runs."""
    last = next((line for line in reversed(run.metrics) if "loss" in line), {})
    return {
        "name": run.name,
        "what": {"pretrain": "pre-training", "finetune": "fine-tuning"}.get(run.verb, run.verb),
        "method": run.method,
        "state": str(run.status.get("state", "not begun")),
        "steps": str(run.status.get("step", 0 if not run.done else run.status.get("steps", 0))),
        "time": duration(float(run.status.get("seconds", 0))),
        "loss": number(last.get("loss")),
    }


def scan_rows(per_case: Sequence[Facts]) -> list[tuple[str, float, list[Facts]]]:
    """(scan, mean Dice, its rows), worst first; scans without any structure last."""
    rows: dict[str, list[Facts]] = {}
    for row in per_case:
        rows.setdefault(row["scan"], []).append(row)
    scans = [(scan, mean_dice(found), found) for scan, found in rows.items()]
    return sorted(scans, key=lambda scan: (math.isnan(scan[1]), scan[1]))


def mean_dice(rows: Sequence[Facts]) -> float:
    """Mean over the structures that are there; NaN where none is."""
    values = [row["dice"] for row in rows if not math.isnan(row["dice"])]
    return sum(values) / len(values) if values else math.nan


def _structures(work: WorkFacts) -> list[str]:
    if work.summary is not None:
        return list(work.summary["protocols"]["default"]["structures"])
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
            "Held-out score (no weights are chosen by it)",
            [k for k in keys if k.startswith("held_out/")],
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
            colours = {"mean": figures.TEXT, **structures} if label == "Dice" else {}
            svg = figures.curves(f"run{place}-{panel}", lines, label=label, alt=alt, colours=colours)
            drawn.append((caption, Markup(svg)))
    return drawn


def _ending(keys: Iterable[str], end: str) -> list[str]:
    return [key for key in keys if key.endswith(end)]


def _curve_name(key: str) -> str:
    """What the legend calls a key of the metrics: ``held_out/pooled_dice/LV`` -> ``LV``."""
    name = key.removesuffix("/std").removesuffix("/cosine")
    return "mean" if name == "held_out/pooled_dice" else name.rsplit("/", 1)[-1]


def _curve(metrics: Sequence[Facts], key: str) -> tuple[list[float], list[float]]:
    there = [(float(line["step"]), float(line[key])) for line in metrics if line.get(key) is not None]
    return [step for step, _ in there], [value for _, value in there]


def _curve_in_words(name: str, curve: tuple[Sequence[float], Sequence[float]]) -> str:
    return f"{name} from {curve[1][0]:.3g} to {curve[1][-1]:.3g}"


def score_figures(work: WorkFacts) -> list[tuple[str, Markup]]:
    """(caption, SVG) of the scores over scans."""
    if work.summary is None:
        return []
    default = work.summary["protocols"]["default"]
    plots = [("dice", "Dice, one point per scan", "Dice", False)]
    if not default["without_millimetres"]:
        plots.append(("hd95_mm", "95th percentile Hausdorff distance, one point per scan", "HD95, mm", True))
    drawn = []
    for metric, caption, label, millimetres in plots:
        groups = {
            name: [
                (row[metric], row["status"] == "scored")
                for row in work.per_case
                if row["structure"] == name and not math.isnan(row[metric])
            ]
            for name in default["structures"]
        }
        groups = {name: points for name, points in groups.items() if points}
        if groups:
            medians = "; ".join(f"{name} median {median(v for v, _ in points):.3g}" for name, points in groups.items())
            svg = figures.boxes(
                f"boxes-{metric}", groups, label=label, millimetres=millimetres, alt=f"{caption}. {medians}."
            )
            drawn.append((caption, Markup(svg)))
    return drawn


def _picture(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
