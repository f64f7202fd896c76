"""What ``predictions.json`` says of label maps: by what they were made, and whether that has changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.formats.paths import stamp
from lemis.prediction import tiles
from lemis.prediction.ensemble import Ensemble
from lemis.runs.material import digest_of_file
from lemis.work_files.predictions import Prediction, Predictions
from lemis.work_files.run import WEIGHTS


def wanted(ensemble: Ensemble, index: Index, scans: Sequence[Scan]) -> dict[str, Prediction]:
    """All that decides on a label map, by scan: where a record says the same, the map is made."""
    made_by: dict[str, Any] = {
        "runs": tuple(run.name for run in ensemble.runs),
        # A run that was made again under its old name makes its predictions anew.
        "weights": tuple(digest_of_file(run / WEIGHTS) for run in ensemble.runs),
        "labelled_subjects": tuple(sorted({one for model in ensemble.models for one in model.learned_from})),
        "mirrored": ensemble.mirrored,
        "kept": ensemble.kept,
        **({} if ensemble.patch_px is None else {"tiles": _tiles(ensemble.patch_px, ensemble.settings)}),
    }
    return {scan.id: Prediction(**made_by, images=_stamps(index, scan)) for scan in scans}


def is_made(entry: Prediction | None, wanted: Prediction, output: Path) -> bool:
    """Whether a label map is there, and would become the same again.

    Args:
        entry: What the record of the folder says.
        wanted: What it is to say.
        output: The folder.
    """
    if entry is None or entry.file is None or entry.digest is None or not (output / entry.file).exists():
        return False  # an older record without a digest: nobody knows whose scan it is
    return all(getattr(entry, name) == getattr(wanted, name) for name in wanted.model_fields_set)


def beside_map(ensemble: Ensemble, index: Index, scans: Sequence[Scan], foreign: str | None) -> dict[str, Prediction]:
    """What a record says, by scan, that does not decide on the label map; it may change without the map.

    Args:
        ensemble: The networks.
        index: Of the scans.
        scans: Of ``index``.
        foreign: The folder that they are from, where that is not the work folder's own.
    """
    seen = tuple(sorted({subject for model in ensemble.models for subject in model.pretraining_subjects}))
    unlabelled = tuple(sorted({subject for model in ensemble.models for subject in model.unlabelled_subjects}))
    are_known = all(model.start_is_known for model in ensemble.models)
    return {
        scan.id: Prediction(
            scan=located(index, scan), inputs=foreign, pretraining_subjects=seen if are_known else None,
            unlabelled_subjects=unlabelled,
        )
        for scan in scans
    }  # fmt: skip


def shared(ensemble: Ensemble, index: Index) -> Predictions:
    """What the record says of all label maps of these networks."""
    named = zip(ensemble.model.label_names, ensemble.model.label_values, strict=True)
    return Predictions(
        version=1,
        structures={name: value for name, value in named if value},
        ignored_values=tuple(sorted({value for model in ensemble.models for value in model.ignored_values})),
        known_labels=dict(ensemble.known.labels),
        run_folders={run.name: str(run.resolve()) for run in ensemble.runs},
        channels=index.channels,
        layout=index.layout,
        frame=index.frame,
    )


def located(index: Index, scan: Scan) -> Scan:
    """The scan with whole paths."""
    images = tuple(str(index_file.locate(index, image).resolve()) for image in scan.images)
    label = None if scan.label is None else str(index_file.locate(index, scan.label).resolve())
    return dataclasses.replace(scan, images=images, label=label)


def _tiles(patch_px: Sequence[int], settings: tiles.Settings) -> dict[str, Any]:
    # Whatever a prediction depends on; the number of tiles in a forward pass is not among it.
    names = [one.name for one in dataclasses.fields(tiles.Settings) if one.name != "at_once"]
    return {"patch_px": list(patch_px), **{name: getattr(settings, name) for name in names}}


def _stamps(index: Index, scan: Scan) -> tuple[tuple[str, str], ...]:
    """Path and stamp of each file of a scan: another scan of the same name is predicted anew."""
    images = [index_file.locate(index, image) for image in scan.images]
    return tuple((str(image.resolve()), stamp(image)) for image in images)
