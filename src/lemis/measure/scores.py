"""How well a prediction matches a reference: Dice, HD95, ASSD and NSD per structure, in millimetres.

Surface metrics crop to the union of the two masks and use SciPy's exact Euclidean distance transform on
surface voxels. Tools differ by several per cent in these numbers because they define them differently: both usual
forms of HD95 and of ASSD are computed, and ``DEFINITIONS`` goes into every output. Spacing is the length of each
column of the affine; for an oblique scan that is exact, for a sheared one it ignores the shear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]
Status = Literal["scored", "missed", "invented", "absent"]

DEFINITIONS = {
    "dice": "2 |P and R| / (|P| + |R|) over the voxels of one scan, on the reference's own grid",
    "surface": "voxels of a mask with a face neighbour outside it; the border of the image counts as "
    "outside; axes along which the image is one voxel are left out",
    "hd95_mm": "maximum of the two directed 95th percentiles (linear interpolation) of surface-voxel "
    "distances, every surface voxel counted once (as MONAI)",
    "assd_mm": "mean of the distances of all surface voxels of both masks, pooled (as MONAI, and medpy since 0.5.2)",
    "hd95_pooled_mm": "95th percentile (linear interpolation) of the distances of all surface voxels of both "
    "masks, pooled (as medpy)",
    "assd_of_means_mm": "mean of the two directed mean distances (as medpy before 0.5)",
    "nsd": "share of the surface voxels of both masks within the tolerance of the other surface",
    "spacing": "lengths of the columns of the affine; shear is ignored",
    "empty": "both masks empty: absent, not scored; reference only: missed; prediction only: invented; "
    "missed and invented have Dice 0, NSD 0 and distances equal to the diagonal of the image, and are in "
    "every mean",
}
PAPER_DEFINITION = (
    "2 I / (P + L + eps) per structure with counts pooled over all slices of the test subjects, on the "
    "network's grid; mean over the foreground structures; a structure absent from both counts 0"
)

# Distances come from decimals such as 0.1 mm: one that equals the tolerance must not be lost to rounding.
_ROUNDING_MM = 1e-6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How predictions are scored."""

    tolerance_mm: Annotated[float, Field(gt=0)] = 2.0  # none is agreed on; choose how far readers differ


class Score(NamedTuple):
    """One structure of one scan. NaN where the structure is absent."""

    status: Status
    dice: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    hd95_pooled_mm: float
    assd_of_means_mm: float
    reference_voxels: int
    predicted_voxels: int


class PooledDice(NamedTuple):
    """The papers' number; ``dice`` holds the foreground classes 1 ... n - 1."""

    dice: tuple[float, ...]
    mean: float


def score(prediction: Mask, reference: Mask, spacing_mm: Sequence[float], *, tolerance_mm: float = 2.0) -> Score:
    """Score one structure.

    Args:
        prediction: (X, Y, Z) or (X, Y) mask.
        reference: Mask of the same shape.
        spacing_mm: Size of a voxel along each axis.
        tolerance_mm: Surface voxels nearer than this to the other surface are right for NSD.
    """
    predicted, wanted = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    if not predicted and not wanted:
        return _unmatched("absent", np.nan, np.nan, wanted, predicted)
    if not predicted or not wanted:
        worst = diagonal_mm(reference.shape, spacing_mm)
        return _unmatched("invented" if predicted else "missed", 0.0, worst, wanted, predicted)
    dice = 2 * int(np.count_nonzero(prediction & reference)) / (predicted + wanted)
    to_reference, to_prediction = surface_distances_mm(prediction, reference, spacing_mm)
    both = np.concatenate([to_reference, to_prediction])
    return Score(
        "scored",
        dice=dice,
        hd95_mm=float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        assd_mm=float(both.mean()),
        nsd=float((both <= tolerance_mm + _ROUNDING_MM).mean()),
        hd95_pooled_mm=float(np.percentile(both, 95)),
        assd_of_means_mm=float((to_reference.mean() + to_prediction.mean()) / 2),
        reference_voxels=wanted,
        predicted_voxels=predicted,
    )


def score_structures(
    prediction: Labels,
    reference: Labels,
    structures: Mapping[str, int],
    spacing_mm: Sequence[float],
    settings: Settings | None = None,
) -> dict[str, Score]:
    """Score every structure of a label map; ``structures`` maps names to values, background left out."""
    tolerance_mm = (settings or Settings()).tolerance_mm
    return {
        name: score(prediction == value, reference == value, spacing_mm, tolerance_mm=tolerance_mm)
        for name, value in structures.items()
    }


def surface_distances_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from each surface voxel of the prediction to the reference's surface, and the other way.

    Neither mask may be empty.
    """
    from scipy import ndimage  # here, as a refusal needs none of it, and it takes longer to import than all else

    # In an image of a single slice every voxel would touch "outside" across the slice axis and be surface.
    thin = tuple(axis for axis, size in enumerate(reference.shape) if size == 1)
    spacing = [mm for axis, mm in enumerate(spacing_mm) if axis not in thin]
    if not spacing:
        return np.zeros(1), np.zeros(1)
    prediction, reference = prediction.squeeze(thin), reference.squeeze(thin)
    box = _union_box(prediction, reference)
    surface_p, surface_r = _surface(prediction[box]), _surface(reference[box])
    far_from_p = ndimage.distance_transform_edt(~surface_p, sampling=spacing)
    far_from_r = ndimage.distance_transform_edt(~surface_r, sampling=spacing)
    return far_from_r[surface_p], far_from_p[surface_r]


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the diagonal of the image: what a missed or invented structure costs in distance."""
    return float(np.linalg.norm(np.asarray(shape) * np.asarray(spacing_mm)))


def pooled_dice(pairs: Iterable[tuple[Labels, Labels]], num_classes: int) -> PooledDice:
    """Dice of the ``paper`` protocol, as in ``PAPER_DEFINITION``.

    Args:
        pairs: (prediction, reference) class indices of equal shape, one pair per slice or scan, any shapes.
        num_classes: Classes with the background.
    """
    both = np.zeros(num_classes, dtype=np.int64)
    total = np.zeros(num_classes, dtype=np.int64)
    for prediction, reference in pairs:
        both += np.bincount(reference[prediction == reference].ravel(), minlength=num_classes)
        total += np.bincount(prediction.ravel(), minlength=num_classes)
        total += np.bincount(reference.ravel(), minlength=num_classes)
    dice = 2 * both[1:] / (total[1:] + np.finfo(float).eps)
    return PooledDice(tuple(float(value) for value in dice), float(dice.mean()))


def _unmatched(status: Status, overlap: float, distance_mm: float, wanted: int, predicted: int) -> Score:
    # Of masks that have no pair of surfaces: one value for Dice and NSD, one for every distance.
    return Score(status, overlap, distance_mm, distance_mm, overlap, distance_mm, distance_mm, wanted, predicted)


def _surface(mask: Mask) -> Mask:
    from scipy import ndimage

    surface: Mask = mask & ~ndimage.binary_erosion(mask)
    return surface


def _union_box(first: Mask, second: Mask) -> tuple[slice, ...]:
    union = first | second
    box = []
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        filled = np.flatnonzero(union.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
