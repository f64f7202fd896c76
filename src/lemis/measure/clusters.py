"""Clusters of one unlabelled image: which of them may be the object, and how well it matches a reference.

Scores of a mask A and a reference G, with I = #(A and G) and U = #(A or G), as the papers on single images print them:

    DSC = 2 I / (#A + #G)        HM = (U - I) / U  (Hammoude distance, 1 - Jaccard)        XOR = (U - I) / #G

HM <= XOR always; XOR may exceed 1. An image with an empty reference is not scored; an empty mask has DSC 0, HM 1 and
XOR 1.

The object is proposed without a reference, by the largest product

    score = (1 - border) * contrast * compactness * min(1, share / least_share)

- border: share of the pixels along the image's border that are the cluster's. The background goes round the object.
- contrast: d / (1 + d), where d is the distance of the cluster's mean colour from that of all other pixels, in standard
  deviations of the image (root mean square over channels).
- compactness: A / (2 pi v) of each connected piece, A its area and v the variance of its pixels' places (1 for a disc,
  less for anything longer, hollow or ragged), mean over pieces by area, times the share of the cluster that an opening
  with a 3 x 3 square leaves (so that specks do not count as small discs).
- share: of the image. Less than ``least_share`` is more often a speck than the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Protocol = Literal["honest", "released"]

PROTOCOLS: dict[str, str] = {
    "honest": "the cluster that overlaps the reference most, whole",
    "released": "as the authors' code: cluster 0 of the network never, and only what lies within 4 pixels of the "
    "reference (dilated by 5 x 5 twice), so that false positives farther away vanish",
}
_SQUARE = np.ones((3, 3), dtype=bool)
_PIXEL_VARIANCE = 1 / 6  # of the places inside one pixel, both axes: without it a single pixel has none


class Overlap(NamedTuple):
    """How a mask meets a reference, each as a fraction."""

    dice: float
    hammoude: float
    xor: float


class Best(NamedTuple):
    """The cluster that meets a reference best; ``cluster`` is None where none may be chosen."""

    cluster: int | None
    overlap: Overlap


class Cluster(NamedTuple):
    """What can be said of a cluster without a reference."""

    label: int
    share: float  # of the image
    border: float  # share of the image's border that it holds
    distance: float  # d, in standard deviations
    contrast: float
    compactness: float
    score: float


class Proposal(NamedTuple):
    """Which cluster may be the object; None where there is only one."""

    label: int | None
    clusters: tuple[Cluster, ...]  # largest first
    reason: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the object is proposed."""

    least_share: Annotated[float, Field(gt=0, le=1)] = 0.005  # 18 x 18 of 256 x 256 pixels
    # Share of the border from which a cluster is a background too: nuclei that the border cuts held up to 0.32 of it,
    # dark corners of photographs 0.42, the air of CT 0.83 and more; `lemis segment-one` prints it for each cluster.
    surrounds: Annotated[float, Field(gt=0, le=1)] = 0.4


# ---------------------------------------------------------------- with a reference


def overlap(mask: Mask, reference: Mask) -> Overlap | None:
    """DSC, HM and XOR of two masks of one shape; None where the reference is empty."""
    wanted = int(np.count_nonzero(reference))
    if wanted == 0:
        return None
    found, both = int(np.count_nonzero(mask)), int(np.count_nonzero(mask & reference))
    either = found + wanted - both
    return Overlap(2 * both / (found + wanted), (either - both) / either, (either - both) / wanted)


def best(labels: Array, reference: Mask, protocol: Protocol = "honest") -> Best | None:
    """Score the cluster that shares most pixels with the reference.

    Args:
        labels: (H, W) integers >= 0, the numbers that the method gave.
        reference: (H, W).
        protocol: One of ``PROTOCOLS``.

    Returns:
        None where the reference is empty.
    """
    from scipy import ndimage  # here, as a refusal needs none of it, and it takes longer to import than all else

    if not reference.any():
        return None
    shared = np.bincount(labels[reference])
    if protocol == "released":
        shared[0] = 0
    cluster = int(shared.argmax()) if shared.any() else None
    mask: Mask = labels == cluster if cluster is not None else np.zeros_like(reference)
    if protocol == "released":
        mask = mask & ndimage.binary_dilation(reference, np.ones((5, 5), dtype=bool), iterations=2)
    scored = overlap(mask, reference)
    assert scored is not None
    return Best(cluster, scored)


# ---------------------------------------------------------------- without one


