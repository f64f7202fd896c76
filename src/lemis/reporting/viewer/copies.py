"""A scan and its label maps made small for display: 8 bits within a window, cropped and halved only where they must.

What is shown is true in place and proportion: a copy keeps the scan's own grid, or one that is twice, four times ... as
coarse, with the affine that belongs to it. It is not what anything is measured on.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Place = tuple[float, float, float]  # mm RAS

MARGIN_MM = 20.0  # left around the structures of a scan that is too large, so that the neighbourhood can be judged
LOW, HIGH = 1.0, 99.5  # percentiles that are shown black and white, as in the pictures of the report
_HALVINGS = 4
_ALIKE = 1.5  # axes whose voxels are no longer than this, of the shortest, are halved together
_FEWEST = 16  # voxels that an axis keeps
_LEAST = 4 / 3 / 5  # characters of a voxel: base64 of a fifth of a byte, which no scan was seen to be packed into


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """What is known of one scan, on one grid."""

    image: Array  # (X, Y, Z) grey
    prediction: NDArray[np.uint8]  # (X, Y, Z) numbers of structures, 0 for none
    reference: NDArray[np.uint8] | None
    affine: NDArray[np.float64]  # (4, 4), voxel -> mm RAS
    kept: tuple[tuple[int, int], ...] = ()  # axis and number of slices that no crop may cut off

    @property
    def structures(self) -> NDArray[np.bool_]:
        """Where any structure is, by either map."""
        found: NDArray[np.bool_] = self.prediction != 0
        return found if self.reference is None else found | (self.reference != 0)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Voxel size along the axes."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One scan as it lies in the page: NIfTI files, gzipped, in base64."""

    image: str
    prediction: str
    reference: str | None
    said: str  # how the copy differs from the scan; empty where it is whole
    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]  # (4, 4), voxel -> mm RAS

    @property
    def size(self) -> int:
        """Characters in the page."""
        return len(self.image) + len(self.prediction) + len(self.reference or "")


def within(maps: Maps, wanted: float, most: float) -> Copy | None:
    """A copy of ``wanted`` characters or less; else the smallest, if that has no more than ``most``; else None.

    First the whole scan, then what lies around its structures, then that in voxels of twice the size, and so on.
    """
    window = _window(maps)
    smaller, around, coarser = maps, "", ""
    for step in range(_HALVINGS + 2):
        if step == 1:
            smaller = cropped(maps)
            around = (
                f"the structures and {MARGIN_MM:g} mm around them" if smaller.image.shape != maps.image.shape else ""
            )
        elif step > 1:
            smaller = halved(smaller)
            coarser = f"voxels of {_millimetres(smaller.spacing_mm)}"
        last = step == _HALVINGS + 1
        if last or smaller.image.size * _LEAST <= wanted:
            copy = _copy(smaller, window, [said for said in (around, coarser) if said])
            if copy.size <= (most if last else wanted):
                return copy
    return None


def cropped(maps: Maps) -> Maps:
    """The box that holds all structures and a margin; the whole where there is none."""
    found = maps.structures
    if not found.any():
        return maps
    box = []
    for axis, mm in enumerate(maps.spacing_mm):
        there = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN_MM / mm))
        kept = [number for across, number in maps.kept if across == axis]
        first, last = min(there[0] - margin, *kept, there[0]), max(there[-1] + margin, *kept, there[-1])
        box.append(slice(max(0, first), min(found.shape[axis], last + 1)))
    corner = np.eye(4)
    corner[:3, 3] = [cut.start for cut in box]
    return _on(maps, tuple(box), maps.affine @ corner)


def _on(maps: Maps, box: tuple[slice, ...], affine: NDArray[np.float64]) -> Maps:
    reference = None if maps.reference is None else maps.reference[box]
    return Maps(image=maps.image[box], prediction=maps.prediction[box], reference=reference, affine=affine)


def halved(maps: Maps) -> Maps:
    """Voxels of twice the size along the finest axes: means of the image, the commonest structure of the label maps.

    A row that is left over at the far end is left out. Of structures that fill as much, the smaller number is kept, and
    any structure rather than none.
    """
    spacing = maps.spacing_mm
    fine = [
        axis for axis in range(3) if spacing[axis] <= _ALIKE * spacing.min() and maps.image.shape[axis] >= 2 * _FEWEST
    ]
    if not fine:
        return maps
    factors = [2 if axis in fine else 1 for axis in range(3)]
    finer = np.diag([*factors, 1]).astype(np.float64)
    finer[:3, 3] = [(factor - 1) / 2 for factor in factors]  # the centre of a block lies between its voxels
    return Maps(
        image=_blocks(maps.image.astype(np.float32), factors).mean(axis=(1, 3, 5)),
        prediction=_commonest(maps.prediction, factors),
        reference=None if maps.reference is None else _commonest(maps.reference, factors),
        affine=maps.affine @ finer,
    )


