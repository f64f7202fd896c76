"""Faults of a scan's intensities: values that are not numbers, constant images, images that look like label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.checking.faults import FileReport

# Scans of any kind hold more grey values, label maps of most studies fewer. A structure counts from 1 up; a label map
# with more of them than an atlas of the brain has is a scan.
FEWEST_GREYS = 16


def intensity_faults(array: npt.NDArray[Any], report: FileReport) -> list[tuple[float, float]]:
    """Checks one file; returns (min, max) of each of its channels."""
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            report.error(
                "invalid voxel values",
                f"{bad} of {array.size} voxels are NaN or infinite",
                "find out where they come from; outside the body, set them to the background value",
            )
            array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    axes = (0, 1, 2)
    low, high = np.atleast_1d(array.min(axis=axes)), np.atleast_1d(array.max(axis=axes))
    ranges = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    for number, (a, b) in enumerate(ranges):
        if a == b:
            which = f"channel {number} of the file" if len(ranges) > 1 else "the scan"
            report.error("constant scan", f"{which} is {a:g} everywhere", "export it again, or leave it out")
    return ranges


def few_greys(array: npt.NDArray[Any], report: FileReport) -> None:
    """Warn of a scan that may be a label map which its name does not give away."""
    flat = array.reshape(-1)
    some = np.unique(flat[:: max(1, flat.size // 4096)])  # sorting all voxels takes seconds, and is hardly ever needed
    if len(some) >= FEWEST_GREYS:
        return
    values = np.unique(flat)
    if 1 < len(values) < FEWEST_GREYS and np.isfinite(values).all() and (values == np.rint(values)).all():
        report.warning(
            "scan that looks like a label map",
            f"holds only {len(values)} values: {', '.join(f'{value:g}' for value in values[:6])}"
            + ", ..." * (len(values) > 6),
            "fine if it is a scan; if a label map, add _seg to the name of its scan (p01.nii.gz, p01_seg.nii.gz), "
            "put it into labels/ beside images/, or list both in a CSV (image, label, subject)",
        )
