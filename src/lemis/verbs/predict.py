"""``lemis predict``: segment scans with one fine-tuned run or an ensemble of them, each scan on its own grid."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.text import Text

from lemis import files, terminal
from lemis.contracts import Backbone
from lemis.datasets import frame as frames
from lemis.datasets import index as index_file
from lemis.datasets.frame import Frame
from lemis.datasets.index import Index, Scan
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import UsageError
from lemis.exchange import dicom_seg
from lemis.formats import volume
from lemis.formats.paths import file_of, label_suffix, series_of, stamp
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import components, costs, mirroring, tiles
from lemis.prediction.inference import load_network, predict_scan
from lemis.prediction.new_scan import expect_channels, prepared
from lemis.prediction.settings import Settings
from lemis.preparation import exposure
from lemis.preparation.classes import values_of
from lemis.preparation.exposure import SLICE_DIRECTION, Known, Strange
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.settings import slice_axis_of
from lemis.quality import table
from lemis.quality.measuring import Measuring, Predicted
from lemis.reporting import review, sentences
from lemis.runs import told
from lemis.runs.device import chosen_device
from lemis.runs.material import digest_of_file
from lemis.runs.run import messages
from lemis.settings import parse_overrides, resolve
from lemis.training import predicting
from lemis.work_files import predictions, quality
from lemis.work_files.predictions import Kept, Pieces, Prediction, Predictions
from lemis.work_files.run import WEIGHTS, FinetunedModel, OnePiece

_SHOWN = 3  # scans of one kind that a warning names


class Tiling(NamedTuple):
    """How three-dimensional networks see a volume."""

    patch_px: tuple[int, ...]
    settings: Settings


class _Ensemble(NamedTuple):
    """The runs whose probabilities are averaged, or the one."""

    runs: Sequence[Path]
    networks: Sequence[Backbone]
    models: Sequence[FinetunedModel]
    frame: Frame | None  # in which they saw their scans; None for runs older than frames
    tiling: Tiling | None  # of networks of three dimensions
    mirrored: tuple[int, ...]  # axes of slices or tiles, whose mirror images are seen too
    kept: Kept | None  # of what only the largest piece is kept; None: every piece
    device: torch.device
    settings: Settings

    @property
    def names(self) -> str:
        """Of all, in a line."""
        return " + ".join(run.name for run in self.runs)


def predict(
    runs: Path | Sequence[Path],
    *,
    inputs: Path | None = None,
    scans: Sequence[str] | None = None,
    output: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    dry_run: bool = False,
    device: str = "auto",
    trust: Trust = NO_TRUST,
    decided: OnePiece | None = None,
    also: str | None = None,
    codes: Path | None = None,
    beside: Sequence[Path] | None = None,
) -> Path:
    """Write one label map per scan: on its image's own grid, in its format, with its own label values.

    Args:
        runs: Fine-tuning runs, averaged where they are several.
        inputs: A scan or a folder of scans; by default those of the work folder that the runs lie in.
        scans: Ids; by default those of the work folder that no run was trained on, or all of ``inputs``.
        output: Folder for the label maps; by default WORK/predictions.
        overrides: Settings: largest_components=auto (islands of what is one piece in every labelled scan of training
            become background), true (of every structure) or false; mirror=auto (average over mirror images
            along the axes that training mirrored: 4 times the time, in 3D 8 times), true (along all) or false; and of
            the tiles in which 3D networks see a volume: overlap=0.5, blend=gaussian or constant, at_once=1.
            quality=false measures nothing of how far label maps can be trusted; level=0.8 is that of its intervals.
        dry_run: Time one tile, or one slice, say how long it will take and how much memory, and write nothing.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        trust: Import modules that the runs name, even if they are not part of Lemis.
        decided: What largest_components=auto keeps one piece of, where held-out scans say it; by default the labels do.
        also: Write each label map of a DICOM series as a DICOM SEG object too, into the folder dicom-seg beside them:
            ``dicom-seg``, which viewers read, or ``dicom-labelmap``, the newer kind of 2024.
        codes: CSV of names and the codes that they stand for in these, where Lemis knows none.
        beside: Further runs of the same cross-validation, whose held-out scans say what Dice to expect, too.

    Returns:
        The folder. ``predictions.json`` there says which runs made each map, and what they were trained on;
        ``quality.csv`` what Dice to expect of each, and what is odd in it.

    Raises:
        UsageError: Runs that do not belong together, settings that they do not have, no scan to predict, or scans that
            ``also`` cannot be of.
        DataFault: A series that does not state what an object of it must.
    """
    console = messages()
    objects = dicom_seg.asked(also, codes, "--also dicom-seg")
    ensemble = _loaded([runs] if isinstance(runs, Path) else list(runs), overrides, device, trust, decided)
    work = ensemble.runs[0].parent.parent
    index, foreign = _listed(work, inputs)
    index = frames.follow(index, None if ensemble.frame is None else ensemble.frame.axes)
    expect_channels(index, ensemble.models[0])
    output = output or work / "predictions"
    if not dry_run:
        files.require_writable(output)
    known = predictions.read(output) or Predictions(version=1)
    chosen = _chosen(index, scans, ensemble.models, all_of_them=inputs is not None)
    if objects is not None:
        dicom_seg.refuse_others([_located(index, scan) for scan in chosen], objects.target)
    wanted = _wanted(ensemble, index, chosen)
    measured = _measured(output) if ensemble.settings.quality else None
    aloud = not beside or len(ensemble.runs) > 1  # what one fold held out is scored
    waiting = [scan for scan in chosen if not _is_made(known.scans.get(scan.id), wanted[scan.id], output)]
    if measured is not None:
        unmade = {scan.id for scan in waiting}
        waiting = [scan for scan in chosen if scan.id in unmade or scan.id not in measured]
    listed = _beside_map(chosen, index, ensemble, foreign)
    shared = _shared(ensemble, index)
    if not dry_run:
        for scan in (scan for scan in chosen if scan not in waiting):
            _list_anew(output, known.scans[scan.id], listed[scan.id], shared)
    if not waiting:
        told.nothing_to_do(output)
        if not dry_run:
            _follow(output, [scan.id for scan in chosen], ensemble, objects, console, said=aloud)
        return output
    if dry_run:
        _say_strange({scan.id: _strange_header(scan, index, ensemble) for scan in waiting}, console)
        _print_cost(waiting, ensemble)
        return output
    output.mkdir(parents=True, exist_ok=True)
    measuring = _measuring(ensemble, work, beside or (), console) if ensemble.settings.quality else None
    added = {}
    with terminal.progress(console, f"predicting with {ensemble.names}") as bar:
        for scan in bar.track(waiting):
            facts, made = _predict_one(scan, index, ensemble, output)
            if measuring is not None:
                measuring.measure(output, index, made, own=foreign is None)
            added[scan.id] = wanted[scan.id].model_copy(update={**listed[scan.id], **facts})
            predictions.add(output, scan.id, added[scan.id], shared)
    _say_strange({id: made.strange for id, made in added.items()}, console)
    if any(one.pieces is not None and one.pieces != Pieces(voxels=one.pieces.voxels) for one in added.values()):
        for said in sentences.pieces(added):
            console.print(f"note: {said}")
    if foreign is not None:
        _say_known(added, console)
    console.print(f"predicted {count(len(waiting), 'scan')} with {ensemble.names}: {output}")
    _follow(output, [scan.id for scan in chosen], ensemble, objects, console, said=aloud)
    return output


def _measured(output: Path) -> Collection[str]:
    """Scans of which quality was measured as their label maps were made."""
    record = quality.read(output)
    return record.scans.keys() if record else ()


def _measuring(ensemble: _Ensemble, work: Path, beside: Sequence[Path], console: Console) -> Measuring:
    """What measures quality, with all that the runs know of their labelled scans."""
    measuring = Measuring(
        ensemble.runs, ensemble.networks, ensemble.models, ensemble.device, ensemble.tiling or (None, None),
        ensemble.mirrored, beside,
    )  # fmt: skip
    own = work / "index.json"
    axes = None if ensemble.frame is None else ensemble.frame.axes
    unable = measuring.learn(frames.follow(index_file.load(own), axes) if own.is_file() else None)
    if unable:
        console.print(
            f"note: {unable[0]} must not be written to, so it learns nothing more of labelled and held-out scans; "
            "label maps are judged by what it knows"
        )
    return measuring


def _follow(
    output: Path, chosen: Sequence[str], ensemble: _Ensemble, objects: dicom_seg.Asked | None, console: Console, *,
    said: bool,
) -> None:  # fmt: skip
    """What is made of label maps: SEG objects where they are asked for; and the table of quality anew.

    Which of the chosen scans to look at first is said where it is to be said.
    """
    if objects is not None:
        dicom_seg.say(dicom_seg.write_all(output, output / dicom_seg.FOLDER, objects, chosen))
    if not ensemble.settings.quality:
        return
    rows = table.save(output, ensemble.settings.level)
    record, basis = predictions.read(output), quality.read(output)
    if said and record is not None and basis is not None and basis.basis is not None:
        files_of = {id: made.file for id, made in record.scans.items() if made.file}
        for line in review.worst([row for row in rows if row.scan in chosen], basis.basis, output, files_of):
            console.print(Text(terminal.visible(line)))


def _listed(work: Path, inputs: Path | None) -> tuple[Index, str | None]:
    """The scans, and the folder that they are from where that is not the work folder's own."""
    own = work / "index.json"
    if inputs is None:
        return index_file.load(own), None
    index, here = scan_folder(inputs), inputs.resolve()
    ours = index_file.load(own) if own.is_file() else None
    if ours is None or file_of(here) != Path(ours.root).resolve():
        return index, str(here)
    same_series = [scan.images for scan in index.scans] == [scan.images for scan in ours.scans]
    return index, None if same_series or not series_of(here) else str(here)


