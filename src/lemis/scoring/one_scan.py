"""One label map against its reference, on the reference's own grid; many at once, in threads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis import terminal
from lemis.datasets.scans import label_digest
from lemis.errors import DataFault
from lemis.formats import labels as label_maps
from lemis.formats import volume
from lemis.formats.grids import corner_distance_mm
from lemis.measure import scores
from lemis.scoring.cases import Case
from lemis.work_files.evaluation import IN_MM, CaseScore


class Scored(NamedTuple):
    """The scores of one scan, and what they were computed with."""

    rows: tuple[CaseScore, ...]  # one for each structure
    farthest_mm: float  # the diagonal of the image, beyond which no distance lies
    label_digest: str  # of the reference, as ``Facts.label_digest``
    named_otherwise: tuple[str, ...]  # values that a file of it and the data set name differently, in words


class How(NamedTuple):
    """How all scans are scored."""

    structures: Mapping[str, int]
    ignored: Sequence[int]  # values that count as background
    millimetres: bool
    settings: scores.Settings


def score_all(cases: Sequence[Case], how: How, jobs: int | None) -> list[Scored]:
    """Every scan, in the order of ``cases``.

    Args:
        cases: What to score.
        how: What holds for all of them.
        jobs: Threads; by default one per core.

    Raises:
        DataFault: As of ``score``.
    """
    # Threads: reading and the distance transforms are C code that lets go of the interpreter.
    out = terminal.console(stderr=True)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        results = pool.map(partial(score, how=how), cases)
        with terminal.progress(out, "scoring", transient=True) as bar:
            return list(bar.track(results, total=len(cases)))


class Maps(NamedTuple):
    """A label map and its reference on one grid, without values that are ignored."""

    prediction: NDArray[np.int64]
    reference: NDArray[np.int64]
    file: volume.Volume  # of the reference
    named_otherwise: tuple[str, ...]  # as of ``Scored``


def read(case: Case, structures: Mapping[str, int], ignored: Sequence[int]) -> Maps:
    """Both label maps of a scan.

    Args:
        case: Which.
        structures: Names and values that they may hold.
        ignored: Values that count as background.

    Raises:
        DataFault: The label map is on another grid than its reference, or has values that no structure has.
    """
    reference = label_maps.single(volume.read_label(case.reference))
    prediction = label_maps.single(volume.read(case.prediction, reference.source.axes))
    otherwise = tuple(
        f"{label.source.path.name}: {said}"
        for label in (prediction, reference)
        for said in label_maps.named_otherwise(label.source.segments, structures)
    )
    reference, prediction = (
        label_maps.renumbered(label, structures) for label in label_maps.together(reference, prediction)
    )
    _refuse_other_grid(case, prediction, reference)
    maps = _structured(prediction, ignored), _structured(reference, ignored)
    for labels, path in zip(maps, (case.prediction, case.reference), strict=True):
        unknown = sorted({int(value) for value in np.unique(labels)} - {0, *structures.values()})
        if unknown:
            raise DataFault(
                f"{path} holds the value{'s' if len(unknown) > 1 else ''} {', '.join(map(str, unknown))}",
                allowed=", ".join(f"{value} ({name})" for name, value in {"background": 0, **structures}.items()),
                next="name the values in the dataset.json of the scans and run `lemis check` again, or, without a work "
                "folder, in one beside the references; or repair the file",
            )
    return Maps(*maps, reference, otherwise)


def score(case: Case, *, how: How) -> Scored:
    """One scan.

    Raises:
        DataFault: As of ``read``.
    """
    prediction, mask, reference, otherwise = read(case, how.structures, how.ignored)
    labels = label_maps.whole(reference.array, case.reference)
    found = scores.score_structures(prediction, mask, how.structures, reference.spacing_mm, how.settings)
    voxel_ml = abs(float(np.linalg.det(reference.affine[:3, :3]))) / 1000 if how.millimetres else math.nan
    return Scored(
        tuple(_row(case, name, result, voxel_ml, how.millimetres) for name, result in found.items()),
        scores.diagonal_mm(reference.array.shape[:3], reference.spacing_mm),
        label_digest(labels),
        otherwise,
    )


def _structured(scan: volume.Volume, ignored: Sequence[int]) -> NDArray[np.int64]:
    labels = label_maps.whole(scan.array, scan.source.path).astype(np.int64)
    return np.where(np.isin(labels, ignored), 0, labels) if ignored else labels


def _row(case: Case, structure: str, result: scores.Score, voxel_ml: float, millimetres: bool) -> CaseScore:
    return CaseScore(
        scan=case.scan,
        subject=case.subject,
        structure=structure,
        dice=result.dice,
        **{name: getattr(result, name) if millimetres else math.nan for name in IN_MM},
        reference_ml=result.reference_voxels * voxel_ml,
        predicted_ml=result.predicted_voxels * voxel_ml,
        status=result.status,
    )


def _refuse_other_grid(case: Case, prediction: volume.Volume, reference: volume.Volume) -> None:
    shapes = prediction.array.shape[:3], reference.array.shape[:3]
    # A tenth of a voxel: far above the rounding of float32 headers, far below what a person could correct.
    tolerance = 0.1 * min(reference.spacing_mm)
    if shapes[0] == shapes[1]:
        apart = corner_distance_mm(prediction.affine, reference.affine, reference.source.canonical_shape)
        if apart <= tolerance:
            return
        seen = f"{case.prediction} and {case.reference} lie {apart:.3g} mm apart"
    else:
        seen = f"{case.prediction} has shape {shapes[0]}, {case.reference} {shapes[1]}"
    raise DataFault(
        seen,
        allowed="prediction and reference on one grid (shape and affine)",
        next="predict again on the scan that the reference was drawn on (`lemis predict` keeps its grid)",
    )
