"""``lemis predict``: segment scans with one fine-tuned run or an ensemble of them, each scan on its own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from lemis import files, terminal
from lemis.datasets import frame as frames
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scan_facts import scan_folder
from lemis.errors import UsageError
from lemis.exchange import dicom_seg
from lemis.formats import volume
from lemis.formats.paths import file_of, label_suffix, series_of
from lemis.measure.tables import count
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction import costs, recorded, unlike
from lemis.prediction import ensemble as ensembles
from lemis.prediction.ensemble import Ensemble
from lemis.prediction.new_scan import expect_channels, prepared
from lemis.prediction.settings import Settings
from lemis.preparation.classes import values_of
from lemis.preparation.exposure import Strange
from lemis.preparation.settings import Settings as Preparation
from lemis.quality import table
from lemis.quality.measuring import Measuring, Predicted
from lemis.reporting import review, sentences
from lemis.runs import told
from lemis.runs.run import messages
from lemis.settings import parse_overrides, resolve
from lemis.training import predicting
from lemis.work_files import predictions, quality
from lemis.work_files.predictions import Pieces, Prediction, Predictions
from lemis.work_files.run import FinetunedModel, OnePiece

_SHOWN = 3  # scans of one kind that a warning names


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
    ensemble = ensembles.load(
        [runs] if isinstance(runs, Path) else list(runs), _settings_by(overrides), device=device, trust=trust,
        decided=decided,
    )  # fmt: skip
    work = ensemble.runs[0].parent.parent
    index, foreign = _listed(work, inputs)
    index = _in_frame(index, ensemble)
    expect_channels(index, ensemble.model)
    output = output or work / "predictions"
    if not dry_run:
        files.require_writable(output)
    chosen = _chosen(index, scans, ensemble.models, all_of_them=inputs is not None)
    if objects is not None:
        dicom_seg.refuse_others([recorded.located(index, scan) for scan in chosen], objects.target)
    making = _making(ensemble, index, chosen, foreign, output)
    if dry_run and making.waiting:
        _say_strange({scan.id: unlike.by_header(scan, index, ensemble) for scan in making.waiting}, console)
        for line in costs.in_words(making.waiting, costs.of_scans(making.waiting, ensemble), ensemble):
            terminal.console().print(line)
        return output
    if not making.waiting:
        told.nothing_to_do(output)
    if dry_run:
        return output
    _list_anew(making, output)
    if making.waiting:
        _make(making, ensemble, index, output, work, beside or (), console)
    aloud = not beside or len(ensemble.runs) > 1  # what one fold held out is scored
    _follow(output, [scan.id for scan in chosen], ensemble, objects, console, said=aloud)
    return output


class _Making(NamedTuple):
    """Which label maps are to be made, and what the record says of all that were chosen, by scan."""

    waiting: list[Scan]
    made: dict[str, Prediction]  # as the record has those that are there
    wanted: dict[str, Prediction]  # what decides on a label map
    beside: dict[str, Prediction]  # what does not
    shared: Predictions


def _making(ensemble: Ensemble, index: Index, chosen: Sequence[Scan], foreign: str | None, output: Path) -> _Making:
    """A label map is made again where anything that decides on it has changed, or its quality was never measured."""
    before, basis = predictions.read(output), quality.read(output)
    known = before.scans if before else {}
    measured = (basis.scans if basis else {}).keys() if ensemble.settings.quality else known.keys()
    wanted = recorded.wanted(ensemble, index, chosen)
    made = {
        scan.id: known[scan.id]
        for scan in chosen
        if scan.id in measured and recorded.is_made(known.get(scan.id), wanted[scan.id], output)
    }
    beside = recorded.beside_map(ensemble, index, chosen, foreign)
    waiting = [scan for scan in chosen if scan.id not in made]
    return _Making(waiting, made, wanted, beside, recorded.shared(ensemble, index))


def _list_anew(making: _Making, output: Path) -> None:
    """A label map is not made again where only its scan's subject or reference changed, or what is said of it."""
    for id, made in making.made.items():
        listed = _said(making.beside[id])
        if any(getattr(made, name) != value for name, value in listed.items()):
            predictions.add(output, id, made.model_copy(update=listed), making.shared)