def _located(index: Index, scan: Scan) -> Scan:
    """The scan with whole paths."""
    images = tuple(str(index_file.locate(index, image).resolve()) for image in scan.images)
    label = None if scan.label is None else str(index_file.locate(index, scan.label).resolve())
    return dataclasses.replace(scan, images=images, label=label)


def _wanted(ensemble: _Ensemble, index: Index, scans: Sequence[Scan]) -> dict[str, Prediction]:
    """All that decides on a label map, by scan: where a record says the same, the map is made."""
    made_by = {
        "runs": tuple(run.name for run in ensemble.runs),
        # A run that was made again under its old name makes its predictions anew.
        "weights": tuple(digest_of_file(run / WEIGHTS) for run in ensemble.runs),
        "labelled_subjects": tuple(sorted({one for model in ensemble.models for one in model.learned_from})),
        "mirrored": ensemble.mirrored,
        "kept": ensemble.kept,
        **_said_of(ensemble.tiling),
    }
    return {scan.id: Prediction(**made_by, images=_stamps(index, scan)) for scan in scans}


def _shared(ensemble: _Ensemble, index: Index) -> Predictions:
    """What the record says of all label maps of these runs."""
    first = ensemble.models[0]
    named = zip(first.label_names, first.label_values, strict=True)
    return Predictions(
        version=1,
        structures={name: value for name, value in named if value},
        ignored_values=tuple(sorted({value for model in ensemble.models for value in model.ignored_values})),
        known_labels=dict(_known(ensemble).labels),
        run_folders={run.name: str(run.resolve()) for run in ensemble.runs},
        channels=index.channels,
        layout=index.layout,
        frame=index.frame,
    )


