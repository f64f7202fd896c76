"""Made-up DICOM series that lie anyhow in the body, label maps of them, and SEG objects of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

import dicoms
from lemis.formats import volume
from lemis.formats.dicom import codes
from lemis.formats.dicom.segmentation_out import Maker, Segment

SPACING_MM = (0.75, 0.5, 3.0)  # down a column, across a row, from slice to slice
AXIAL = np.eye(3)  # rows, columns and slices of a matrix: x, y and z in LPS
MAKER = Maker(runs="pcl-m4-all", digest="0123456789abcdef" * 4, version="0.1.0", when=datetime(2026, 3, 4, 5, 6, 7))


def rotation(*degrees: float) -> np.ndarray:
    """About x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, other = [k for k in range(3) if k != axis]
        about = np.eye(3)
        about[one, one] = about[other, other] = np.cos(angle)
        about[one, other], about[other, one] = -np.sin(angle), np.sin(angle)
        turn = about @ turn
    return turn


def write_series(
    folder: Path, shape: tuple[int, int, int] = (8, 5, 6), turn: np.ndarray = AXIAL, *, uid: str = "1.2.3",
    shift_mm: Sequence[float] = (0, 0, 0), reverse: bool = False, seed: int = 0, **tags: Any,
) -> Path:  # fmt: skip
    """A series of (columns, rows, slices); ``shift_mm`` moves each slice against the last, as a tilted gantry does.

    With ``reverse``, files are named and numbered against the normal of their slices.
    """
    values = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
    row, column, normal = turn.T

    def of_slice(number: int) -> dict[str, Any]:
        place = np.array([-30.0, 12.5, 40.0]) + number * (SPACING_MM[2] * normal + np.array(shift_mm))
        at = shape[2] - 1 - number if reverse else number
        return {
            "SOPInstanceUID": f"{uid}.{number + 1}",
            "InstanceNumber": at + 1,
            "ImagePositionPatient": [f"{x:.9g}" for x in place],
        }

    names = [f"{shape[2] - 1 - number if reverse else number:04}.dcm" for number in range(shape[2])]
    facts: dict[str, Any] = {
        "SeriesInstanceUID": uid, "StudyInstanceUID": "1.2.9", "FrameOfReferenceUID": f"{uid}.0",
        "ImageOrientationPatient": [f"{x:.9f}" for x in (*row, *column)], "PixelSpacing": list(SPACING_MM[:2]),
        "SliceThickness": SPACING_MM[2], "PatientID": "P1", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101",
        "PatientSex": "F", "StudyID": "7", "StudyDate": "20260102", "StudyTime": "101112", "AccessionNumber": "A1",
        "ReferringPhysicianName": "", "SeriesNumber": 4,
    }  # fmt: skip
    dicoms.write(folder, values, each=of_slice, names=names, **(facts | tags))
    return folder


def segments(*names: str) -> list[Segment]:
    """Structures of the values 1, 2, ..."""
    return [
        Segment(value=value, name=name, term=codes.term(name, {}) or codes.unknown(), colour="#e69f00")
        for value, name in enumerate(names, start=1)
    ]


def label_map(shape: Sequence[int], structures: int, seed: int = 0) -> np.ndarray:
    """Values in canonical order, strewn; the first and the last slice along each axis are empty where there is room."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random(shape) < 0.3, random.integers(1, structures + 1, shape), 0).astype(np.uint16)
    for axis, size in enumerate(shape):
        if size > 3:
            np.moveaxis(labels, axis, 0)[[0, -1]] = 0
    return labels


def write(labels: np.ndarray, series: Path, structures: Sequence[Segment], path: Path, kind: str = "BINARY") -> Path:
    """By Lemis."""
    volume.write_dicom_segmentation(labels, volume.read_header(series), structures, MAKER, kind, path)
    return path


def by_others(
    path: Path, series: Path, masks: np.ndarray, names: Sequence[str], kind: str = "BINARY", **more: Any
) -> Path:
    """A SEG object by highdicom of (slices, rows, columns, segments) masks, slices in the order of the files' names."""
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes as dictionary

    hd.seg.Segmentation(
        source_images=[dcmread(file, stop_before_pixels=True) for file in sorted(series.glob("*.dcm"))],
        pixel_array=masks.copy(), segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=number, segment_label=name, segmented_property_category=dictionary.SCT.Tissue,
                segmented_property_type=dictionary.SCT.Tissue, algorithm_type="MANUAL",
            )
            for number, name in enumerate(names, start=1)
        ],
        series_instance_uid="1.2.77", series_number=9, sop_instance_uid="1.2.77.1", instance_number=1,
        manufacturer="others", manufacturer_model_name="m", software_versions="1", device_serial_number="1", **more,
    ).save_as(path)  # fmt: skip
    return path


def marked_voxels(array: np.ndarray, affine_lps: np.ndarray, grid: Any) -> dict[tuple[int, ...], int]:
    """Value by voxel of a SimpleITK image of all that is not 0 in an array that lies elsewhere in its world.

    Raises:
        AssertionError: A voxel of the array is not the middle of one of the image.
    """
    found = {}
    for voxel in np.argwhere(array):
        place = affine_lps[:3, :3] @ voxel + affine_lps[:3, 3]
        at = np.array(grid.TransformPhysicalPointToContinuousIndex(place.tolist()))
        assert np.abs(at - at.round()).max() < 0.01, (voxel, at)
        found[tuple(at.round().astype(int).tolist())] = int(array[tuple(voxel)])
    return found


def seen_by_simpleitk(series: Path) -> Any:
    """The image that SimpleITK makes of a series, whose order it finds by itself."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader_GetGDCMSeriesFileNames(str(series)))
    return reader.Execute()


def affine_of(series: Path) -> np.ndarray:
    """(4, 4), voxel (column, row, slice) -> mm LPS, of a series as it is stored."""
    header = volume.read_header(series)
    affine: np.ndarray = np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.affine
    return affine
