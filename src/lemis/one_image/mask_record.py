"""The record beside the mask of one image, and how well the mask and the clusters match a reference.

    mask.png  mask.labels.png  mask.overlay.png (or a folder of them)  mask.json

The record, ``mask.json``, is written last: where it is there, so is all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemis import files
from lemis.errors import UsageError
from lemis.formats import volume
from lemis.measure import clusters
from lemis.measure.choosing import Choice
from lemis.measure.clusters import Overlap, Protocol
from lemis.one_image import single_image
from lemis.one_image.image_request import Facts, Job
from lemis.one_image.single_image import Stack, beside
from lemis.runs.run import environment

Array = NDArray[Any]

VERSION = 1


class Masked(NamedTuple):
    """The slices of an image with the clusters chosen in each."""

    slices: list[Facts]  # what is known of each; its scores where there is a reference
    masks: dict[int, Array]  # (H, W) of 0 and 1 by slice number


# ----------------------------------------------------------------------------------------------------------- files


def stored(mask: Path) -> Facts | None:
    """The record beside a mask; None where there is none.

    Raises:
        UsageError: A file of its name that is none of ours.
    """
    path = beside(mask, "", ".json")
    if not path.is_file():
        return None
    try:
        record: Facts = json.loads(path.read_text(encoding="utf-8"))
        ours = record["version"] == VERSION and "made_from" in record
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UsageError(
            f"{path} is not a record of lemis segment-one",
            allowed="a name for the mask beside which no other file is in the way",
            next=f"move {path.name}, or choose another name after -o",
        )
    return record


def is_made(record: Facts | None, made_from: Facts, mask: Path) -> bool:
    """Whether the label map beside the mask is what would be made now."""
    return record is not None and record["made_from"] == made_from and beside(mask, ".labels").is_file()


def label_map(record: Facts, job: Job) -> dict[int, Array]:
    """The stored clusters (H, W) by slice number."""
    found = single_image.read_labels(beside(job.mask, ".labels"), job.stack)
    return {facts["slice"]: found[facts["slice"]] for facts in record["slices"]}


def write(job: Job, clusters_of: Mapping[int, Array], masked: Masked, by: str, pictures: Mapping[str, bytes]) -> Facts:
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
    record: Facts = {
        "version": VERSION,
        "image": str(job.image),
        "made_from": job.made_from,
        "notes": list(job.stack.notes),
        "left_empty": list(job.stack.constant),
        "chosen_by": by,
        "slices": masked.slices,
        "means": means(masked.slices),
        "files": {"mask": job.mask.name, "labels": labels_path.name, "overlay": pictured.name},
        "environment": environment().model_dump(),
    }
    source = job.stack.source
    volume.write_labels(single_image.on_grid(job.stack, clusters_of), source, labels_path)
    for name, png in pictures.items():
        picture = pictured if len(pictures) == 1 else pictured / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        files.write(picture, png)
    volume.write_labels(single_image.on_grid(job.stack, masked.masks), source, job.mask)
    files.write(beside(job.mask, "", ".json"), json.dumps(record, indent=1) + "\n")
    return record


# ---------------------------------------------------------------------------------------------------------- scores


def reference(path: Path | None, stack: Stack) -> dict[int, Array] | None:
    """The object (H, W) in a label map, by slice number: all that is not 0. Raises like ``read_labels``."""
    if path is None:
        return None
    return {number: plane != 0 for number, plane in single_image.read_labels(path, stack).items()}


def masked(
    found: Sequence[Facts], clusters_of: Mapping[int, Array], chosen: Choice, marked: Mapping[int, Array] | None,
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
    slices = [
        {
            **_unscored(facts),
            "chosen": list(chosen[facts["slice"]]),
            "mask_share": float(masks[facts["slice"]].mean()),
            **_scores(facts, clusters_of, masks, marked, protocol),
        }
        for facts in found
    ]
    return Masked(slices, masks)


def scored_again(record: Facts, job: Job | None, path: Path | None, protocol: Protocol) -> Facts:
    """The record of a finished image, whose choice may have been a person's, with its scores anew.

    Args:
        record: As stored.
        job: The image, opened; None where there is no reference.
        path: The reference.
        protocol: How to score.
    """
    slices = [_unscored(facts) for facts in record["slices"]]
    if job is not None:
        planes = label_map(record, job)
        chosen = {facts["slice"]: tuple(facts["chosen"]) for facts in record["slices"]}
        slices = masked(record["slices"], planes, chosen, reference(path, job.stack), protocol).slices
    return {**record, "slices": slices, "means": means(slices)}


def means(slices: Sequence[Facts]) -> Facts | None:
    """Plain means over scored slices, as the papers average over images; None where none is scored."""
    scored = [facts["scores"] for facts in slices if "scores" in facts]
    if not scored:
        return None
    return {
        "protocol": scored[0]["protocol"],
        "what": clusters.PROTOCOLS[scored[0]["protocol"]],
        "scored": len(scored),
        "best": {name: float(np.mean([one[name] for one in scored])) for name in Overlap._fields},
        "chosen": {name: float(np.mean([one["chosen"][name] for one in scored])) for name in Overlap._fields},
    }


def _unscored(facts: Facts) -> Facts:
    return {key: value for key, value in facts.items() if key != "scores"}


def _scores(
    facts: Facts, clusters_of: Mapping[int, Array], masks: Mapping[int, Array], marked: Mapping[int, Array] | None,
    protocol: Protocol,
) -> Facts:  # fmt: skip
    """Of one slice, nothing where its reference is empty."""
    number = facts["slice"]
    if marked is None or not marked[number].any():
        return {}
    # A cluster that is shown in two parts is one to the method, and is scored whole.
    names = np.array([0, *(cluster["network_label"] for cluster in facts["clusters"])])
    wanted, labels = marked[number], names[clusters_of[number]]
    if protocol == "released":  # at the size that the method worked at
        labels = single_image.nearest(labels, facts["worked_at_px"])
        wanted = single_image.nearest(wanted, facts["worked_at_px"])
    best = clusters.best(labels, wanted, protocol)
    mine = clusters.overlap(masks[number] != 0, marked[number])
    if best is None or mine is None:  # a reference so small that it vanishes at the working size
        return {}
    cluster = best.cluster
    if cluster is not None:
        cluster = next(one["label"] for one in facts["clusters"] if one["network_label"] == cluster)
    return {
        "scores": {"protocol": protocol, "best_cluster": cluster, **_rounded(best.overlap), "chosen": _rounded(mine)}
    }


def _rounded(overlap: Overlap) -> Facts:
    return {name: round(value, 6) for name, value in overlap._asdict().items()}
