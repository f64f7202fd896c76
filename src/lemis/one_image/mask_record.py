"""The record beside the mask of one image, and how well the mask and the clusters match a reference.

    mask.png  mask.labels.png  mask.overlay.png (or a folder of them)  mask.json

The record, ``mask.json``, is written last: where it is there, so is all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis import files
from lemis.formats import volume
from lemis.measure import clusters
from lemis.measure.choosing import Choice
from lemis.measure.clusters import Overlap, Protocol
from lemis.one_image import single_image
from lemis.one_image.image_request import Job
from lemis.one_image.single_image import Stack, beside
from lemis.runs.run import environment
from lemis.work_files import one_image
from lemis.work_files.one_image import Agreement, Divided, MadeFrom, MaskRecord, Means, Names, Slice, SliceScores

Array = NDArray[Any]


class Masked(NamedTuple):
    """The slices of an image with the clusters chosen in each."""

    slices: tuple[Slice, ...]  # what is known of each; its scores where there is a reference
    masks: dict[int, Array]  # (H, W) of 0 and 1 by slice number


# ----------------------------------------------------------------------------------------------------------- files


def stored(mask: Path) -> MaskRecord | None:
    """The record beside a mask; None where there is none. Raises like ``work_files.one_image.read``."""
    return one_image.read(beside(mask, "", ".json"))


def is_made(record: MaskRecord | None, made_from: MadeFrom, mask: Path) -> bool:
    """Whether the label map beside the mask is what would be made now."""
    return record is not None and record.made_from == made_from and beside(mask, ".labels").is_file()


def label_map(record: MaskRecord, job: Job) -> dict[int, Array]:
    """The stored clusters (H, W) by slice number."""
    found = single_image.read_labels(beside(job.mask, ".labels"), job.stack)
    return {one.slice: found[one.slice] for one in record.slices}


def write(
    job: Job, clusters_of: Mapping[int, Array], masked: Masked, by: str, pictures: Mapping[str, bytes]
) -> MaskRecord:
    """Write everything, the record last.

    Args:
        job: The image.
        clusters_of: (H, W) clusters by slice number.
        masked: What was chosen among them.
        by: By whom, in words.
        pictures: PNG files by name, one per slice, to look at.

    Returns:
        The record.
    """
    labels_path = beside(job.mask, ".labels")
    pictured = beside(job.mask, ".overlay", ".png" if len(pictures) == 1 else "")
    record = MaskRecord(
        version=1,
        image=str(job.image),
        made_from=job.made_from,
        notes=tuple(job.stack.notes),
        left_empty=tuple(job.stack.constant),
        chosen_by=by,
        slices=masked.slices,
        means=means(masked.slices),
        files=Names(mask=job.mask.name, labels=labels_path.name, overlay=pictured.name),
        environment=environment(),
    )
    source = job.stack.source
    volume.write_labels(single_image.on_grid(job.stack, clusters_of), source, labels_path)
    for name, png in pictures.items():
        picture = pictured if len(pictures) == 1 else pictured / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        files.write(picture, png)
    volume.write_labels(single_image.on_grid(job.stack, masked.masks), source, job.mask)
    one_image.write(beside(job.mask, "", ".json"), record)
    return record


# ---------------------------------------------------------------------------------------------------------- scores


def reference(path: Path | None, stack: Stack) -> dict[int, Array] | None:
    """The object (H, W) in a label map, by slice number: all that is not 0. Raises like ``read_labels``."""
    if path is None:
        return None
    return {number: plane != 0 for number, plane in single_image.read_labels(path, stack).items()}


def masked(
    found: Iterable[Divided], clusters_of: Mapping[int, Array], chosen: Choice, marked: Mapping[int, Array] | None,
    protocol: Protocol,
) -> Masked:  # fmt: skip
    """Lay the chosen clusters into masks and score them.

    Args:
        found: What is known of each slice.
        clusters_of: (H, W) clusters by slice number.
        chosen: The clusters in the mask, by slice number.
        marked: The reference by slice number, None where there is none.
        protocol: How the best-overlap cluster is scored.
    """
    masks = {number: np.isin(clusters_of[number], chosen[number]).astype(np.int64) for number in chosen}
    slices = []
    for one in found:
        facts = {**_unscored(one), "chosen": chosen[one.slice], "mask_share": float(masks[one.slice].mean())}
        scores = _scores(one, clusters_of, masks, marked, protocol)
        slices.append(Slice(**facts) if scores is None else Slice(**facts, scores=scores))
    return Masked(tuple(slices), masks)


def scored_again(record: MaskRecord, job: Job | None, path: Path | None, protocol: Protocol) -> MaskRecord:
    """The record of a finished image, whose choice may have been a person's, with its scores anew.

    Args:
        record: As stored.
        job: The image, opened; None where there is no reference.
        path: The reference.
        protocol: How to score.
    """
    slices = tuple(Slice(**_unscored(one)) for one in record.slices)
    if job is not None:
        planes = label_map(record, job)
        chosen = {one.slice: one.chosen for one in record.slices}
        slices = masked(record.slices, planes, chosen, reference(path, job.stack), protocol).slices
    return record.model_copy(update={"slices": slices, "means": means(slices)})


def means(slices: Iterable[Slice]) -> Means | None:
    """Plain means over scored slices, as the papers average over images; None where none is scored."""
    scored = [one.scores for one in slices if one.scores is not None]
    if not scored:
        return None
    return Means(
        protocol=scored[0].protocol,
        what=clusters.PROTOCOLS[scored[0].protocol],
        scored=len(scored),
        best=_mean(scored),
        chosen=_mean([one.chosen for one in scored]),
    )


def _mean(scores: Sequence[SliceScores] | Sequence[Agreement]) -> Agreement:
    return Agreement(**{name: float(np.mean([getattr(one, name) for one in scores])) for name in Overlap._fields})


def _unscored(found: Divided) -> dict[str, Any]:
    """All that is known of a slice but its scores."""
    return {name: value for name, value in found if name != "scores"}


def _scores(
    found: Divided, clusters_of: Mapping[int, Array], masks: Mapping[int, Array], marked: Mapping[int, Array] | None,
    protocol: Protocol,
) -> SliceScores | None:  # fmt: skip
    """Of one slice, None where its reference is empty."""
    number = found.slice
    if marked is None or not marked[number].any():
        return None
    # A cluster that is shown in two parts is one to the method, and is scored whole.
    names = np.array([0, *(cluster.network_label for cluster in found.clusters)])
    wanted, labels = marked[number], names[clusters_of[number]]
    if protocol == "released":  # at the size that the method worked at
        labels = single_image.nearest(labels, found.worked_at_px)
        wanted = single_image.nearest(wanted, found.worked_at_px)
    best = clusters.best(labels, wanted, protocol)
    mine = clusters.overlap(masks[number] != 0, marked[number])
    if best is None or mine is None:  # a reference so small that it vanishes at the working size
        return None
    cluster = best.cluster
    if cluster is not None:
        cluster = next(one.label for one in found.clusters if one.network_label == cluster)
    return SliceScores(
        protocol=protocol, best_cluster=cluster, **_rounded(best.overlap), chosen=Agreement(**_rounded(mine))
    )


def _rounded(overlap: Overlap) -> dict[str, float]:
    return {name: round(value, 6) for name, value in overlap._asdict().items()}