def numbered(labels: Array) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Any labels -> the same clusters as 1, 2, ... from the largest to the smallest, and the label each had."""
    names, where, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(1, len(names) + 1)
    return rank[where.reshape(labels.shape)], tuple(int(names[k]) for k in order)


def separated(labels: Array, settings: Settings | None = None) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """As ``numbered``, but a cluster that goes round the image is two: what touches the border, and what lies inside.

    The air round a patient looks like the air in the lungs, and the dark corners of a photograph like a mole. Pieces
    inside stay with their cluster where they hold less than ``least_share`` of the image, or where the cluster holds
    less than ``surrounds`` of the border: then it is objects, some of which are cut by the border.

    Args:
        labels: (H, W) integers.
        settings: Of the rule.

    Returns:
        The clusters as 1, 2, ... from the largest to the smallest, and the label each had; both parts had the same.
    """
    from scipy import ndimage

    settings = settings or Settings()
    first, names = numbered(labels)
    apart = first.copy()
    for number in range(1, len(names) + 1):
        mask = first == number
        if _border(mask) < settings.surrounds:
            continue
        pieces, _ = ndimage.label(mask)
        outside = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
        inside = mask & ~np.isin(pieces, outside)
        if inside.mean() >= settings.least_share:
            apart[inside] = number + len(names)
    parts, before = numbered(apart)
    return parts, tuple(names[(number - 1) % len(names)] for number in before)


def propose(image: Array, labels: Array, settings: Settings | None = None) -> Proposal:
    """Say which cluster may be the object.

    Args:
        image: (C, H, W).
        labels: (H, W) integers.
        settings: Of the rule.
    """
    settings = settings or Settings()
    names, sizes = np.unique(labels, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    found = tuple(_describe(image, labels == names[k], int(names[k]), settings) for k in order)
    if len(found) == 1:
        return Proposal(None, found, "all pixels have one label, so there is no object to propose")
    ranked = sorted(found, key=lambda cluster: cluster.score, reverse=True)
    return Proposal(ranked[0].label, found, _reason(ranked))


def _describe(image: Array, mask: Mask, label: int, settings: Settings) -> Cluster:
    share = float(mask.mean())
    border, distance, compactness = _border(mask), _distance(image, mask), _compactness(mask)
    contrast = distance / (1 + distance)
    score = (1 - border) * contrast * compactness * min(1.0, share / settings.least_share)
    return Cluster(label, share, border, distance, contrast, compactness, score)


def _border(mask: Mask) -> float:
    along = np.ones_like(mask)
    along[1:-1, 1:-1] = False
    return float(mask[along].mean())


def _distance(image: Array, mask: Mask) -> float:
    if mask.all():
        return 0.0
    values = image.astype(np.float64)
    spread = values.std(axis=(1, 2))
    apart = values[:, mask].mean(axis=1) - values[:, ~mask].mean(axis=1)
    there = spread > 0
    return float(np.sqrt(np.mean((apart[there] / spread[there]) ** 2))) if there.any() else 0.0


def _compactness(mask: Mask) -> float:
    from scipy import ndimage

    pieces, count = ndimage.label(mask)
    which = pieces[mask] - 1
    area = np.bincount(which, minlength=count).astype(np.float64)
    variance = np.full(count, _PIXEL_VARIANCE)
    for places in np.nonzero(mask):
        mean = np.bincount(which, weights=places, minlength=count) / area
        variance += np.bincount(which, weights=(places - mean[which]) ** 2, minlength=count) / area
    discs = float(np.average(np.minimum(1.0, area / (2 * np.pi * variance)), weights=area))
    # Beyond the image the cluster goes on: an object cut by the border is no smaller for it.
    padded = np.pad(mask, 1, mode="edge")
    kept = ndimage.binary_opening(padded, _SQUARE)[1:-1, 1:-1] & mask
    return discs * float(kept.sum() / mask.sum())


def _reason(ranked: list[Cluster]) -> str:
    first, second = ranked[:2]
    part = "less than 1%" if first.border < 0.005 else f"{first.border:.0%}"
    touch = "does not touch the image's border" if first.border == 0 else f"holds {part} of the image's border"
    return (
        f"it {touch}, differs from the other pixels by {first.distance:.1f} standard deviations and has compactness "
        f"{first.compactness:.2f} (a disc: 1); score {first.score:.2f}, the next one (cluster {second.label}) "
        f"{second.score:.2f}"
    )
