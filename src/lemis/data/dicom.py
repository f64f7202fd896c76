"""One DICOM series of a folder: its files in order along the slice normal, its grid, its voxels.

Order, slice distance and tilt come from the positions that the files state, never from names or numbers.
A series with a gap, a doubled slice or company in its folder is refused: we do not guess what fills a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault

_SUFFIXES = (".dcm", ".dicom", ".ima")
_MODALITY, _SERIES, _DESCRIPTION = "0008|0060", "0020|000e", "0008|103e"
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
# Scanners round positions to about 0.001 mm; a missing slice is off by a whole step.
_STEP_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Series:
    """A complete series."""

    files: tuple[Path, ...]  # along the normal
    shape: tuple[int, int, int]  # columns, rows, slices
    channels: int
    affine_lps: npt.NDArray[np.float64]  # (4, 4), voxel -> mm LPS
    dtype: str


def is_series_folder(folder: Path) -> bool:
    """True where the folder itself (not its sub-folders) holds DICOM files."""
    return any(True for _ in _candidates(folder))


def find_series(path: Path) -> Series:
    """The one series of a folder.

    Raises:
        DataFault: A single file, no or several series, a missing or doubled slice, slices that differ in size
            or direction, a DICOM SEG object; with the values seen.
    """
    if path.is_file():
        _refuse_file(path)
    files = list(_candidates(path))
    if not files:
        raise DataFault(
            f"{path} is a folder without DICOM files",
            allowed="a folder of one DICOM series",
            next="give a scan's file",
        )
    headers = [_header(file) for file in files]
    _refuse_several(path, files, headers)
    for file, header in zip(files, headers, strict=True):
        if _tag(header, _MODALITY) == "SEG":
            raise _is_segmentation(file)
    return _arrange(path, files, headers)


def read_voxels(series: Series) -> npt.NDArray[Any]:
    """(columns, rows, slices[, 3]) values, slope and intercept applied. Raises RuntimeError if damaged."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in series.files])
    array: npt.NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())  # (Z, Y, X[, C])
    return array.transpose((2, 1, 0, 3) if series.channels > 1 else (2, 1, 0))


def _candidates(folder: Path) -> Any:
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.name.upper() != "DICOMDIR":
            if file.suffix.lower() in _SUFFIXES:
                yield file
            elif not file.suffix or file.suffix[1:].isdigit():  # scanners often write no suffix, or a number
                with file.open("rb") as stream:
                    if stream.read(132)[128:] == b"DICM":
                        yield file