def _beside_map(
    chosen: Sequence[Scan], index: Index, ensemble: _Ensemble, foreign: str | None
) -> dict[str, dict[str, Any]]:
    """What a record says of each scan beside its label map."""
    models = ensemble.models
    seen = tuple(sorted({subject for model in models for subject in model.pretraining_subjects}))
    common = {
        "inputs": foreign,
        "pretraining_subjects": seen if all(model.start_is_known for model in models) else None,
        "unlabelled_subjects": tuple(sorted({subject for model in models for subject in model.unlabelled_subjects})),
    }
    return {scan.id: {"scan": _located(index, scan), **common} for scan in chosen}


def _list_anew(output: Path, made: Prediction, listed: Mapping[str, Any], shared: Predictions) -> None:
    """A label map is not made again where only its scan's subject or reference changed, or what is said of it."""
    if any(getattr(made, name) != value for name, value in listed.items()):
        assert made.file is not None, "what is made has a file"
        predictions.add(output, listed["scan"].id, made.model_copy(update=dict(listed)), shared)


def _loaded(
    runs: Sequence[Path], overrides: Sequence[str] | Mapping[str, Any], device: str, trust: Trust,
    decided: OnePiece | None,
) -> _Ensemble:  # fmt: skip
    if not runs:
        raise UsageError("no run", allowed="one fine-tuned run, or several", next="lemis predict WORK/runs/NAME")
    target = torch.device(chosen_device(device))
    loaded = [load_network(run, target, trust) for run in runs]
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
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    settings = resolve(Settings, predicting.settings(2 if models[0].patch_px is None else 3, {}, given))
    tiling = None if models[0].patch_px is None else Tiling(models[0].patch_px, settings)
    networks = [network for network, _ in loaded]
    mirrored = mirroring.axes(settings.mirror, models, networks[0].dims)
    kept = components.kept(settings.largest_components, models, decided)
    return _Ensemble(runs, networks, models, _frame(runs, models), tiling, mirrored, kept, target, settings)


