"""The values of a DICOM series: slope and intercept applied, padding replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.formats.dicom.pixels import Pixels, pixels_of, plane_of
from lemis.formats.dicom.series import Series
from lemis.formats.dicom.stored import Slice, value_type
from lemis.formats.notes import Note

Array = npt.NDArray[Any]


_MOST_SPARE_BYTES = 1  # pixels are padded to an even number of bytes


def read_voxels(series: Series) -> tuple[Array, tuple[Note, ...]]:
    """Values, (columns, rows, slices[, 3]), slope and intercept applied, and what was found among them.

    Raises:
        DataFault: A file is damaged, or holds fewer pixels than it claims.
    """
    colours = (series.channels,) if series.channels > 1 else ()
    values = np.empty((*series.shape, *colours), dtype=value_type(series.slices), order="F")
    empty: dict[int, npt.NDArray[np.bool_]] = {}
    spare: tuple[Note, ...] = ()
    pixels: Pixels | None = None
    for number, one in enumerate(series.slices):
        if pixels is None or one.file != series.slices[number - 1].file:  # a file of many frames is read once
            pixels = pixels_of(one)
        plane = plane_of(one, pixels)
        values[:, :, number] = plane.values.swapaxes(0, 1)
        if plane.padded is not None and plane.padded.any():
            empty[number] = plane.padded.T
        if plane.spare_bytes > _MOST_SPARE_BYTES and not spare:
            spare = (_spare(one, plane.spare_bytes),)
    return values, (*_without_padding(series, values, empty), *spare)


def _spare(one: Slice, spare_bytes: int) -> Note:
    seen = f"{one.file.name} claims {one.rows} rows of {one.columns} pixels, and holds {spare_bytes} bytes more"
    return Note("more pixels than claimed", seen, "look at it: if it is torn, export the series again")


def _without_padding(series: Series, values: Array, empty: Mapping[int, npt.NDArray[np.bool_]]) -> tuple[Note, ...]:
    """Set padding to the smallest value that was measured, in place: padding itself is no intensity."""
    found = sum(int(mask.sum()) for mask in empty.values())
    if found in (0, values.size):
        return ()
    planes = (values[:, :, number] for number in range(series.shape[2]))
    real = (plane[~empty[number]] if number in empty else plane for number, plane in enumerate(planes))
    smallest = min(plane.min() for plane in real if plane.size)
    for number, mask in empty.items():
        values[:, :, number][mask] = smallest
    shares = sorted({one.padding for one in series.slices if one.padding is not None})
    stated = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in shares[:3])
    seen = (
        f"{found} of {values.size} voxels hold the Pixel Padding Value (stored {stated}), which is no measurement: "
        f"they are set to {smallest:g}, the smallest of the others"
    )
    return (
        Note("padding", seen, "fine; if they were measured, remove Pixel Padding Value (0028,0120) from the files"),
    )