def _blocks(array: Array, factors: Sequence[int]) -> Array:
    """(X, Y, Z) as (X / f, f, Y / g, g, Z / h, h)."""
    cut = tuple(slice(0, size // factor * factor) for size, factor in zip(array.shape, factors, strict=True))
    sizes = [number for size, factor in zip(array.shape, factors, strict=True) for number in (size // factor, factor)]
    return array[cut].reshape(sizes)


def _commonest(labels: NDArray[np.uint8], factors: Sequence[int]) -> NDArray[np.uint8]:
    blocks = _blocks(labels, factors)
    most = (blocks == 0).sum(axis=(1, 3, 5))
    chosen = np.zeros(most.shape, np.uint8)
    for value in np.unique(labels[labels != 0]):
        filled = (blocks == value).sum(axis=(1, 3, 5))
        better = (filled > most) | ((filled == most) & (chosen == 0) & (filled > 0))
        chosen[better], most[better] = value, filled[better]
    return chosen


# ---------------------------------------------------------------- where to look


def worst_place(
    maps: Maps, slice_axis: int, structure: int | None = None, look_at: tuple[int, int] | None = None
) -> Place:
    """Where reference and prediction differ most, in mm RAS: in the slice with most such voxels, deep inside of them.

    Without a reference, or where the two are the same: in the slice with most of the structure, deep inside of it; in
    the middle of the scan where that is in neither.

    Args:
        maps: Of the scan.
        slice_axis: Across which slices are counted.
        structure: Its number; None: of all.
        look_at: Axis, and number of a slice across it, that is the worst whatever the maps say; there, the place is
            deep inside of the predicted structure, which may end before it.
    """
    predicted = _mask(maps.prediction, structure)
    wanted = predicted if maps.reference is None else _mask(maps.reference, structure)
    differ = (
        (predicted != wanted) if structure is not None or maps.reference is None else maps.prediction != maps.reference
    )
    if look_at is not None:
        voxel = _inside(predicted, *look_at)
    elif differ.any():
        voxel = _deepest(differ, slice_axis)
    elif (either := predicted | wanted).any():
        voxel = _deepest(either, slice_axis)
    else:
        voxel = [(size - 1) / 2 for size in predicted.shape]
    x, y, z = (maps.affine @ [*voxel, 1.0])[:3]
    return float(x), float(y), float(z)


def _mask(labels: NDArray[np.uint8], structure: int | None) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = labels != 0 if structure is None else labels == structure
    return found


def _deepest(found: NDArray[np.bool_], slice_axis: int) -> list[float]:
    others = tuple(axis for axis in range(3) if axis != slice_axis)
    return _inside(found, slice_axis, int(np.argmax(found.sum(axis=others))))


def _inside(found: NDArray[np.bool_], axis: int, number: int) -> list[float]:
    """A voxel of this slice, deep inside of what is there, or, where it is empty, of what is in any slice."""
    from scipy import ndimage

    plane = np.take(found, number, axis=axis)
    if not plane.any():
        plane = found.any(axis=axis)
    if plane.any():
        inside = ndimage.distance_transform_cdt(np.pad(plane, 1), "chessboard")[1:-1, 1:-1]
        place = [float(one) for one in np.unravel_index(int(np.argmax(inside)), inside.shape)]
    else:
        place = [(size - 1) / 2 for size in plane.shape]
    return [*place[:axis], float(number), *place[axis:]]


# ---------------------------------------------------------------- as files


def _window(maps: Maps) -> tuple[float, float]:
    """Black and white, from what lies around the structures."""
    shown = cropped(maps).image
    finite = shown[np.isfinite(shown)]
    low, high = np.percentile(finite.astype(np.float64), [LOW, HIGH]) if finite.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-12))


def _copy(maps: Maps, window: tuple[float, float], said: Sequence[str]) -> Copy:
    low, high = window
    grey = np.nan_to_num((maps.image.astype(np.float32) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    image = np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)
    return Copy(
        image=_nifti(image, maps.affine),
        prediction=_nifti(maps.prediction, maps.affine),
        reference=None if maps.reference is None else _nifti(maps.reference, maps.affine),
        said=", ".join(said),
        shape=image.shape,
        affine=tuple(tuple(float(value) for value in row) for row in maps.affine),
    )


def _nifti(array: NDArray[np.uint8], affine: NDArray[np.float64]) -> str:
    from nibabel import Nifti1Image

    file = Nifti1Image(array, affine)
    file.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(file.to_bytes(), 6, mtime=0)).decode("ascii")


def _millimetres(spacing: NDArray[np.float64]) -> str:
    return " × ".join(f"{mm:.3g}" for mm in spacing) + " mm"


def numbered(labels: Array, structures: Mapping[str, int]) -> NDArray[np.uint8]:
    """Label values as the numbers of their structures, from 1; all others 0."""
    numbers = np.zeros(labels.shape, np.uint8)
    for number, value in enumerate(structures.values(), start=1):
        numbers[labels == value] = number
    return numbers