def _frame(runs: Sequence[Path], models: Sequence[FinetunedModel]) -> Frame | None:
    """The frame in which the runs saw their scans; None for runs older than frames."""
    axes = [None if model.frame is None else model.frame.axes for model in models]
    for run, others in zip(runs, axes, strict=True):
        if frames.differ(axes[0], others):
            raise UsageError(
                f"{runs[0]} and {run} were trained on scans in different frames: {axes[0]} and {others}",
                allowed="an ensemble of runs that saw their scans stored alike",
                next=f"lemis predict {run}",
            )
    return models[0].frame


# ------------------------------------------------------------------------------------ what the runs were made for


def _known(ensemble: _Ensemble) -> Known:
    return exposure.joined(model.known for model in ensemble.models)


def _strange_header(scan: Scan, index: Index, ensemble: _Ensemble) -> tuple[Strange, ...]:
    """In what a scan is not what the runs were made for, by names and header."""
    model, frame = ensemble.models[0], ensemble.frame
    found = exposure.other_channels(index.channels, model.channels)
    settings = resolve(Preparation, model.prepared)
    seen = dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis))
    if frame is not None and scan.axes and (lies := frames.strangeness(seen, frame)):
        degrees, nearest = lies
        said = (
            f"its slices lie {degrees:.0f} degrees from those of training, which lie within "
            f"{nearest.within_degrees:.0f} degrees of each other: another view of the body, never trained on"
        )
        found.append(Strange(SLICE_DIRECTION, said))
    return tuple(found)


def _strange(scan: Scan, facts: Facts, index: Index, ensemble: _Ensemble) -> tuple[Strange, ...]:
    """In what a scan is not what the runs were made for, by all that there is of it."""
    found = _strange_header(scan, index, ensemble)
    likes = [model.like for model in ensemble.models if model.like is not None]
    if not likes:
        return found
    more = exposure.strange(facts, functools.reduce(exposure.wider, likes), ensemble.models[0].channels)
    told = {strange.kind for strange in found}  # a direction by its angle, where there is one
    return *found, *(strange for strange in more if strange.kind not in told)


