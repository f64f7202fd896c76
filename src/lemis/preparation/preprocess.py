"""One whole scan: from the array as it is stored to the slices a network sees, and back. No files.

The order is the paper's (PCL, also used by SAL and KAF): slices first, resample in plane, clip, z-score over
the whole volume, cut the field of view. Through-plane nothing is resampled unless it is asked for, by a spacing of the
slices or by one size for all volumes.

Axis letters: n slices, C channels, H rows, W columns; X, Y, Z the canonical (RAS+) axes of a scan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.errors import DataFault, UsageError
from lemis.formats.grids import Shape3
from lemis.preparation.classes import to_classes
from lemis.preparation.crops import FieldOfView, crop_field, field_of_view
from lemis.preparation.facts import Facts
from lemis.preparation.intensities import normalise
from lemis.preparation.resampling import (
    resample_in_plane,
    resample_label,
    resample_slices,
    resampled_shape,
    resampled_size,
)
from lemis.preparation.settings import Settings
from lemis.preparation.slices import InPlane, Shape2, in_plane, slices_first, slices_last

Array = NDArray[Any]
_MOST_VOXELS = 2**31  # of a prepared scan: 4 GB as it is stored


def describe(
    *,
    id: str,
    subject: str,
    images: Sequence[str],
    label: str | None,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    slice_axis: int,
    settings: Settings,
) -> Facts:
    """The geometry of one scan under settled settings; ``prepare_image`` adds the intensities.

    Args:
        id: Of the scan, as are ``subject``, ``images`` and ``label``.
        subject: Who it is of.
        images: One file or folder per channel.
        label: File of the label map.
        shape: Of the canonical array; a channel axis at the end is ignored.
        spacing_mm: Of the canonical array.
        slice_axis: Of the canonical array.
        settings: From ``settle``.

    Raises:
        UsageError: The prepared scan would be far larger than any memory.
    """
    plane = in_plane(shape, spacing_mm, slice_axis)
    canonical = (int(shape[slice_axis]), *plane.shape)
    canonical_mm = (float(spacing_mm[slice_axis]), *plane.spacing_mm)
    resampled = _resampled(canonical, canonical_mm, settings)
    field = field_of_view(resampled[1:], _field_px(plane, settings))
    _refuse_huge(id, canonical, resampled, field)
    slice_mm, row_mm, col_mm = (
        mm * (old / new) for mm, old, new in zip(canonical_mm, canonical, resampled, strict=True)
    )
    x, y, z = (int(length) for length in shape[:3])
    sx, sy, sz = (float(mm) for mm in spacing_mm[:3])
    return Facts(
        id=id,
        subject=subject,
        images=tuple(images),
        label=label,
        labelled=label is not None,
        slices=resampled[0],
        canonical_shape=(x, y, z),
        canonical_spacing_mm=(sx, sy, sz),
        slice_axis=slice_axis,
        slice_shape=plane.shape,
        resampled_shape=resampled[1:],
        field=field,
        prepared_spacing_mm=(slice_mm, row_mm, col_mm),
    )


def _refuse_huge(id: str, stored: Shape3, resampled: Shape3, field: FieldOfView) -> None:
    # Before anything of that size is made.
    for shape in (resampled, (resampled[0], field.height, field.width)):
        if math.prod(shape) > max(_MOST_VOXELS, math.prod(stored)):
            raise UsageError(
                f"scan {id} of {' x '.join(map(str, stored))} voxels prepared as {' x '.join(map(str, shape))}",
                allowed=f"at most {_MOST_VOXELS} voxels of a scan",
                next="a larger prepare.spacing_mm, or a smaller prepare.field_of_view_mm",
            )


def _resampled(shape: Shape3, spacing_mm: tuple[float, float, float], settings: Settings) -> Shape3:
    # (n, H, W) after resampling.
    if settings.whole_px is not None:
        return settings.whole_px
    assert settings.spacing_mm is not None, "settle() comes first"
    slices, rows, cols = shape
    if settings.slice_spacing_mm is not None:
        slices = resampled_size(slices, spacing_mm[0], settings.slice_spacing_mm)
    if settings.spacing_mm != "native":
        rows, cols = resampled_shape((rows, cols), spacing_mm[1:], settings.spacing_mm)
    return slices, rows, cols


def _field_px(plane: InPlane, settings: Settings) -> Shape2 | None:
    assert settings.field_of_view_mm != "auto", "settle() comes first"
    if settings.field_of_view_mm is None:
        return None
    assert settings.spacing_mm is not None, "settle() comes first"
    unit = plane.spacing_mm if settings.spacing_mm == "native" else (settings.spacing_mm, settings.spacing_mm)
    rows, cols = (max(1, round(settings.field_of_view_mm / mm)) for mm in unit)
    return rows, cols


def prepare_image(array: Array, facts: Facts, settings: Settings) -> tuple[NDArray[np.float16], Facts]:
    """Canonical (X, Y, Z) or (X, Y, Z, C) -> prepared (n, C, H, W), and the facts with their intensities.

    Raises:
        DataFault: Another shape than the facts', or intensities that cannot be normalised.
    """
    _expect_shape("the image", array.shape[:3], facts)
    image = slices_first(array if array.ndim == 4 else array[..., None], facts.slice_axis)
    image = resample_in_plane(image, facts.resampled_shape, order=settings.image_order, antialias=settings.antialias)
    image = resample_slices(image, facts.slices, order=settings.image_order, antialias=settings.antialias)
    image, intensity = normalise(image, settings.clip_percentiles, settings.clip_values)
    prepared = np.ascontiguousarray(crop_field(image, facts.field), np.float16)
    return prepared, dataclasses.replace(facts, intensity=intensity)


def prepare_label(
    label: Array, facts: Facts, settings: Settings, label_values: Sequence[int], ignored: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Canonical (X, Y, Z) label values -> prepared (n, H, W) class indices; values ``ignored`` become background.

    Raises:
        DataFault: Another shape than the image's, or a value that is in neither ``label_values`` nor ``ignored``.
    """
    _expect_shape("the label", label.shape, facts)
    classes = slices_first(to_classes(label, label_values, ignored), facts.slice_axis)
    wanted = (facts.slices, *facts.resampled_shape)
    classes = resample_label(classes, wanted, interpolation=settings.label_interpolation)
    return np.ascontiguousarray(crop_field(classes, facts.field))


def insert_slices(labels: Array, facts: Facts) -> Array:
    """(n, H, W) canonical slices at the canonical in-plane size -> (X, Y, Z) of the canonical array."""
    expected = (facts.canonical_slices, *facts.slice_shape)
    assert labels.shape == expected, f"{labels.shape} is not {expected}"
    return np.ascontiguousarray(slices_last(labels, facts.slice_axis))


def _expect_shape(what: str, shape: Sequence[int], facts: Facts) -> None:
    if tuple(shape) != facts.canonical_shape:
        raise DataFault(
            f"{what} has shape {tuple(shape)}",
            allowed=f"the shape of the scan in the index, {facts.canonical_shape}",
            next="`lemis check` says which scans are on another grid; run it again if files have changed",
        )
