"""Scans in one file per slice: a DICOM series, and a label map in one picture per slice of such a series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import pictures
from lemis.formats.dicom import segmentation
from lemis.formats.dicom.series import Series, find_series, find_slice, refuse_part_of_series
from lemis.formats.dicom.stored import segmentation_fault
from lemis.formats.dicom.voxels import read_voxels
from lemis.formats.grids import LPS_TO_RAS
from lemis.formats.paths import file_of, is_picture
from lemis.formats.source import Source, usable

Array = npt.NDArray[Any]


def read_dicom(path: Path, with_voxels: bool, series: str | None = None) -> tuple[Source, Array | None]:
    """A folder of one series, or the one of several that ``series`` names; or a file that is an image by itself."""
    return read_series(path, series_at(path, series), with_voxels)


def series_at(path: Path, series: str | None = None) -> Series:
    """The files that a path stands for, as of ``read_dicom``.

    Raises:
        DataFault: A SEG object, one file of a series, or a series that cannot be read.
    """
    file = file_of(path)
    if (label := segmentation.find(file)) is not None:
        raise segmentation_fault(label)
    if file.is_file():
        refuse_part_of_series(file)
    return find_slice(file, series) if file.is_file() else find_series(file, series)


def read_series(path: Path, series: Series, with_voxels: bool) -> tuple[Source, Array | None]:
    """A series whose files are known."""
    stored, found = read_voxels(series) if with_voxels else (None, ())
    source = Source(
        path=path,
        format="dicom",
        shape=series.shape,
        channels=series.channels,
        affine=LPS_TO_RAS @ series.affine_lps,
        dtype=series.dtype,
        notes=(*series.notes, *found),
    )
    return usable(source), stored


def read_pictures(path: Path, with_voxels: bool, grid: str) -> tuple[Source, Array | None]:
    """A label map of one picture per slice of a DICOM series."""
    folder = file_of(path)
    series = find_series(folder.parent / grid)
    found = sorted((f for f in folder.iterdir() if is_picture(f)), key=_by_number)
    found = [file for file in found if not file.name.startswith(".")]
    if len(found) != len(series.files):
        raise DataFault(
            f"{path} holds {len(found)} pictures, and the series {len(series.files)} slices",
            allowed="one picture per slice",
            next="unpack the archive again, or leave the label out",
        )
    source = usable(
        Source(
            path=path,
            format="dicom",
            shape=series.shape,
            channels=1,
            affine=LPS_TO_RAS @ series.affine_lps,
            dtype="uint8",
        )
    )
    if not with_voxels:
        return source, None
    of_file = dict(zip(sorted(series.files, key=_by_number), found, strict=True))
    planes = [pictures.read_plane(of_file[file], series.shape[:2]) for file in series.files]
    return source, np.stack(planes, axis=2)


def _by_number(file: Path) -> list[tuple[int, str]]:
    """Names in the order in which people count."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
