"""``lemis predict``: segment scans with one fine-tuned run or an ensemble of them, each scan on its own grid."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from lemis import terminal
from lemis.contracts import Backbone
from lemis.data import frame as frames
from lemis.data import index as index_file
from lemis.data import preprocess, volume
from lemis.data.frame import Frame
from lemis.data.index import Index, Scan
from lemis.data.layouts import scan_folder
from lemis.data.preprocess import Facts
from lemis.data.scans import read_image
from lemis.data.volume import Source
from lemis.engine import tiles
from lemis.engine.inference import Cost, cost, load_network, predict_scan, probe
from lemis.engine.launch import chosen_device
from lemis.engine.run import messages
from lemis.errors import UsageError
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.settings import parse_overrides, plain, resolve
from lemis.work_files import predictions
from lemis.work_files.predictions import Prediction, Predictions
from lemis.work_files.run import WEIGHTS, FinetunedModel


class Tiling(NamedTuple):
    """How three-dimensional networks see a volume."""

    patch_px: tuple[int, ...]
    settings: tiles.Settings


def predict(
    runs: Path | Sequence[Path],
    *,
    inputs: Path | None = None,
    scans: Sequence[str] | None = None,
    output: Path | None = None,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    device: str = "auto",
    trust: Trust = NO_TRUST,
) -> Path:
    """Write one label map per scan: on its image's own grid, in its format, with its own label values.

    Args:
        runs: A fine-tuned run, or several whose probabilities are averaged.
        inputs: A scan or a folder of scans; by default the scans of the work folder that the runs lie in.
        scans: Ids; by default those of the work folder that no run was trained on, or all of ``inputs``.
        output: Folder for the label maps; ``WORK/predictions`` by default.
        overrides: ``key=value`` of the tiles in which three-dimensional networks see a volume (``tiles.Settings``).
        dry_run: Time one tile, or one slice, and say what the whole will take. Nothing is written.
        device: ``auto``, ``cpu`` or ``cuda``.
        trust: Modules that the runs may name.

    Returns:
        The folder. ``predictions.json`` there says which runs made each map, and what they were trained on.

    Raises:
        UsageError: Runs that do not belong together, settings that they do not have, or no scan to predict.
    """
    console = messages()
    runs = [runs] if isinstance(runs, Path) else list(runs)
    if not runs:
        raise UsageError("no run", allowed="one fine-tuned run, or several", next="lemis predict WORK/runs/NAME")
    target = torch.device(chosen_device(device))
    networks, models = _load(runs, target, trust)
    frame = _frame(runs, models)
    tiling = _tiling(overrides, models[0].patch_px)
    work = runs[0].parent.parent
    index = index_file.load(work / "index.json") if inputs is None else scan_folder(inputs)
    index = frames.follow(index, None if frame is None else frame.axes)
    output = output or work / "predictions"
    known = predictions.read(output) or Predictions(version=1)
    chosen = _chosen(index, scans, models, all_of_them=inputs is not None)
    made_by = {
        "runs": tuple(run.name for run in runs),
        "weights": tuple(_digest(run / WEIGHTS) for run in runs),
        "labelled_subjects": tuple(sorted({subject for model in models for subject in model.labelled_subjects})),
        **_said_of(tiling),
    }
    wanted = {scan.id: Prediction(**made_by, images=_stamps(index, scan)) for scan in chosen}
    waiting = [scan for scan in chosen if not _is_made(known.scans.get(scan.id), wanted[scan.id], output)]
    if not waiting:
        console.print(f"{output}: nothing to do")
        return output
    names = " + ".join(run.name for run in runs)
    _say_direction(waiting, frame, models[0], console)
    if dry_run:
        _print_cost(waiting, _costs(waiting, index, networks, models[0], tiling, target), tiling, target)
        return output
    output.mkdir(parents=True, exist_ok=True)
    with terminal.progress(console, f"predicting with {names}") as bar:
        for scan in bar.track(waiting):
            file = _predict_one(scan, index, networks, models[0], tiling, output, target)
            made = wanted[scan.id].model_copy(update={"file": file.name})
            seen = {subject for model in models for subject in model.pretraining_subjects}
            predictions.add(output, scan.id, made, seen)
    console.print(f"predicted {count(len(waiting), 'scan')} with {names}: {output}")
    return output


def _load(runs: Sequence[Path], device: torch.device, trust: Trust) -> tuple[list[Backbone], list[FinetunedModel]]:
    loaded = [load_network(run, device, trust) for run in runs]
    models = [model for _, model in loaded]
    for model, run in zip(models, runs, strict=True):
        for key in ("channels", "label_values", "prepared", "patch_px"):
            first, other = (getattr(one, key) for one in (models[0], model))
            if first != other:
                raise UsageError(
                    f"{runs[0]} and {run} differ in {key}: {first} and {other}",
                    allowed="an ensemble of runs from one prepared data set",
                    next=f"lemis predict {run}",
                )
    return [network for network, _ in loaded], models


def _frame(runs: Sequence[Path], models: Sequence[FinetunedModel]) -> Frame | None:
    """The frame in which the runs saw their scans; None for runs of before there were frames."""
    axes = [None if model.frame is None else model.frame.axes for model in models]
    for run, others in zip(runs, axes, strict=True):
        if frames.differ(axes[0], others):
            raise UsageError(
                f"{runs[0]} and {run} were trained on scans in different frames: {axes[0]} and {others}",
                allowed="an ensemble of runs that saw their scans stored alike",
                next=f"lemis predict {run}",
            )
    return models[0].frame


def _say_direction(scans: Sequence[Scan], frame: Frame | None, model: FinetunedModel, console: Console) -> None:
    """Name scans whose slices lie otherwise than those of training."""
    if frame is None:
        return
    settings = resolve(preprocess.Settings, model.prepared)
    for scan in scans:
        seen = dataclasses.replace(scan, slice_axis=preprocess.axis_of(settings, scan.slice_axis))
        if scan.axes and (found := frames.strangeness(seen, frame)):
            degrees, nearest = found
            console.print(
                f"{scan.id}: its slices lie {degrees:.0f} degrees from those of training, which lie within "
                f"{nearest.within_degrees:.0f} degrees of each other: another view of the body, never trained on"
            )


def _chosen(
    index: Index, scans: Sequence[str] | None, models: Sequence[FinetunedModel], *, all_of_them: bool
) -> list[Scan]:
    by_id = {scan.id: scan for scan in index.scans}
    if scans is not None:
        for wanted in scans:
            if wanted not in by_id:
                raise UsageError(
                    f"scan {wanted!r}",
                    allowed=f"one of the {len(by_id)} scans of {index.root}",
                    next="lemis check SCANS",
                )
        return [by_id[wanted] for wanted in scans]
    seen = {subject for model in models for subject in model.labelled_subjects}
    chosen = [scan for scan in index.scans if all_of_them or scan.subject not in seen]
    if not chosen:
        raise UsageError(
            "every scan here was trained on",
            allowed="scans that no run was trained on",
            next="--inputs FOLDER for new scans",
        )
    return chosen


def _predict_one(
    scan: Scan,
    index: Index,
    networks: Sequence[Backbone],
    model: FinetunedModel,
    tiling: Tiling | None,
    output: Path,
    device: torch.device,
) -> Path:
    _expect_channels(index, model)
    slices, described, source = _prepared(scan, index, model)
    classes = predict_scan(networks, slices, described, device, *(tiling or ()))
    labels = _values(model.label_values)[classes]
    file = index_file.locate(index, scan.images[0])
    return volume.write_labels(labels, source, output / f"{scan.id}{volume.label_suffix(file)}")


def _expect_channels(index: Index, model: FinetunedModel) -> None:
    if len(index.channels) != len(model.channels):
        raise UsageError(
            f"scans with {len(index.channels)} channels ({', '.join(index.channels)})",
            allowed=f"the {len(model.channels)} the run was trained on: {', '.join(model.channels)}",
            next="give scans with the same channels in the same order",
        )


def _prepared(scan: Scan, index: Index, model: FinetunedModel) -> tuple[NDArray[np.float16], Facts, Source]:
    # A function of its own, so that the scan as it was stored is let go.
    settings = resolve(preprocess.Settings, model.prepared)
    image = read_image(index, scan)
    described = _described(scan, image.source.canonical_shape, image.spacing_mm, settings)
    return *preprocess.prepare_image(image.array, described, settings), image.source


def _described(scan: Scan, shape: Sequence[int], spacing_mm: Sequence[float], settings: preprocess.Settings) -> Facts:
    return preprocess.describe(
        id=scan.id, subject=scan.subject, images=scan.images, label=None, shape=shape,
        spacing_mm=spacing_mm, slice_axis=preprocess.axis_of(settings, scan.slice_axis), settings=settings,
    )  # fmt: skip


def _values(label_values: Sequence[int]) -> NDArray[Any]:
    # In the smallest type: a volume of int64 labels would be larger than everything else that is kept of it.
    values = np.asarray(label_values)
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))


# ------------------------------------------------------------------------------------------------ tiles and their cost


def _tiling(overrides: Sequence[str], patch_px: Sequence[int] | None) -> Tiling | None:
    settings = resolve(tiles.Settings, parse_overrides(overrides))
    if patch_px is None and overrides:
        raise UsageError(
            f"{' '.join(overrides)} for a network that sees whole slices",
            allowed="settings of tiles where the network is three-dimensional",
            next="leave it out",
        )
    return None if patch_px is None else Tiling(tuple(patch_px), settings)


def _said_of(tiling: Tiling | None) -> dict[str, Any]:
    # Whatever a prediction depends on; the number of tiles in a forward pass is not among it.
    if tiling is None:
        return {}
    said = {key: value for key, value in plain(tiling.settings).items() if key != "at_once"}
    return {"tiles": {"patch_px": list(tiling.patch_px), **said}}


def _costs(
    scans: Sequence[Scan],
    index: Index,
    networks: Sequence[Backbone],
    model: FinetunedModel,
    tiling: Tiling | None,
    device: torch.device,
) -> list[Cost]:
    _expect_channels(index, model)
    settings, channels = resolve(preprocess.Settings, model.prepared), len(model.channels)
    described = [_described(scan, scan.shape, scan.spacing_mm, settings) for scan in scans]
    largest = max(described, key=lambda one: math.prod(one.prepared_shape))
    found = probe(networks, largest, channels, device, *(tiling or ()))
    return [cost(one, found, channels, device, *(tiling or ())) for one in described]


def _print_cost(scans: Sequence[Scan], costs: Sequence[Cost], tiling: Tiling | None, device: torch.device) -> None:
    console = terminal.console()
    part = "slice" if tiling is None else "tile"
    of = "" if tiling is None else f" of {' x '.join(map(str, tiling.patch_px))}"
    seconds, parts = sum(one.seconds for one in costs), sum(one.parts for one in costs)
    console.print(
        f"{count(len(scans), 'scan')}, {count(parts, part)}{of}: about {_duration(seconds)} on {device.type}, "
        f"{_duration(seconds / parts)} a {part}; reading and preparing come on top"
    )
    where = "GPU" if device.type == "cuda" else "process"
    places = range(len(costs))
    longest = max(places, key=lambda place: costs[place].seconds)
    largest = max(places, key=lambda place: costs[place].peak_gb)
    named = {"longest": longest, "largest": largest} if longest != largest else {"longest and largest": longest}
    for title, at in named.items():
        one, shape = costs[at], " x ".join(map(str, scans[at].shape))
        console.print(
            f"{title}: {scans[at].id} ({shape}): {count(one.parts, part)}, {_duration(one.seconds)}, "
            f"peak memory of the {where} about {one.peak_gb:.1f} GB"
        )


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


# ---------------------------------------------------------------------------------------------------------- the record


def _is_made(entry: Prediction | None, wanted: Prediction, output: Path) -> bool:
    if entry is None or entry.file is None or not (output / entry.file).exists():
        return False
    return all(getattr(entry, name) == getattr(wanted, name) for name in wanted.model_fields_set)


def _digest(file: Path) -> str:
    # A run that was made again under its old name makes its predictions anew.
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]


def _stamps(index: Index, scan: Scan) -> tuple[tuple[str, str], ...]:
    """Path and stamp of each file of a scan: another scan of the same name is predicted anew."""
    images = [index_file.locate(index, image) for image in scan.images]
    return tuple((str(image.resolve()), volume.stamp(image)) for image in images)
