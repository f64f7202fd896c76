"""Where the pixels of one DICOM file lie, by its tags: position, direction, spacing and thickness, in mm LPS.

No length is invented: if a file does not state one, the file is refused, or the length is taken from another of its
tags, and a ``Note`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.formats.dicom.tags import SLICED, Header
from lemis.formats.notes import Note

Array = npt.NDArray[Any]


_DIRECTION_TOLERANCE = 1e-2


def position(header: Header) -> tuple[float, ...]:
    """Position of the first pixel, (x, y, z); () if the tag is empty or missing."""
    return header.numbers("ImagePositionPatient", 3)


def orientation(header: Header) -> tuple[float, ...]:
    """Direction of a row and of a column; () if the tag is empty or missing."""
    found = header.numbers("ImageOrientationPatient", 6)
    if found:
        row, column = np.array(found[:3]), np.array(found[3:])
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or abs(row @ column) > _DIRECTION_TOLERANCE:
            raise header.fault(
                "ImageOrientationPatient",
                f"is {header.text('ImageOrientationPatient')[:90]!r}",
                "two directions of length 1 at right angles",
            )
    return found


def pixel_spacing(header: Header, *, placed: bool) -> tuple[tuple[float, float], tuple[Note, ...]]:
    """Distance of pixels across a row and down a column, mm.

    Raises:
        DataFault: A slice of the body that does not state it.
    """
    if stated := header.lengths("PixelSpacing", 2):
        return (stated[1], stated[0]), ()
    name = header.file.name
    if imager := header.lengths("ImagerPixelSpacing", 2):
        seen = f"{name} states no Pixel Spacing; {imager[1]:g} x {imager[0]:g} mm is Imager Pixel Spacing (0018,1164)"
        note = Note("pixel size at the detector", seen, "right if nothing was enlarged; calibrate it where it matters")
        return (imager[1], imager[0]), (note,)
    if placed:
        raise header.fault("PixelSpacing", "(0028,0030) is not in the file", "how large a pixel is, in mm")
    note = Note(
        "pixel size unknown",
        f"{name} states neither Pixel Spacing nor Imager Pixel Spacing: 1 mm stands for a pixel",
        "read lengths as pixels, or export the images again with their spacing",
    )
    return (1.0, 1.0), (note,)


def thickness(header: Header, pixel_mm: tuple[float, float]) -> tuple[float, tuple[Note, ...]]:
    """Thickness of a slice without neighbours, mm."""
    name = header.file.name
    if stated := header.lengths("SliceThickness", 1):
        seen, thickness_mm = f"{name} is a single slice: {stated[0]:g} mm across is its Slice Thickness", stated[0]
        return thickness_mm, (Note("single slice", seen, "fine for images in 2D; a volume needs all its slices"),)
    thickness_mm = max(pixel_mm)
    seen = (
        f"{name} is a single slice without Slice Thickness: its thickness is unknown, {thickness_mm:g} mm stands for it"
    )
    return thickness_mm, (
        Note("single slice", seen, "do not use volumes in ml; export the series with all its slices"),
    )


def unplaced(header: Header) -> tuple[Note, ...]:
    """A note for a slice that does not say where it lies; no note for an X-ray, which need not."""
    if header.text("Modality") not in SLICED:
        return ()
    seen = f"{header.file.name} does not say where it lies in the body: it is taken for axial, as people look at it"
    return (Note("place unknown", seen, "fine for images in 2D; otherwise export it with position and orientation"),)


def affine_in_plane(orientation: Sequence[float], position: Sequence[float], pixel_mm: tuple[float, float]) -> Array:
    """(4, 4), voxel -> mm LPS, whose third column is still to be set."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * pixel_mm[0]
    affine[:3, 1] = np.array(orientation[3:]) * pixel_mm[1]
    affine[:3, 3] = position
    return affine
