"""``lemis segment-one``: segment one image by itself, without labels and without a training set, or a folder of such.

A method of ``single/`` divides the image into clusters; one of them is proposed as the object and is the mask. Another
is chosen by its number (``--pick``) or by a place in it (``--click``), from the label map that lies beside the mask.
"""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from lemis import files, terminal
from lemis.errors import UsageError
from lemis.formats.paths import label_suffix
from lemis.measure import tables
from lemis.measure.choosing import Choice, choose
from lemis.measure.clusters import Protocol
from lemis.one_image import image_request, mask_record, side_by_side, single_sets
from lemis.one_image.image_request import Array, Asked, Job
from lemis.one_image.side_by_side import Found, Pace
from lemis.one_image.single_sets import Pair, Set
from lemis.records import plain
from lemis.reporting import single as told
from lemis.reporting.single import Outcome
from lemis.runs.device import chosen_device
from lemis.runs.run import messages
from lemis.work_files.one_image import Divided, Folder, MaskRecord, Slice, SummaryRow, write_summary


class Result(NamedTuple):
    """What ``segment_one`` wrote: the record of the image or of the folder, as plain types; the images that failed."""

    record: dict[str, Any]
    failed: tuple[str, ...] = ()


def segment_one(
    image: Path | None = None,
    *,
    output: Path,
    batch: Path | None = None,
    method: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    size: str | None = None,
    slices: str | None = None,
    window: str | None = None,
    pick: str | None = None,
    click: str | None = None,
    reference: Path | None = None,
    references: Path | None = None,
    protocol: Protocol = "honest",
    at_once: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write the mask of the object, the map of all clusters, an overlay to look at, and a record of how they came.

    Beside ``mask.png`` lie ``mask.labels.png``, ``mask.overlay.png`` (a folder of them where there are several slices)
    and ``mask.json``. What was made before from the same file in the same way is not made again.

    Args:
        image: A picture, a DICOM slice, a volume, or the folder of one DICOM series.
        output: Mask to write, in a format that the image's can be compared with; with ``batch``, a folder.
        batch: Every image of a folder, several side by side; one that fails does not stop the others. Or a set with its
            references, which are scored: images/ + labels/, imagesTr/ + labelsTr/, PH2, lung CT. Run again to resume.
        method: How to divide it, by default s3net. `lemis list` shows all; a dotted name loads your own module.
        preset: Settings of the method by name, or a YAML file; by default small, if it has one.
        overrides: Settings of the method.
        seed: Of the networks' first weights, the same for every image and slice; by default 0.
        size: Side of the square that the method works at, in pixels, or ``native``; by default 256.
        slices: Of a volume, each on its own, counted from 1: 10:20 or 12 or 3:5,12; by default all.
        window: What becomes black and white, in the image's own values: -512:512 for lungs; by default 8 bits as they
            are, else percentiles.
        pick: The cluster to take for the object, without training again: 3, 2+3 for both, 12:3,13:1 by slice; by
            default the proposed one.
        click: Take the cluster that holds this pixel, in every slice; by default the proposed one. Counted from 0.
        reference: Label map to score against: all that is not 0 is the object; by default none.
        references: With ``batch``: label maps named like the images; by default those of the set.
        protocol: How to score: ``honest``, or ``released``, which is that of the authors' code, and flatters.
        at_once: Images side by side; by default as many as memory holds, if the first ones show a gain.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        json: Print JSON, the record, instead of tables.

    Returns:
        The record, and the images of a batch that failed.

    Raises:
        UsageError: Options that contradict each other, an unknown setting, or a cluster that is not there.
        DataFault: An image that cannot be segmented as it is.
    """
    asked = Asked(
        method=method, preset=preset, overrides=tuple(overrides), seed=seed, size=size, slices=slices, window=window
    )
    image_request.refuse_contradictions(image, batch, pick, click)
    image_request.refuse_other_references(batch, reference, references)
    files.require_writable(output if batch is not None else output.parent)
    target = torch.device(chosen_device(device))
    pace = Pace(at_once, target)
    if batch is not None:
        return _batch(batch, output, asked, references, protocol, pace, json)
    assert image is not None
    return Result(plain(_one(image, output, asked, pick, click, reference, protocol, pace, json)))


# ------------------------------------------------------------------------------------------------------- one image


def _one(
    image: Path, mask: Path, asked: Asked, pick: str | None, click: str | None, reference: Path | None,
    protocol: Protocol, pace: Pace, json: bool,
) -> MaskRecord:  # fmt: skip
    stored = mask_record.stored(mask)
    choosing = pick is not None or click is not None
    made_from = image_request.made_from(image, asked, stored if choosing else None)
    again = mask_record.is_made(stored, made_from, mask)
    job = image_request.opened(image, mask, made_from)
    marked = mask_record.reference(reference, job.stack)
    console = messages()
    for note in job.stack.notes:
        console.print(f"{image}: {note}")
    if again:
        assert stored is not None
        console.print(f"{stored.files.labels}: made before from the same image, not made again")
        found: Sequence[Divided] = stored.slices
        label_map = mask_record.label_map(stored, job)
    else:
        found, label_map = image_request.described(job, _answers(job, pace, console))
    chosen, by = _chosen(found, label_map, job, pick, click)
    record = _written(job, found, label_map, chosen, by, marked, protocol)
    if json:
        print(json_text.dumps(plain(record), indent=1))
    else:
        told.show(record, image, mask)
    return record


def _chosen(
    found: Sequence[Divided], label_map: Mapping[int, Array], job: Job, pick: str | None, click: str | None
) -> tuple[Choice, str]:
    proposed = {one.slice: one.proposed for one in found}
    there = {one.slice: [cluster.label for cluster in one.clusters] for one in found}
    return choose(proposed, there, label_map, job.stack.shape, pick, click)


def _answers(job: Job, pace: Pace, console: Console) -> dict[int, Found]:
    run = side_by_side.runner(job.made_from, pace.device)
    shape = " x ".join(map(str, next(iter(job.inputs.values())).shape[1:]))
    many = f", {tables.count(len(job.inputs), 'slice')}" if len(job.inputs) > 1 else ""
    console.print(f"{job.image}: {job.made_from.method} at {shape} pixels{many}")
    answers: dict[int, Found] = {}
    with terminal.progress(console, "segmenting", transient=True) as progress:
        bar = progress.add_task("", total=len(job.inputs))
        for number, answer in side_by_side.segment(list(job.inputs.items()), run, pace):
            if isinstance(answer, Exception):
                raise answer
            answers[number] = answer
            progress.advance(bar)
    return answers


def _written(
    job: Job, found: Sequence[Divided], label_map: Mapping[int, Array], chosen: Choice, by: str,
    marked: Mapping[int, Array] | None, protocol: Protocol,
) -> MaskRecord:  # fmt: skip
    """Write everything; all of it is computed before the first file."""
    masked = mask_record.masked(found, label_map, chosen, marked, protocol)
    pictures = told.pictures(job.image.name, job.made_from.method, job.stack, masked.slices, label_map)
    return mask_record.write(job, label_map, masked, by, pictures)


# ---------------------------------------------------------------------------------------------------------- a folder


def _batch(
    folder: Path, output: Path, asked: Asked, references: Path | None, protocol: Protocol, pace: Pace, json: bool
) -> Result:
    _refuse_output(output, [folder])
    found = single_sets.find(folder)
    pairs = _with_references(found.pairs, references)
    _refuse_output(output, [file.parent for pair in pairs for file in (pair.image, pair.reference) if file])
    method = asked.method or image_request.METHOD
    settings = image_request.settings_of(method, asked.preset, asked.overrides)  # refused now, not once per image
    image_request.refuse_unreadable(asked)
    console = messages()
    said = f"{tables.count(len(pairs), 'image')} with {method}"
    console.print(f"{folder}: {said}, {', '.join(f'{key}={value}' for key, value in settings.items())}")
    _say_layout(console, folder, found, references)
    rows: list[SummaryRow] = []
    slices: list[Slice] = []
    waiting = list(pairs)
    with terminal.progress(console, "segmenting", transient=True) as progress:
        bar = progress.add_task("", total=len(pairs))
        while waiting:
            some, waiting = waiting[: pace.now], waiting[pace.now :]
            for name, outcome in _some(some, output, asked, protocol, pace):
                rows += told.rows(name, outcome)
                slices += () if outcome.record is None else outcome.record.slices
                progress.advance(bar)
                progress.console.print(told.line(name, outcome))
    scoring = any(pair.reference for pair in pairs)
    record = Folder(
        images=len(pairs),
        failed={row.image: row.problem for row in rows if row.status == "failed"},
        without_reference=tuple(pair.name for pair in pairs if scoring and pair.reference is None),
        means=mask_record.means(slices),
        summary=str(write_summary(output, rows)),
    )
    print(json_text.dumps(plain(record), indent=1)) if json else told.show_folder(record)
    return Result(plain(record), tuple(record.failed))


def _refuse_output(output: Path, folders: Sequence[Path]) -> None:
    """Masks are named like the images: among these, or among the references, they would take their places."""
    if output.resolve() in {folder.resolve() for folder in folders}:
        raise UsageError(
            f"-o {output}",
            allowed="another folder than that of the images, or of the references",
            next=f"-o {output}-segmented",
        )


def _with_references(pairs: Sequence[Pair], references: Path | None) -> list[Pair]:
    if references is None:
        return list(pairs)
    files = single_sets.references(references, [pair.name for pair in pairs])
    return [pair._replace(reference=files.get(pair.name)) for pair in pairs]


def _say_layout(console: Console, folder: Path, found: Set, references: Path | None) -> None:
    if found.title is None:
        return
    scored = sum(pair.reference is not None for pair in found.pairs)
    where = f"references from {references}" if references else f"with references: {scored} of {len(found.pairs)}"
    console.print(f"{folder}: recognised as {found.title}; {where}")


def _some(
    pairs: Sequence[Pair], output: Path, asked: Asked, protocol: Protocol, pace: Pace
) -> Iterator[tuple[str, Outcome]]:
    """Segment some images of a folder side by side; whatever goes wrong with one of them is its own outcome."""
    jobs: dict[str, Job] = {}
    outcomes: dict[str, Outcome] = {}
    answers: dict[str, dict[int, Found]] = {pair.name: {} for pair in pairs}
    for pair in pairs:
        try:
            job = _opened_or_kept(pair, output, asked, protocol)
            if isinstance(job, Job):
                jobs[pair.name] = job
            else:
                outcomes[pair.name] = job
        except Exception as error:
            outcomes[pair.name] = Outcome(None, error=error)
    inputs = [((name, number), array) for name, job in jobs.items() for number, array in job.inputs.items()]
    if jobs:
        run = side_by_side.runner(next(iter(jobs.values())).made_from, pace.device)
        for (name, number), answer in side_by_side.segment(inputs, run, pace):
            if isinstance(answer, Exception):
                outcomes.setdefault(name, Outcome(None, error=answer))
            else:
                answers[name][number] = answer
    for pair in pairs:
        if pair.name not in outcomes:
            outcomes[pair.name] = _finished(jobs[pair.name], answers[pair.name], pair.reference, protocol)
        yield pair.name, outcomes[pair.name]


def _opened_or_kept(pair: Pair, output: Path, asked: Asked, protocol: Protocol) -> Job | Outcome:
    """An image ready to be segmented; or, where that was done before, what was found then."""
    made_from = image_request.made_from(pair.image, image_request.as_in_set(asked, pair))
    mask = output / f"{pair.name}{label_suffix(pair.image)}"
    stored = mask_record.stored(mask)
    kept = stored is not None and mask_record.is_made(stored, made_from, mask) and mask.is_file()
    if stored is not None and kept:
        job = None if pair.reference is None else image_request.opened(pair.image, mask, made_from)
        return Outcome(mask_record.scored_again(stored, job, pair.reference, protocol), kept=True)
    job = image_request.opened(pair.image, mask, made_from)
    mask_record.reference(pair.reference, job.stack)  # refused before the training, not after it
    return job


def _finished(job: Job, answers: Mapping[int, Found], reference: Path | None, protocol: Protocol) -> Outcome:
    try:
        found, label_map = image_request.described(job, answers)
        chosen, by = _chosen(found, label_map, job, None, None)
        marked = mask_record.reference(reference, job.stack)
        return Outcome(_written(job, found, label_map, chosen, by, marked, protocol))
    except Exception as error:
        return Outcome(None, error=error)