def _said(entry: Prediction) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.model_fields_set}


def _make(
    making: _Making, ensemble: Ensemble, index: Index, output: Path, work: Path, beside: Sequence[Path],
    console: Console,
) -> None:  # fmt: skip
    """Write the label maps that wait, one after the other, and say what is odd about them."""
    output.mkdir(parents=True, exist_ok=True)
    measuring = _measuring(ensemble, work, beside, console) if ensemble.settings.quality else None
    added = {}
    with terminal.progress(console, f"predicting with {ensemble.names}") as bar:
        for scan in bar.track(making.waiting):
            facts, made = _predict_one(scan, index, ensemble, output)
            listed = making.beside[scan.id]
            if measuring is not None:
                measuring.measure(output, index, made, own=listed.inputs is None)
            added[scan.id] = making.wanted[scan.id].model_copy(update={**_said(listed), **facts})
            predictions.add(output, scan.id, added[scan.id], making.shared)
    _say_strange({id: made.strange for id, made in added.items()}, console)
    if any(one.pieces is not None and one.pieces != Pieces(voxels=one.pieces.voxels) for one in added.values()):
        for said in sentences.pieces(added):
            console.print(f"note: {said}")
    _say_known({id: made for id, made in added.items() if made.inputs is not None}, console)
    console.print(f"predicted {count(len(making.waiting), 'scan')} with {ensemble.names}: {output}")


def _measuring(ensemble: Ensemble, work: Path, beside: Sequence[Path], console: Console) -> Measuring:
    """What measures quality, with all that the runs know of their labelled scans."""
    measuring, own = Measuring(ensemble, beside), work / "index.json"
    unable = measuring.learn(_in_frame(index_file.load(own), ensemble) if own.is_file() else None)
    if unable:
        console.print(
            f"note: {unable[0]} must not be written to, so it learns nothing more of labelled and held-out scans; "
            "label maps are judged by what it knows"
        )
    return measuring


def _follow(
    output: Path, chosen: Sequence[str], ensemble: Ensemble, objects: dicom_seg.Asked | None, console: Console, *,
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


def _settings_by(overrides: Sequence[str] | Mapping[str, Any]) -> Callable[[int], Settings]:
    """The settings of a prediction by networks of so many dimensions."""
    given = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return lambda dims: resolve(Settings, predicting.settings(dims, {}, given))


def _in_frame(index: Index, ensemble: Ensemble) -> Index:
    """The scans as the networks saw those of training."""
    return frames.follow(index, None if ensemble.frame is None else ensemble.frame.axes)


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


def _say_strange(found: Mapping[str, Sequence[Strange]], console: Console) -> None:
    """One warning for each way in which scans are strange, with the first few of them."""
    kinds = dict.fromkeys(strange.kind for strangers in found.values() for strange in strangers)
    for kind in kinds:
        own = [(id, one.seen) for id, strangers in found.items() for one in strangers if one.kind == kind]
        terminal.warn(
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
        terminal.warn(console, f"{said} ({', '.join(trained[:_SHOWN])}{more}): no test of the network")


def _is_labelled(made: Prediction) -> bool:
    return not set(made.known_as).isdisjoint(made.labelled_subjects or ())


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


def _predict_one(scan: Scan, index: Index, ensemble: Ensemble, output: Path) -> tuple[dict[str, Any], Predicted]:
    """Write the label map of a scan; what the record says of it, and the scan with it."""
    model = ensemble.model
    slices, facts, source = prepared(scan, index, resolve(Preparation, model.prepared))
    classes, pieces = ensemble.segment(slices, facts)
    labels = values_of(model.label_values)[classes]
    file = index_file.locate(index, scan.images[0])
    path = volume.write_labels(labels, source, output / f"{scan.id}{label_suffix(file)}")
    known_as = ensemble.known.subjects(facts.image_digest)
    said = {
        "file": path.name, "digest": facts.image_digest, "known_as": tuple(sorted(known_as)),
        "strange": unlike.by_all(scan, facts, index, ensemble), "pieces": pieces,
    }  # fmt: skip
    return said, Predicted(scan, slices, facts, source, classes, known_as)