def _say_strange(found: Mapping[str, Sequence[Strange]], console: Console) -> None:
    """One warning for each way in which scans are strange, with the first few of them."""
    kinds = dict.fromkeys(strange.kind for strangers in found.values() for strange in strangers)
    for kind in kinds:
        own = [(id, one.seen) for id, strangers in found.items() for one in strangers if one.kind == kind]
        _warn(
            console, f"{kind}: {count(len(own), 'scan')} unlike what was trained on; results may be worse than scores"
        )
        for id, seen in own[:_SHOWN]:
            console.print(f"  {id}: {seen}")
        if len(own) > _SHOWN:
            console.print(f"  and {len(own) - _SHOWN} more, all in {predictions.RECORD}")


def _say_known(made: Mapping[str, Prediction], console: Console) -> None:
    """New scans that training saw with their labels: their masks are no test of anything."""
    trained = [f"{id} is {' or '.join(one.known_as)}" for id, one in made.items() if _is_labelled(one)]
    if trained:
        more = f" and {len(trained) - _SHOWN} more" if len(trained) > _SHOWN else ""
        said = f"{count(len(trained), 'scan')} of subjects whose labels were trained on, by their very voxels"
        _warn(console, f"{said} ({', '.join(trained[:_SHOWN])}{more}): no test of the network")


def _is_labelled(made: Prediction) -> bool:
    return not set(made.known_as).isdisjoint(made.labelled_subjects or ())


def _warn(console: Console, said: str) -> None:
    console.print(Text.assemble(("warning:", "yellow"), " ", terminal.visible(said)))


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


def _predict_one(scan: Scan, index: Index, ensemble: _Ensemble, output: Path) -> tuple[dict[str, Any], Predicted]:
    """Write the label map of a scan; what the record says of it, and the scan with it."""
    model = ensemble.models[0]
    slices, facts, source = prepared(scan, index, resolve(Preparation, model.prepared))
    patch_px, settings = ensemble.tiling or (None, None)
    classes = predict_scan(
        ensemble.networks, slices, facts, ensemble.device, patch_px, settings, ensemble.mirrored
    )  # fmt: skip
    pieces = components.keep_largest(classes, model.label_names, ensemble.kept) if ensemble.kept else None
    labels = values_of(model.label_values)[classes]
    file = index_file.locate(index, scan.images[0])
    path = volume.write_labels(labels, source, output / f"{scan.id}{label_suffix(file)}")
    known_as = _known(ensemble).subjects(facts.image_digest)
    said = {
        "file": path.name, "digest": facts.image_digest, "known_as": tuple(sorted(known_as)),
        "strange": tuple(_strange(scan, facts, index, ensemble)), "pieces": pieces,
    }  # fmt: skip
    return said, Predicted(scan, slices, facts, source, classes, known_as)


def _print_cost(scans: Sequence[Scan], ensemble: _Ensemble) -> None:
    patch_px, settings = ensemble.tiling or (None, None)
    found = costs.of_scans(
        scans, ensemble.networks, ensemble.models[0], ensemble.device, patch_px, settings, ensemble.mirrored
    )
    for line in costs.in_words(scans, found, ensemble.device, patch_px):
        terminal.console().print(line)


# ---------------------------------------------------------------------------------------------------------- the record


def _said_of(tiling: Tiling | None) -> dict[str, Any]:
    # Whatever a prediction depends on; the number of tiles in a forward pass is not among it.
    if tiling is None:
        return {}
    names = [one.name for one in dataclasses.fields(tiles.Settings) if one.name != "at_once"]
    return {"tiles": {"patch_px": list(tiling.patch_px), **{name: getattr(tiling.settings, name) for name in names}}}


def _is_made(entry: Prediction | None, wanted: Prediction, output: Path) -> bool:
    if entry is None or entry.file is None or entry.digest is None or not (output / entry.file).exists():
        return False  # an older record without a digest: nobody knows whose scan it is
    return all(getattr(entry, name) == getattr(wanted, name) for name in wanted.model_fields_set)


def _stamps(index: Index, scan: Scan) -> tuple[tuple[str, str], ...]:
    """Path and stamp of each file of a scan: another scan of the same name is predicted anew."""
    images = [index_file.locate(index, image) for image in scan.images]
    return tuple((str(image.resolve()), stamp(image)) for image in images)
