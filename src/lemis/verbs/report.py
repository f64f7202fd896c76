"""``lemis report``: everything a work folder knows, as one HTML file that opens without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis import files, terminal
from lemis.datasets import index as indexing
from lemis.datasets import label_names
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.formats.directions import Axes
from lemis.formats.paths import file_of, suffix_of
from lemis.plugins import NO_TRUST, Trust, nearest
from lemis.preparation.store_files import read_meta
from lemis.records import Record
from lemis.report import figures, page
from lemis.runs import freshness
from lemis.work_files import checks, evaluation, predictions
from lemis.work_files import run as run_files

Array = NDArray[Any]

_SLICES = 3  # pictures per example
_MARGIN_MM = 20.0  # around the structures, so that the neighbourhood can be judged
# A scan is also looked at across its slices where they are this many, and no further apart than this many pixels.
_ENOUGH_SLICES, _MOST_APART = 16, 3.0
# Canonical axis a plane lies across -> its name, and what is at its left border and on top.
_PLANES = {2: ("axial", "R", "A"), 1: ("coronal", "R", "S"), 0: ("sagittal", "A", "S")}


def report(
    work: Path,
    *,
    runs: Sequence[str] = (),
    similarity: str | None = None,
    output: Path | None = None,
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Path:
    """Write the report of a work folder, or of the label maps of scans from elsewhere.

    Args:
        work: The folder that the other verbs have filled, as far as they have; or one that ``predict`` has filled.
        runs: A run to show; several are allowed; by default all, of a folder of label maps those that made them.
        similarity: ``SCAN:SLICE:ROW,COL``: also show which places each pre-trained network takes for the same as this
            one; of the runs named in ``runs``, else of every finished pre-training. Imports PyTorch.
        output: HTML file to write; by default ``work/report/index.html``.
        device: Where networks run for ``similarity``: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that runs may name; only ``similarity`` imports any.

    Returns:
        The file.

    Raises:
        UsageError: ``work`` is no work folder, a run of that name does not exist, or ``similarity`` names no pixel.
    """
    output = output or work / "report" / "index.html"
    files.require_writable(output.parent)
    facts = read_work(work, runs)
    for line in facts.out_of_date:
        terminal.console(stderr=True).print(f"warning: out of date: {line}")
    if similarity is not None:
        facts = replace(facts, similarity=_similarity(work, similarity, runs, device, trust))
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(output, page.render(facts))
    return output


def read_work(work: Path, runs: Sequence[str] = ()) -> page.WorkFacts:
    """Read what is there; a part that is missing is None or empty."""
    record = predictions.read(work)
    if record is not None and not (work / "index.json").exists():
        return _read_elsewhere(work, record, runs)
    parts = ("index.json", "runs", "predictions", "evaluation", "prepared")
    if not any((work / part).exists() for part in parts):
        raise UsageError(
            f"{work} is not a work folder",
            allowed=f"a folder with at least one of {', '.join(parts)}",
            next="lemis check SCANS -o WORK",
        )
    index = indexing.load(work / "index.json") if (work / "index.json").is_file() else None
    per_case = tuple(case.model_dump() for case in evaluation.read_cases(work / "evaluation"))
    summary, found = evaluation.read_summary(work / "evaluation"), checks.read(work)
    return page.WorkFacts(
        name=Path(index.root).name if index else work.resolve().name,
        index=index,
        prepared=_plain(read_meta(work / "prepared")),
        runs=_runs(work / "runs", runs),
        predictions=_plain(predictions.read(work / "predictions")),
        summary=_plain(summary),
        per_case=per_case,
        examples=_examples(work / "predictions", index, per_case, _in_3d(work, summary)) if index else (),
        faults=[asdict(fault) for fault in found.faults] if found else None,
        out_of_date=_out_of_date(work, index, runs),
    )


def _out_of_date(work: Path, index: indexing.Index | None, names: Sequence[str]) -> tuple[str, ...]:
    """What changed since the runs that are shown were trained, a line for each run of another state of the data."""
    if index is None:
        return ()
    said = []
    for run in names or sorted(path.parent.name for path in (work / "runs").glob("*/settings.yaml")):
        changes = freshness.since_training(work, index, run)
        said += [f"{run} was trained on another state of the data: {change}" for change in changes.trained]
        said += [f"{run} was scored on another state of the data: {change}" for change in changes.held_out]
    return tuple(said)


def _read_elsewhere(folder: Path, record: predictions.Predictions, names: Sequence[str]) -> page.WorkFacts:
    """Of the label maps of scans from elsewhere: the scores beside them, and the runs where they still lie."""
    scores = folder / "evaluation"
    per_case = tuple(case.model_dump() for case in evaluation.read_cases(scores))
    summary = evaluation.read_summary(scores)
    index = _elsewhere(record, _references(scores, summary, record))
    runs = _runs_elsewhere(record, names)
    tuned = [run.model for run in runs if run.model.get("verb") == "finetune"]
    in_3d = any(model["patch_px"] is not None for model in tuned)
    return page.WorkFacts(
        name=folder.resolve().name,
        index=index,
        prepared={"settings": tuned[0]["prepared"]} if tuned else None,
        runs=runs,
        predictions=_plain(record),
        summary=_plain(summary),
        per_case=per_case,
        examples=_examples(folder, _still_there(index), per_case, in_3d),
        faults=None,
        elsewhere=True,
    )


def _references(
    scores: Path, summary: evaluation.Summary | None, record: predictions.Predictions
) -> dict[str, str] | None:
    """The label maps that were scored by, of each scan; None where those are beside the scans."""
    where = summary.of.references if summary and summary.of else None
    if where is None:
        return None
    found = label_names.references(scores.joinpath(where).resolve(), record.scans.keys())
    return {id: str(file) for id, file in found.items()}


def _elsewhere(record: predictions.Predictions, references: Mapping[str, str] | None) -> indexing.Index:
    """The scans of a record as an index lists them."""
    scans = [made.scan for made in record.scans.values() if made.scan is not None]
    if references is not None:
        scans = [replace(scan, label=references.get(scan.id)) for scan in scans]
    return indexing.Index(
        root="", layout=record.layout or "", channels=record.channels, labels={"background": 0, **record.structures},
        scans=tuple(scans), ignored=record.ignored_values, frame=record.frame,
    )  # fmt: skip


def _still_there(index: indexing.Index) -> indexing.Index:
    """Without scans whose files were moved or deleted since: there is no picture of them."""
    files = {scan.id: (*scan.images, *([scan.label] if scan.label else [])) for scan in index.scans}
    kept = (scan for scan in index.scans if all(file_of(Path(file)).exists() for file in files[scan.id]))
    return replace(index, scans=tuple(kept))


def _runs_elsewhere(record: predictions.Predictions, names: Sequence[str]) -> tuple[page.RunFacts, ...]:
    """The runs that made the label maps, and what they were pre-trained by; those that are gone are left out."""
    there = {name: Path(path) for name, path in record.run_folders.items() if (Path(path) / "settings.yaml").is_file()}
    for path in list(there.values()):
        model = run_files.find_model(path)
        before = model.pretrained if isinstance(model, run_files.FinetunedModel) else None
        if before is not None and (path.parent / before / "settings.yaml").is_file():
            there[before] = path.parent / before
    _refuse_unknown(names, sorted(there), "the folders that the label maps were made in")
    return _in_order(_run(path) for name, path in there.items() if not names or name in names)


def _plain(record: Record | None) -> Any:
    """As plain values, without what the file does not say."""
    return None if record is None else record.model_dump(mode="json", exclude_unset=True)


def _in_3d(work: Path, summary: evaluation.Summary | None) -> bool:
    """Whether a three-dimensional network made the predictions that were scored."""
    models = [run_files.find_model(work / "runs" / run) for run in (summary.runs if summary else ())]
    return any(isinstance(model, run_files.FinetunedModel) and model.patch_px is not None for model in models)


# ---------------------------------------------------------------- runs


def _runs(folder: Path, wanted: Sequence[str]) -> tuple[page.RunFacts, ...]:
    """Runs in the order they were begun, pre-training first."""
    known = sorted(path.parent.name for path in folder.glob("*/settings.yaml"))
    _refuse_unknown(wanted, known, str(folder))
    return _in_order(_run(folder / name) for name in wanted or known)


def _refuse_unknown(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in wanted:
        if name not in known:
            guess = nearest(name, known)
            raise UsageError(
                f"there is no run {name!r} in {where}",
                allowed=", ".join(known) or "no run has been begun",
                next=f"--run {guess}" if guess else "lemis pretrain WORK",
            )


def _in_order(runs: Iterable[page.RunFacts]) -> tuple[page.RunFacts, ...]:
    return tuple(
        sorted(runs, key=lambda run: (run.verb != "pretrain", str(run.environment.get("started", "")), run.name))
    )


def _run(folder: Path) -> page.RunFacts:
    return page.RunFacts(
        name=folder.name,
        status=_plain(run_files.read_status(folder)),
        settings=run_files.read_settings(folder),
        environment=_plain(run_files.read_environment(folder)) or {},
        model=_plain(run_files.find_model(folder)) or {},
        metrics=tuple(run_files.read_metrics(folder)),
    )


# ---------------------------------------------------------------- examples


def _examples(
    predictions: Path, index: indexing.Index, per_case: Sequence[page.Facts], in_3d: bool
) -> tuple[page.Example, ...]:
    """The best, the median and the worst scan; ``in_3d``: segmented by a three-dimensional network."""
    files = {_scan_of(path): path for path in sorted(predictions.glob("*")) if suffix_of(path)}
    scans = {scan.id: scan for scan in index.scans}
    shown = [
        (name, dice)
        for name, dice, _ in reversed(page.scan_rows(per_case))
        if not math.isnan(dice) and name in files and name in scans and scans[name].label
    ]
    places = {"best": 0, "median": len(shown) // 2, "worst": len(shown) - 1} if shown else {}
    chosen = {place: rank for rank, place in reversed(places.items())}  # of few scans, one may be several of them
    return tuple(
        page.Example(rank=rank, scan=name, dice=dice, slices=_pictures(index, scans[name], files[name], in_3d))
        for rank, (name, dice) in ((chosen[place], shown[place]) for place in sorted(chosen))
    )


def _scan_of(path: Path) -> str:
    return path.name[: -len(suffix_of(path))].removesuffix(".seg")


def _pictures(index: indexing.Index, scan: indexing.Scan, prediction: Path, in_3d: bool) -> tuple[page.Slice, ...]:
    """Three orthogonal planes where the scan is a volume, a few of its slices where it is a stack."""
    assert scan.label is not None
    image = volume.read(indexing.locate(index, scan.images[0]), scan.axes)
    structures = {name: value for name, value in index.labels.items() if value != 0}
    files = (indexing.locate(index, scan.label), prediction)
    reference, predicted = (_labels(index, path, image.source.axes) for path in files)
    picture = image.source.format == "picture"
    if not picture and (is_volumetric(reference.shape, image.spacing_mm) or (in_3d and min(reference.shape) > 1)):
        return _three_planes(image.array, reference, predicted, structures, image.spacing_mm)
    return _slices(image.array, reference, predicted, structures, image.spacing_mm, scan.slice_axis, picture)


def _labels(index: indexing.Index, path: Path, along: Axes) -> Array:
    labels = volume.read(path, along).array
    return np.where(np.isin(labels, index.ignored), 0, labels) if index.ignored else labels


def is_volumetric(shape: Sequence[int], spacing_mm: Sequence[float]) -> bool:
    """Whether a scan (X, Y, Z) is worth looking at along every axis."""
    return min(shape) >= _ENOUGH_SLICES and max(spacing_mm) <= _MOST_APART * min(spacing_mm)


def _slices(
    image: Array, reference: Array, predicted: Array, structures: dict[str, int], spacing_mm: Sequence[float],
    slice_axis: int, picture: bool,
) -> tuple[page.Slice, ...]:  # fmt: skip
    planes = [_planes(array, slice_axis, picture) for array in (image, reference, predicted)]
    spacing = _in_plane(spacing_mm, slice_axis)
    rows, columns = _crop(((planes[1] != 0) | (planes[2] != 0)).any(axis=0), spacing)
    planes = [array[:, rows, columns] for array in planes]
    chosen = choose_slices(planes[1], planes[2], structures)
    channels = planes[0].ndim == 4 and not (picture and planes[0].shape[-1] == 3)
    shown = figures.window((planes[0][..., 0] if channels else planes[0])[chosen])
    return tuple(
        page.Slice(
            picture=figures.overlay(shown[place], planes[1][number], planes[2][number], structures, spacing),
            caption=f"slice {number + 1} of {len(planes[1])}",
        )
        for place, number in enumerate(chosen)
    )


def _three_planes(
    image: Array, reference: Array, predicted: Array, structures: dict[str, int], spacing_mm: Sequence[float]
) -> tuple[page.Slice, ...]:
    place = choose_place(reference, predicted)
    box = _crop((reference != 0) | (predicted != 0), spacing_mm)
    image = image[..., 0] if image.ndim == 4 else image
    arrays = [array[box] for array in (image, reference, predicted)]
    inside = [number - cut.start for number, cut in zip(place, box, strict=True)]
    box_shape = arrays[0].shape
    extent_mm = [size * mm for size, mm in zip(box_shape, spacing_mm, strict=True)]
    planes = {axis: [_planes(array, axis, False)[inside[axis]] for array in arrays] for axis in _PLANES}
    shown = np.concatenate([grey.ravel() for grey, _, _ in planes.values()])
    pictures = []
    for axis, (name, left, top) in _PLANES.items():
        across, down = (other for other in range(3) if other != axis)
        # From the top left corner: planes are shown from the far end of both of their axes.
        middle_mm = [(size - at - 0.5) * mm for size, at, mm in zip(box_shape, inside, spacing_mm, strict=True)]
        grey, wanted, found = planes[axis]
        drawn = figures.overlay(
            figures.window(grey, like=shown), wanted, found, structures, _in_plane(spacing_mm, axis),
            longest_mm=max(extent_mm), crossing_mm=(middle_mm[down], middle_mm[across]), sides=(left, top),
        )  # fmt: skip
        caption = f"{name}, slice {place[axis] + 1} of {reference.shape[axis]}"
        pictures.append(page.Slice(picture=drawn, caption=caption, width_mm=extent_mm[across]))
    return tuple(pictures)


def choose_place(reference: Array, predicted: Array) -> tuple[int, ...]:
    """Along each axis, the slice with most of the structures and of the disagreement; the middle where all is empty.

    Args:
        reference: (X, Y, Z) label values.
        predicted: (X, Y, Z) label values.
    """
    weight = ((reference != 0) | (predicted != 0)).astype(np.uint8) + (reference != predicted)
    if not weight.any():
        return tuple(size // 2 for size in reference.shape)
    others = ((1, 2), (0, 2), (0, 1))
    return tuple(int(np.argmax(weight.sum(axis=axes, dtype=np.int64))) for axes in others)


def _in_plane(spacing_mm: Sequence[float], slice_axis: int) -> tuple[float, float]:
    """(row, col) spacing of the planes across ``slice_axis``."""
    across, down = (mm for axis, mm in enumerate(spacing_mm) if axis != slice_axis)
    return down, across


def _planes(array: Array, slice_axis: int, picture: bool) -> Array:
    """(slices, rows, cols[, channels]) as readers look: patient's right on the left, front or head on top."""
    planes = np.swapaxes(np.moveaxis(array, slice_axis, 0), 1, 2)
    return planes[:, ::-1] if picture else planes[:, ::-1, ::-1]


