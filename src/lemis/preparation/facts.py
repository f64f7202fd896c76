"""The facts of a prepared scan that are stored beside its arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemis.formats.grids import Shape3
from lemis.preparation.crops import FieldOfView, crop_field
from lemis.preparation.intensities import Intensity
from lemis.preparation.slices import Shape2


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is needed to put a prediction of one prepared scan back on its canonical grid."""

    id: str
    subject: str
    images: tuple[str, ...]
    label: str | None
    labelled: bool
    slices: int  # prepared ones
    canonical_shape: Shape3  # (X, Y, Z)
    canonical_spacing_mm: tuple[float, float, float]
    slice_axis: int  # of the canonical array
    slice_shape: Shape2  # (H, W) before resampling
    resampled_shape: Shape2  # (H, W) after resampling, before the field of view is cut
    field: FieldOfView
    prepared_spacing_mm: tuple[float, float, float]  # (slice, row, col)
    intensity: tuple[Intensity, ...] = ()  # one per channel
    extent_mm: float | None = None  # half side of the central square that holds every labelled structure
    image_digest: str = ""  # scans.image_digest of the image: known again under another name, format or header
    label_digest: str = ""  # scans.label_digest of the label; "" where there is none, or it tells nobody
    source: str = ""  # fingerprint of the files it was made from
    fingerprint: str = ""  # of the files and the settings together

    @property
    def prepared_shape(self) -> Shape2:
        """(H, W) of the prepared slices."""
        return self.field.height, self.field.width

    @property
    def canonical_slices(self) -> int:
        """Number of slices of the canonical array, before resampling."""
        return self.canonical_shape[self.slice_axis]


def inside_field(facts: Facts) -> NDArray[np.bool_]:
    """(H, W) of the prepared slices, False where the field of view lies outside the scan."""
    return crop_field(np.ones(facts.resampled_shape, bool), facts.field)
