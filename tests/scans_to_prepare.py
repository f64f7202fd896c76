"""Scans with structures in the middle, as files and as rows of an index; and when their prepared files were written."""

import numpy as np

from lemis.datasets.index import Scan
from lemis.formats import volume
from lemis.verbs.prepare import LOCK

VALUES = (0, 1, 5)


def write_scan(folder, id, shape=(14, 18, 4), spacing_mm=(1.5, 1.5, 8.0), seed=0, labelled=True, channels=1):
    """A scan stored as LPS, its structures in the middle; returns its row of the index."""
    rng = np.random.default_rng(seed)
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    images = []
    for channel in range(channels):
        file = f"{id}_{channel:04d}.nii.gz"
        volume.write_volume(rng.integers(0, 1000, shape).astype(np.int16), affine, folder / file)
        images.append(file)
    label = None
    if labelled:
        label = f"{id}_label.nii.gz"
        array = np.zeros(shape, np.uint8)
        array[5:9, 6:11, 1:] = 1
        array[6:8, 7:9, 1:] = 5
        volume.write_volume(array, affine, folder / label)
    return Scan(
        id=id, subject=id[:2], images=tuple(images), label=label, shape=shape, spacing_mm=spacing_mm,
        slice_axis=2, label_values=VALUES if labelled else (),
    )  # fmt: skip


def stamps(work):
    return {path.name: path.stat().st_mtime_ns for path in (work / "prepared").iterdir() if path.name != LOCK}
