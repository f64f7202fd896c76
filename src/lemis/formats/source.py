"""What a file says of its own grid, whatever its format: all that is needed to write a label map back on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import directions, grids
from lemis.formats.directions import Axes
from lemis.formats.faults import not_an_intensity
from lemis.formats.grids import Shape3, spacing_of
from lemis.formats.notes import Note

_MOST_CHANNELS = 4096  # no series is longer


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a file says of its own grid: all that is needed to write a label map back on it."""

    path: Path
    format: str  # nifti, mgh, nrrd, meta, dicom, picture
    shape: Shape3  # stored order; a 2D file has 1 last
    channels: int
    affine: npt.NDArray[np.float64]  # (4, 4), stored voxel -> mm RAS
    dtype: str  # as stored, before slope and intercept
    codes: tuple[int, int] | None = None  # NIfTI (qform_code, sform_code)
    unit_mm: float = 1.0  # the header's own unit of length; ``affine`` is in mm
    segments: dict[str, int] = field(default_factory=dict)  # names and values inside a .seg.nrrd
    notes: tuple[Note, ...] = ()  # what reading had to assume; what voxels show, only where they were read
    header: Any = field(default=None, repr=False)  # the format's own header
    along: Axes = ()  # what the canonical axes run along, as nearly as they can; (): the body axes

    @property
    def orientation(self) -> npt.NDArray[np.float64]:
        """(3, 2): per stored axis, the canonical axis it becomes and the direction (1 or -1)."""
        if self.along:
            turn = directions.turn_to(directions.of_affine(self.affine), directions.as_matrix(self.along))
            return directions.orientation(turn)
        from nibabel.orientations import io_orientation

        found: npt.NDArray[np.float64] = io_orientation(self.affine)
        return found

    def stored_slice(self, axis: int, number: int) -> tuple[int, int]:
        """Axis and number, from 0, in the file's own array of a slice across ``axis`` of the canonical one."""
        for stored, (own, direction) in enumerate(self.orientation):
            if int(own) == axis:
                return stored, number if direction > 0 else self.shape[stored] - 1 - number
        raise ValueError(f"axis {axis} of three")

    def canonical_slice(self, axis: int, number: int) -> tuple[int, int]:
        """The inverse of ``stored_slice``."""
        own, direction = self.orientation[axis]
        return int(own), number if direction > 0 else self.shape[axis] - 1 - number

    @property
    def axes(self) -> Axes:
        """Where the canonical axes run. As ``along`` of a file on the same grid, they give it this one's order."""
        return directions.as_axes(directions.of_affine(self.canonical_affine))

    @property
    def axis_codes(self) -> str:
        """Directions of the stored axes, ``"LPS"`` for instance."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    @property
    def canonical_shape(self) -> Shape3:
        """Shape in canonical order."""
        shape = [0, 0, 0]
        for size, (axis, _) in zip(self.shape, self.orientation, strict=True):
            shape[int(axis)] = size
        return shape[0], shape[1], shape[2]

    @property
    def canonical_affine(self) -> npt.NDArray[np.float64]:
        """(4, 4), canonical voxel -> mm RAS."""
        from nibabel.orientations import inv_ornt_aff

        affine: npt.NDArray[np.float64] = self.affine @ inv_ornt_aff(self.orientation, self.shape)
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Canonical voxel size."""
        return spacing_of(self.canonical_affine)


def usable(source: Source) -> Source:
    """The same.

    Raises:
        DataFault: It has no voxel, or an affine that is no grid.
    """
    if min(source.shape) < 1:
        raise DataFault(f"{source.path} has shape {source.shape}", allowed="at least one voxel", next="export it again")
    grids.refuse_unusable(source.path, source.affine)
    return source


def spatial(path: Path, shape: tuple[int, ...], colours: int = 1) -> tuple[Shape3, int]:
    """Spatial shape and number of channels of a stored (X, Y[, Z[, T[, C]]]) array."""
    if not shape or min(shape) < 1:
        raise DataFault(f"{path} has shape {tuple(shape)}", allowed="at least one voxel", next="export it again")
    space = (*shape, 1, 1)[:3]
    rest = [size for size in shape[3:] if size != 1]
    if len(rest) > 1 or (rest and colours > 1):
        raise not_an_intensity(path, f"an array of shape {shape}", "save it with at most one axis of channels")
    channels = rest[0] if rest else min(colours, 3)
    if channels > _MOST_CHANNELS:
        raise not_an_intensity(path, f"{channels} volumes", f"split it into files of {_MOST_CHANNELS} volumes at most")
    return (int(space[0]), int(space[1]), int(space[2])), int(channels)
