"""Say what is in a folder of scans and what is wrong with it; write ``index.json`` for the other verbs."""

from __future__ import annotations

import dataclasses
import json as json_text
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lemis import files, terminal
from lemis.checking.check import Findings, examine
from lemis.checking.faults import Fault
from lemis.checking.one_scan import Seen
from lemis.datasets import frame
from lemis.datasets import index as indexing
from lemis.datasets.dicom_series import Used, used
from lemis.datasets.index import Index, Scan
from lemis.datasets.layouts.recognised import TITLES
from lemis.datasets.listing import LeftOut
from lemis.datasets.recognition import recognise
from lemis.formats import directions
from lemis.formats.paths import is_picture
from lemis.measure.tables import count
from lemis.settings import plain
from lemis.work_files import checks

VERSION = 1
REMEMBERED = "checked.json"  # what was seen of each scan
_MEMORY = TypeAdapter(dict[str, Seen])
# Faults of one kind are mostly the same fault; the files have all of them.
_SHOWN = 5
_STRUCTURES_SHOWN = 20
_SERIES_SHOWN = 20


class Intensity(NamedTuple):
    """One channel over all scans."""

    low: float
    high: float
    lowest_maximum: float  # of the scan with the smallest maximum


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``check`` found."""

    index: Index
    faults: tuple[Fault, ...]
    left_out: tuple[LeftOut, ...]
    intensities: tuple[Intensity, ...]  # per channel
    series: tuple[Used, ...] = ()  # the DICOM series that scans are made of

    @property
    def errors(self) -> int:
        """Faults that must be repaired before training."""
        return sum(fault.is_error for fault in self.faults)

    @property
    def warnings(self) -> int:
        """Faults that may be intended."""
        return len(self.faults) - self.errors


def check(
    folder: Path,
    *,
    output: Path | None = None,
    json: bool = False,
    layout: str | None = None,
    jobs: int | None = None,
) -> Report:
    """Recognise the layout of a folder, read every scan once, and print what is there and what is wrong.

    Again into the same work folder, it reads only scans that are new or were changed.

    Args:
        folder: The folder of scans, or a CSV file.
        output: Work folder; gets ``check.json`` (all of this) and, if there is no error, ``index.json``.
        json: Print the content of ``check.json`` instead of tables.
        layout: Name of the layout, as docs/data.md lists them; by default recognised.
        jobs: Scans read at a time; by default as many as the processor takes.

    Raises:
        UsageError: The folder is not recognised, or its names are ambiguous.
    """
    listing = recognise(Path(folder), layout)
    if output is not None:
        files.require_writable(Path(output))
    memory = None if output is None else Path(output) / REMEMBERED
    findings = _examine(listing.index, jobs, _read_memory(memory))
    doubts = (Fault("warning", "", *doubt) for doubt in listing.doubts)
    report = Report(
        findings.index,
        (*findings.faults, *doubts),
        listing.left_out,
        _intensities(findings),
        tuple(used(findings.index)),
    )
    if memory is not None:
        _write(report, memory.parent)
        files.write(memory, _MEMORY.dump_json(dict(findings.known)))
    if json:
        print(json_text.dumps(_plain(report), indent=2, ensure_ascii=False))
    else:
        _print(report, output, terminal.console())
    return report


def _read_memory(file: Path | None) -> dict[str, Seen]:
    """Empty where there is none, or none that can be read: it only spares work."""
    try:
        return _MEMORY.validate_json(file.read_bytes()) if file is not None else {}
    except (FileNotFoundError, ValidationError):
        return {}


def _examine(index: Index, jobs: int | None, known: Mapping[str, Seen]) -> Findings:
    with terminal.progress(terminal.console(stderr=True), "reading", transient=True) as progress:
        task = progress.add_task("", total=len(index.scans))
        return examine(index, jobs, lambda: progress.advance(task), known)


def _intensities(findings: Findings) -> tuple[Intensity, ...]:
    width = len(findings.index.channels)
    usable = [seen.intensities for seen in findings.seen if len(seen.intensities) == width]
    channels = zip(*usable, strict=True)
    return tuple(
        Intensity(min(low for low, _ in scans), max(high for _, high in scans), min(high for _, high in scans))
        for scans in channels
    )


# ---------------------------------------------------------------- files


def _write(report: Report, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    checks.write(work, _plain(report))
    if report.errors:
        # An earlier index would let the other verbs go on with scans that are known to be wrong.
        (work / "index.json").unlink(missing_ok=True)
    else:
        indexing.save(report.index, work / "index.json")


def _plain(report: Report) -> dict[str, Any]:
    index = report.index
    return {
        "version": VERSION,
        "root": index.root,
        "layout": index.layout,
        "channels": list(index.channels),
        "labels": index.labels,
        "ignored": list(index.ignored),
        "scans": len(index.scans),
        "subjects": len({scan.subject for scan in index.scans}),
        "labelled": sum(scan.label is not None for scan in index.scans),
        "frame": plain(frame.of_index(index)),
        "intensities": [channel._asdict() for channel in report.intensities],
        "errors": report.errors,
        "warnings": report.warnings,
        "faults": [dataclasses.asdict(fault) for fault in report.faults],
        "left_out": [part._asdict() for part in report.left_out],
        "series": [one._asdict() for one in report.series],
    }


# ---------------------------------------------------------------- the screen


def _print(report: Report, output: Path | None, console: Console) -> None:
    index = report.index
    console.print(Text.assemble((terminal.visible(index.root), "bold"), f": {TITLES[index.layout]}"))
    terminal.print_table(console, _summary(report))
    if report.series:
        terminal.print_table(console, _series(report.series))
    if any(scan.label for scan in index.scans):
        terminal.print_table(console, _structures(index))
        if index.ignored:
            console.print(f"the values {_runs(index.ignored)} count as background\n")
    for severity in ("error", "warning"):
        _print_faults([fault for fault in report.faults if fault.severity == severity], console)
    for part in report.left_out[:_SHOWN]:
        console.print(f"not used: {part.file}: {part.reason}")
    _more(len(report.left_out), console)
    console.print(_verdict(report, output))


def _summary(report: Report) -> Table:
    index, scans = report.index, report.index.scans
    read = [scan for scan in scans if scan.shape]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("scans", _of_subjects(scans))
    table.add_row("labelled", f"{sum(scan.label is not None for scan in scans)} of {len(scans)}")
    if read:
        flat = all(is_picture(Path(scan.images[0])) for scan in read)
        unit = "pixels" if flat else "voxels"
        table.add_row("shape", _grouped(read, lambda group: f"{_spread([scan.shape for scan in group], 0)} {unit}"))
        spacing = _grouped(read, lambda group: f"{_spread([scan.spacing_mm for scan in group], 3)} mm")
        table.add_row("spacing", "none in pictures: lengths are in pixels" if flat else spacing)
        table.add_row("slices", _slices(read))
        if not flat:
            table.add_row("orientation", _orientation(index))
    for name, found in zip(index.channels, report.intensities, strict=False):
        table.add_row("intensity", f"{name}: {found.low:.6g} to {found.high:.6g}{_scales(found)}")
    if not report.intensities:
        table.add_row("channels", ", ".join(index.channels))
    return table


def _grouped(scans: Sequence[Scan], said: Callable[[Sequence[Scan]], str]) -> str:
    """What holds of scans with one slice direction; of several, each by itself."""
    groups = indexing.by_slice_axis(scans)
    if len(groups) == 1:
        return said(scans)
    return "; ".join(f"{said(group)} in {count(len(group), 'scan')}" for group in groups)


def _of_subjects(scans: Sequence[Scan]) -> str:
    per_subject = Counter(scan.subject for scan in scans)
    most = max(per_subject.values(), default=0)
    text = f"{count(len(scans), 'scan')} of {count(len(per_subject), 'subject')}"
    if most > 1:
        subject = per_subject.most_common(1)[0][0]
        example = next(scan.id for scan in scans if scan.subject == subject)
        text += f", up to {most} per subject ({example} belongs to {subject})"
    return text


def _scales(channel: Intensity) -> str:
    """A remark where scans differ in scale, as MR scans of several scanners do."""
    if channel.lowest_maximum <= 0 or channel.high < 10 * channel.lowest_maximum:
        return ""
    return f" (scans differ in scale: their maxima range from {channel.lowest_maximum:.6g} to {channel.high:.6g})"


def _spread(rows: Sequence[tuple[float, ...]], digits: int) -> str:
    """Median per axis, and the range where the scans differ."""
    values = np.array(rows, dtype=float)
    parts = []
    for column in values.T:
        low, high = round(float(column.min()), digits), round(float(column.max()), digits)
        middle = f"{round(float(np.median(column)), digits):g}"
        parts.append(middle if low == high else f"{middle} ({low:g} to {high:g})")
    return " x ".join(parts)


def _slices(scans: Sequence[Scan]) -> str:
    if all(scan.shape[2] == 1 for scan in scans):
        return "2D images"
    stacks = frame.stacks(scans)
    total = sum(scan.shape[scan.slice_axis] for scan in scans)
    names = [f"{frame.view(stack.direction)} (across axis {stack.axis})" for stack in stacks]
    if len(stacks) == 1:
        return f"{total}, {names[0]}"
    each = (f"{name} in {count(stack.scans, 'scan')}" for name, stack in zip(names, stacks, strict=True))
    return f"{total}, {', '.join(each)}"


def _orientation(index: Index) -> str:
    """How the slices of the scans lie to each other, and in which order they are stored."""
    stacks = frame.stacks(index.scans)
    parts = [f"slices {_within(one.within_degrees)} in {one.scans} scans" for one in stacks if one.scans > 1]
    alone = sum(one.scans == 1 for one in stacks)
    if alone and len(stacks) > 1:
        parts.append(f"{count(alone, 'scan')} in a direction of {'its' if alone == 1 else 'their'} own")
    stored = "each scan stored along the body axes nearest to its own"
    if index.frame is not None:
        off = directions.degrees_between(directions.as_matrix(index.frame), directions.BODY)
        where = "along the body axes" if off < 1 else f"in one common orientation, {off:.0f} degrees off the body axes"
        stored = f"stored {where}"
    turned = len(frame.not_parallel(index))
    parts += [stored, *([f"{count(turned, 'scan')} turned or mirrored against similar ones"] if turned else [])]
    return "; ".join(parts)


def _within(degrees: float) -> str:
    return "parallel" if degrees < 1 else f"within {math.ceil(degrees)} degrees of each other"


def _series(series: Sequence[Used]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("subject", "series", "modality"):
        table.add_column(title)
    for title in ("slices", "spacing, mm"):
        table.add_column(title, justify="right")
    for one in series[:_SERIES_SHOWN]:
        spacing = " x ".join(f"{size:.4g}" for size in one.spacing_mm)
        named = f"{one.series} ({one.file})"
        table.add_row(one.subject, terminal.visible(named), one.modality, str(one.slices or "?"), spacing or "?")
    if len(series) > _SERIES_SHOWN:
        table.add_row("", f"and {len(series) - _SERIES_SHOWN} more, all in check.json")
    return table


def _structures(index: Index) -> Table:
    labelled = [scan for scan in index.scans if scan.label_values]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", justify="right")
    table.add_column("structure")
    table.add_column("in labels", justify="right")
    names = sorted(index.labels.items(), key=lambda item: item[1])
    for name, value in names[:_STRUCTURES_SHOWN]:
        found = sum(value in scan.label_values for scan in labelled)
        table.add_row(str(value), name, f"{found} of {len(labelled)}")
    if len(names) > _STRUCTURES_SHOWN:
        table.add_row("", f"and {len(names) - _STRUCTURES_SHOWN} more", "")
    return table


def _runs(values: Iterable[int]) -> str:
    """``2, 8 to 10`` of 2, 8, 9 and 10."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _print_faults(faults: Sequence[Fault], console: Console) -> None:
    for kind in dict.fromkeys(fault.kind for fault in faults):
        same = [fault for fault in faults if fault.kind == kind]
        colour = "red" if same[0].severity == "error" else "yellow"
        console.print(Text.assemble((same[0].severity, colour), " ", (kind, "bold"), f" ({len(same)})"))
        for fault in same[:_SHOWN]:
            console.print(f"  {fault.file or fault.scan}: {fault.seen}")
        _more(len(same), console)
        for repair in _unique(fault.repair for fault in same):
            console.print(f"  repair: {repair}")
        console.print()


def _more(count: int, console: Console) -> None:
    if count > _SHOWN:
        console.print(f"  and {count - _SHOWN} more", style="dim")


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))[:_SHOWN]


def _verdict(report: Report, output: Path | None) -> str:
    if report.errors:
        written = f"; no index.json written, {output}/check.json lists them all" if output else ""
        return f"{count(report.errors, 'error')} and {count(report.warnings, 'warning')}{written}"
    parts = [count(report.warnings, "warning")] if report.warnings else []
    parts += [f"{count(len(report.left_out), 'item')} not used"] if report.left_out else []
    found = f"no errors, {', '.join(parts)}" if parts else "nothing is wrong"
    return f"{found}; wrote {output}/index.json" if output else found
