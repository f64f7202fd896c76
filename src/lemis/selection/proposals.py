"""Label maps to begin with: what the networks make of a suggested scan, or an empty map with its structures declared,
to be corrected in ITK-SNAP (with ``labels.txt``) or 3D Slicer (``.seg.nrrd``).

A file that somebody changed is never written again: ``written.json`` knows what was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lemis import files
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import image_grid
from lemis.formats import itksnap, volume
from lemis.formats import labels as label_maps
from lemis.formats.grids import is_sheared
from lemis.formats.paths import is_picture, label_suffix
from lemis.records import Record, find, write
from lemis.runs.material import digest_of_file

FOLDER, NAMES = "proposals", "labels.txt"
_WRITTEN = "written.json"


class Written(Record):
    """What was written, by file."""

    version: Literal[1] = 1
    files: dict[str, str]  # digests


def map_of(index: Index, scan: Scan) -> str:
    """The name of a scan's label map."""
    return f"{scan.id}{label_suffix(index_file.locate(index, scan.images[0]))}"


def untouched(folder: Path, index: Index, scans: Sequence[Scan]) -> list[Scan]:
    """Those of which nobody changed a file, or none was written yet."""
    known = _read(folder).files

    def is_ours(name: str) -> bool:
        return not (folder / name).exists() or known.get(name) == digest_of_file(folder / name)

    return [scan for scan in scans if is_ours(map_of(index, scan)) and is_ours(f"{scan.id}.seg.nrrd")]


def write_empty(folder: Path, index: Index, scans: Sequence[Scan]) -> None:
    """Maps of background, each on its scan's grid."""
    for scan in scans:
        grid = image_grid(index, scan)
        volume.write_labels(np.zeros(grid.canonical_shape, np.uint8), grid, folder / map_of(index, scan))


def write_beside(
    folder: Path, index: Index, scans: Sequence[Scan], structures: Mapping[str, int], colours: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Beside each map that is there the same for 3D Slicer, and the names of the structures for ITK-SNAP.

    Pictures, and scans whose axes are not at right angles, have no segmentation of 3D Slicer.

    Args:
        folder: Of the maps.
        index: That holds the scans.
        scans: That were proposed anew.
        structures: Name to value, without background.
        colours: Name to ``#rrggbb``.

    Returns:
        The files of each scan, by id.
    """
    files.write(folder / NAMES, itksnap.description(structures, colours))
    made: dict[str, tuple[str, ...]] = {}
    for scan in scans:
        grid, name = image_grid(index, scan), map_of(index, scan)
        made[scan.id] = (name,)
        if not is_picture(grid.path) and not is_sheared(grid.affine):
            labels = label_maps.read(folder / name, grid.axes, grid).array
            other = volume.write_segmentation(labels, grid, structures, colours, folder / f"{scan.id}.seg.nrrd")
            made[scan.id] = (name, other.name)
    _remember(folder, [name for names in made.values() for name in names])
    return made


def there(folder: Path, index: Index, scan: Scan) -> tuple[str, ...]:
    """The files of a scan that lie there."""
    return tuple(name for name in (map_of(index, scan), f"{scan.id}.seg.nrrd") if (folder / name).exists())


def _remember(folder: Path, names: Sequence[str]) -> None:
    known = {**_read(folder).files, **{name: digest_of_file(folder / name) for name in names}}
    write(folder / _WRITTEN, Written(version=1, files=known))


def _read(folder: Path) -> Written:
    again = f"move what you corrected out of {folder}, delete the folder, and run the same command again"
    found: Written | None = find(folder / _WRITTEN, Written, next=again)
    return found or Written(version=1, files={})
