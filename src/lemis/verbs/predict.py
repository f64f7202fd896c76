"""``lemis predict``: segment scans with one fine-tuned run or an ensemble of them, each scan on its own grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from lemis.contracts import Backbone
from lemis.data import index as index_file
from lemis.data import preprocess, volume
from lemis.data.index import Index, Scan
from lemis.data.layouts import scan_folder
from lemis.data.scans import read_image
from lemis.engine.inference import load_network, predict_scan
from lemis.engine.launch import chosen_device
from lemis.engine.run import messages, write_text
from lemis.errors import UsageError
from lemis.measure.tables import count
from lemis.settings import resolve

RECORD = "predictions.json"


def predict(
    runs: Path | Sequence[Path],
    *,
    inputs: Path | None = None,
    scans: Sequence[str] | None = None,
    output: Path | None = None,
    device: str = "auto",
) -> Path:
    """Write one label map per scan: on its image's own grid, in its format, with its own label values.

    Args:
        runs: A fine-tuned run, or several whose probabilities are averaged.
        inputs: A scan or a folder of scans; by default the scans of the work folder that the runs lie in.
        scans: Ids; by default those of the work folder that no run was trained on, or all of ``inputs``.
        output: Folder for the label maps; ``WORK/predictions`` by default.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The folder. ``predictions.json`` there says which runs made each map, and what they were trained on.

    Raises:
        UsageError: Runs that do not belong together, or no scan to predict.
    """
    console = messages()
    runs = [runs] if isinstance(runs, Path) else list(runs)
    target = torch.device(chosen_device(device))
    networks, facts = _load(runs, target)
    work = runs[0].parent.parent
    index = index_file.load(work / "index.json") if inputs is None else scan_folder(inputs)
    output = output or work / "predictions"
    output.mkdir(parents=True, exist_ok=True)
    record = _read_record(output)
    chosen = _chosen(index, scans, facts, all_of_them=inputs is not None)
    made_by = {
        "runs": [run.name for run in runs],
        "weights": [_digest(run / "model.safetensors") for run in runs],
        "labelled_subjects": sorted({s for f in facts for s in f["labelled_subjects"]}),
    }
    wanted = {scan.id: {**made_by, "images": _stamps(index, scan)} for scan in chosen}
    waiting = [scan for scan in chosen if not _is_made(record["scans"].get(scan.id), wanted[scan.id], output)]
    if not waiting:
        console.print(f"{output}: nothing to do")
        return output
    names = " + ".join(made_by["runs"])
    for scan in track(waiting, f"predicting with {names}", console=console, disable=not console.is_terminal):
        file = _predict_one(scan, index, networks, facts[0], output, target)
        record["scans"][scan.id] = {"file": file.name, **wanted[scan.id]}
        _write_record(output, record, facts)
    console.print(f"predicted {count(len(waiting), 'scan')} with {names}: {output}")
    return output


def _load(runs: Sequence[Path], device: torch.device) -> tuple[list[Backbone], list[dict[str, Any]]]:
    loaded = [load_network(run, device) for run in runs]
    facts = [fact for _, fact in loaded]
    for fact, run in zip(facts, runs, strict=True):
        for key in ("channels", "label_values", "prepared"):
            if fact[key] != facts[0][key]:
                raise UsageError(
                    f"{runs[0]} and {run} differ in {key}: {facts[0][key]} and {fact[key]}",
                    allowed="an ensemble of runs from one prepared data set",
                    next=f"lemis predict {run}",
                )
    return [network for network, _ in loaded], facts


def _chosen(
    index: Index, scans: Sequence[str] | None, facts: Sequence[dict[str, Any]], *, all_of_them: bool
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
    seen = {subject for fact in facts for subject in fact["labelled_subjects"]}
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
    facts: dict[str, Any],
    output: Path,
    device: torch.device,
) -> Path:
    if len(index.channels) != len(facts["channels"]):
        raise UsageError(
            f"scans with {len(index.channels)} channels ({', '.join(index.channels)})",
            allowed=f"the {len(facts['channels'])} the run was trained on: {', '.join(facts['channels'])}",
            next="give scans with the same channels in the same order",
        )
    settings = resolve(preprocess.Settings, facts["prepared"])
    image = read_image(index, scan)
    described = preprocess.describe(
        id=scan.id, subject=scan.subject, images=scan.images, label=None, shape=image.source.canonical_shape,
        spacing_mm=image.spacing_mm, slice_axis=scan.slice_axis, settings=settings,
    )  # fmt: skip
    slices, described = preprocess.prepare_image(image.array, described, settings)
    classes = predict_scan(networks, slices, described, device)
    labels = preprocess.from_classes(classes, facts["label_values"])
    source = index_file.locate(index, scan.images[0])
    return volume.write_labels(labels, image.source, output / f"{scan.id}{volume.label_suffix(source)}")


def _read_record(output: Path) -> dict[str, Any]:
    path = output / RECORD
    record: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"version": 1, "scans": {}}
    )
    return record


def _write_record(output: Path, record: dict[str, Any], facts: Sequence[dict[str, Any]]) -> None:
    before = set(record.get("pretraining_subjects", []))
    record["pretraining_subjects"] = sorted(before.union(*(fact["pretraining_subjects"] for fact in facts)))
    write_text(output / RECORD, json.dumps(record, indent=1))


def _is_made(entry: dict[str, Any] | None, wanted: dict[str, Any], output: Path) -> bool:
    if entry is None or not (output / entry["file"]).exists():
        return False
    return all(entry.get(key) == value for key, value in wanted.items())


def _digest(file: Path) -> str:
    # A run that was made again under its old name makes its predictions anew.
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]


def _stamps(index: Index, scan: Scan) -> list[list[Any]]:
    """Path, time and size of each file of a scan: another scan of the same name is predicted anew."""
    files = [index_file.locate(index, file) for file in scan.images]
    return [[str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size] for file in files]