def _crop(anything: Array, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Along each axis, what holds all structures and a margin, about a square or a cube."""
    if not anything.any():
        return tuple(slice(0, size) for size in anything.shape)
    axes = range(anything.ndim)
    boxes = [np.flatnonzero(anything.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    centres = [(box[0] + box[-1] + 1) / 2 * mm for box, mm in zip(boxes, spacing_mm, strict=True)]
    side = max((box[-1] + 1 - box[0]) * mm for box, mm in zip(boxes, spacing_mm, strict=True))
    half = side / 2 + max(_MARGIN_MM, 0.15 * side)
    return tuple(
        slice(max(0, round((centre - half) / mm)), min(size, round((centre + half) / mm)))
        for centre, mm, size in zip(centres, spacing_mm, anything.shape, strict=True)
    )


def choose_slices(reference: Array, predicted: Array, structures: dict[str, int], most: int = _SLICES) -> list[int]:
    """The slice with most of the structures, then those with most disagreement, no neighbours if possible.

    Args:
        reference: (slices, rows, cols) label values.
        predicted: (slices, rows, cols) label values.
        structures: Name to value.
        most: How many at most.

    Returns:
        Slice numbers in the order of the scan.
    """
    values = list(structures.values())
    filled = (np.isin(reference, values) | np.isin(predicted, values)).sum(axis=(1, 2))
    disagreement = (reference != predicted).sum(axis=(1, 2))
    chosen = [int(np.argmax(filled))]
    for apart in (2, 1):
        for number in np.argsort(-disagreement, kind="stable"):
            far = all(abs(int(number) - other) >= apart for other in chosen)
            if len(chosen) < most and far and (disagreement[number] or filled[number]):
                chosen.append(int(number))
    return sorted(chosen)


# ---------------------------------------------------------------- self-similarity


def _similarity(work: Path, text: str, runs: Sequence[str], device: str, trust: Trust) -> page.Similarity:
    from lemis.prediction import (
        similarity as engine,  # here, as it imports PyTorch, which no other part of a report needs
    )

    query = engine.parse(text)
    found = engine.similarity(work, query, runs=runs, device=device, trust=trust)
    several = len({maps.backbone for maps in found.maps}) > 1
    networks = [
        figures.Maps(
            maps.method,
            _note(maps.method, maps.run, maps.backbone, several),
            maps.of_slice,
            maps.of_view,
            maps.best_in_view,
            maps.away_px,
        )
        for maps in found.maps
    ]
    strides = page.listed(dict.fromkeys(f"{maps.stride} × {maps.stride} pixels" for maps in found.maps))
    where = f"row {query.row}, column {query.col} of slice {query.slice_number} of {found.slices}, scan {query.scan}"
    place = (query.row, query.col)
    matches = "; ".join(f"{maps.title} {maps.note} {maps.away_px:.0f} pixels away" for maps in networks)
    return page.Similarity(
        where=where,
        view=f"turned by {engine.TURN_DEGREES:g}° clockwise and shrunk {engine.ZOOM:g} times",
        stride=strides,
        places=figures.places(
            "similarity-places", found.image, found.view, place, found.place_in_view, aspect=found.aspect,
            alt=f"The query, {where}, and the same place in the other view.",
        ),
        maps=figures.similarity(
            "similarity-maps", networks, place, found.place_in_view, aspect=found.aspect,
            alt=f"Maps of cosine similarity with the query. Best match in the other view: {matches}.",
        ),
    )  # fmt: skip


def _note(method: str, run: str | None, backbone: str, several: bool) -> str:
    """What a method's name leaves open: which run it is, and of which network where there are several."""
    if run is None:
        return f"fresh {backbone}"
    name = "" if run == method else run
    return ", ".join(word for word in (name, backbone if several and backbone not in name else "") if word)