def _header(file: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataFault(
            f"{file} cannot be read as DICOM",
            allowed="complete DICOM files with pixels",
            next="export the series again",
        ) from error
    return reader


def _tag(header: Any, key: str) -> str:
    return str(header.GetMetaData(key)).strip() if header.HasMetaDataKey(key) else ""


def _numbers(header: Any, key: str) -> npt.NDArray[np.float64]:
    text = _tag(header, key)
    return np.array([float(part) for part in text.split("\\")] if text else [])


def _refuse_file(path: Path) -> None:
    header = _header(path)
    if _tag(header, _MODALITY) == "SEG":
        raise _is_segmentation(path)
    if header.GetSize()[-1] > 1 and header.GetDimension() > 2:
        raise DataFault(
            f"{path} is a DICOM file of {header.GetSize()[-1]} frames",
            allowed="a folder with one file per slice, or another format",
            next="convert it to .nii.gz (dcm2niix does)",
        )
    raise DataFault(
        f"{path} is one file of a DICOM series",
        allowed="the folder that holds the series",
        next=f"give {path.parent}",
    )


def _is_segmentation(file: Path) -> DataFault:
    return DataFault(
        f"{file} is a DICOM SEG object (a segmentation), not an image",
        allowed="image series; label maps as .nii.gz, .nrrd or .mha",
        next="convert the segmentation to .nii.gz (dcmqi's segimage2itkimage does) and use it as a label",
    )


def _refuse_several(folder: Path, files: list[Path], headers: list[Any]) -> None:
    series: dict[str, list[int]] = {}
    for number, header in enumerate(headers):
        series.setdefault(_tag(header, _SERIES), []).append(number)
    if len(series) > 1:
        shown = [
            f"{len(members)} of {_tag(headers[members[0]], _DESCRIPTION) or key or 'a nameless series'} "
            f"({files[members[0]].name}, ...)"
            for key, members in series.items()
        ]
        raise DataFault(
            f"{folder} holds {len(series)} DICOM series: {'; '.join(shown)}",
            allowed="one series per folder",
            next="move each series into a folder of its own",
        )


def _arrange(folder: Path, files: list[Path], headers: list[Any]) -> Series:
    size, orientation = headers[0].GetSize()[:2], _numbers(headers[0], _ORIENTATION)
    for file, header in zip(files, headers, strict=True):
        other = _numbers(header, _ORIENTATION)
        if (
            header.GetSize()[:2] != size
            or other.shape != orientation.shape
            or np.abs(other - orientation).max(initial=0) > 1e-3
        ):
            raise DataFault(
                f"{file} is {header.GetSize()[:2]} pixels in direction {other.tolist()}, "
                f"{files[0].name} is {size} in direction {orientation.tolist()}",
                allowed="slices of one size and one direction",
                next="move localisers and other images out of the folder",
            )
        if len(header.GetSize()) > 2 and header.GetSize()[2] > 1:
            _refuse_file(file)
    positions = [_numbers(header, _POSITION) for header in headers]
    if orientation.shape != (6,) or any(position.shape != (3,) for position in positions):
        raise DataFault(
            f"{folder} has slices that do not state their position or direction",
            allowed="Image Position (0020,0032) and Image Orientation (0020,0037) in every file",
            next="export the series again without removing these tags",
        )
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.argsort([position @ normal for position in positions], kind="stable")
    place = np.array([positions[i] for i in order])  # (slices, 3) mm LPS
    _refuse_gaps(folder, [files[i] for i in order], place @ normal)
    affine = np.eye(4)
    across, down = headers[0].GetSpacing()[:2]  # ITK's x runs along the columns of the file
    affine[:3, 0], affine[:3, 1] = orientation[:3] * across, orientation[3:] * down
    # The step between positions, not the normal: so a tilted gantry stays the shear that it is.
    step = (place[-1] - place[0]) / (len(place) - 1) if len(place) > 1 else normal * headers[0].GetSpacing()[2]
    affine[:3, 2], affine[:3, 3] = step, place[0]
    import SimpleITK as sitk  # noqa: N813

    return Series(
        files=tuple(files[i] for i in order),
        shape=(int(size[0]), int(size[1]), len(files)),
        channels=headers[0].GetNumberOfComponents(),
        affine_lps=affine,
        dtype=sitk.GetPixelIDValueAsString(headers[0].GetPixelID()),
    )


def _refuse_gaps(folder: Path, files: list[Path], heights_mm: npt.NDArray[np.float64]) -> None:
    """Refuse slices that are not evenly spaced; ``heights_mm`` are sorted positions along the normal."""
    if len(heights_mm) < 2:
        return
    steps = np.diff(heights_mm)
    usual = float(np.median(steps))
    for before, step in enumerate(steps):
        here, there = f"{heights_mm[before]:.2f}", f"{heights_mm[before + 1]:.2f}"
        if step < 1e-3:
            raise DataFault(
                f"{folder}: {files[before].name} and {files[before + 1].name} are both at {here} mm",
                allowed="one slice per position",
                next="move repeated phases or exports into folders of their own",
            )
        if abs(step - usual) > max(_STEP_TOLERANCE * usual, 0.01):
            raise DataFault(
                f"{folder}: a gap of {step:.2f} mm between the slices at {here} mm ({files[before].name}) "
                f"and {there} mm ({files[before + 1].name}); the others are {usual:.2f} mm apart",
                allowed="a series with every slice, evenly spaced",
                next="export the series again with the missing slice, or leave this scan out",
            )
