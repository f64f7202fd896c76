"""Made-up DICOM files, written by pydicom tag by tag: right ones, and those that scanners and archives make of them."""

from __future__ import annotations

import locale
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from lemis.formats import volume

CT, MR, PET, X_RAY = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "128", "1.1"))
ENHANCED_CT, ENHANCED_MR, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "4.1", "7"))
MODALITIES = {CT: "CT", MR: "MR", PET: "PT", X_RAY: "DX", ENHANCED_CT: "CT", ENHANCED_MR: "MR", CAPTURE: "OT"}
# The functional group that holds a tag of an enhanced file.
_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    **dict.fromkeys(("PixelSpacing", "SliceThickness"), "PixelMeasuresSequence"),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept", "RescaleType"), "PixelValueTransformationSequence"),
    **dict.fromkeys(("StackID", "TemporalPositionIndex", "DimensionIndexValues"), "FrameContentSequence"),
    "EffectiveEchoTime": "MREchoSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "FrameType": "MRImageFrameTypeSequence",
}


def slice_of(pixels: np.ndarray, number: int = 0, **tags: Any) -> Dataset:
    """A file of (rows, columns[, 3]) pixels, 2 mm above the last; ``tags`` replace its own, None takes one out."""
    bits = pixels.dtype.itemsize * 8
    kind = tags.pop("SOPClassUID", CT)
    facts: dict[str, Any] = {
        "SOPClassUID": kind,
        "SOPInstanceUID": f"1.2.3.{number + 1}",
        "Modality": MODALITIES[kind],
        "SeriesDescription": "series",
        "StudyInstanceUID": "1.2.9",
        "SeriesInstanceUID": "1.2.3",
        "SeriesNumber": 1,
        "ImagePositionPatient": [-10.0, -20.0, 5.0 + 2.0 * number],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.75, 0.5],
        "SamplesPerPixel": pixels.shape[2] if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": tags.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if pixels.ndim == 3:
        facts["PlanarConfiguration"] = 0
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(kind)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(facts["SOPInstanceUID"])
    for name, value in (facts | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    if bits == 8:
        dataset.add_new("PixelData", "OB", pixels.tobytes() + b"\0" * (pixels.size % 2))
    else:
        dataset.add_new("PixelData", "OW", pixels.tobytes())
    return dataset


def write(
    folder: Path,
    array: np.ndarray,
    *,
    each: Callable[[int], Mapping[str, Any]] = lambda _number: {},
    names: Sequence[str] | None = None,
    **tags: Any,
) -> list[Path]:
    """Write (columns, rows, slices) values as one file per slice; ``each`` gives the tags of a slice by its number."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / (names[number] if names else f"{number}.dcm") for number in range(array.shape[2])]
    for number, file in enumerate(files):
        dataset = slice_of(np.ascontiguousarray(array[:, :, number].T), number, **(tags | dict(each(number))))
        dataset.save_as(file, enforce_file_format=True)
    return files


def groups(tags: Mapping[str, Any]) -> Dataset:
    """Tags in the functional groups that they belong to."""
    item = Dataset()
    for name, value in tags.items():
        if _GROUPS[name] not in item:
            setattr(item, _GROUPS[name], [Dataset()])
        setattr(getattr(item, _GROUPS[name])[0], name, value)
    return item


def enhanced(
    frames: np.ndarray,
    *,
    each: Callable[[int], Mapping[str, Any]] = lambda _number: {},
    shared: Mapping[str, Any] = {},
    **tags: Any,
) -> Dataset:
    """One file of (frames, rows, columns) pixels, 2 mm apart; ``each`` gives the groups of a frame by its number."""
    top = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    dataset = slice_of(frames[0], **({"SOPClassUID": ENHANCED_MR} | top | tags))
    dataset.NumberOfFrames = len(frames)
    common = {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "PixelSpacing": [0.75, 0.5]}
    dataset.SharedFunctionalGroupsSequence = [groups(common | dict(shared))]
    dataset.PerFrameFunctionalGroupsSequence = [
        groups({"ImagePositionPatient": [-10.0, -20.0, 5.0 + 2.0 * number]} | dict(each(number)))
        for number in range(len(frames))
    ]
    raw = np.ascontiguousarray(frames).tobytes()
    dataset["PixelData"].value = raw + b"\0" * (len(raw) % 2)
    return dataset


def write_enhanced(file: Path, frames: np.ndarray, **tags: Any) -> Path:
    """Write what ``enhanced`` makes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    enhanced(frames, **tags).save_as(file, enforce_file_format=True)
    return file


def with_raw(file: Path, tag: int, value: bytes) -> None:
    """Put bytes in place of the value of a tag of a written file, whatever they mean (the file's explicit VR stays)."""
    content = file.read_bytes()
    key = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    at = content.index(key, 132)
    assert content[at + 4 : at + 6] not in (b"OB", b"OW", b"SQ", b"UN", b"UT"), "tags of short length only"
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    value += b" " * (len(value) % 2)
    file.write_bytes(content[: at + 6] + len(value).to_bytes(2, "little") + value + content[at + 8 + length :])


SeriesWriter = Callable[..., list[Path]]


@pytest.fixture
def write_series() -> Iterator[SeriesWriter]:
    """Write (columns, rows, slices) int16 values as one file per slice."""
    before = locale.setlocale(locale.LC_ALL)

    def write(
        folder: Path,
        array: np.ndarray,
        *,
        positions: Sequence[Sequence[float]] | None = None,
        orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
        uid: str = "1.2.3",
        names: Sequence[str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        positions = positions or [(-10.0, -20.0, 5.0 + 2.0 * z) for z in range(array.shape[2])]
        files = []
        for z, position in enumerate(positions):
            image: Any = sitk.GetImageFromArray(np.ascontiguousarray(array[:, :, z : z + 1].T))
            image.SetSpacing((0.5, 0.75, 2.0))
            facts = {
                "0008|0060": "CT",
                "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
                "0008|0018": f"{uid}.{z + 1}",
                "0020|000d": "1.2.9",
                "0020|000e": uid,
                "0020|0032": "\\".join(map(str, position)),
                "0020|0037": "\\".join(map(str, orientation)),
                "0028|1052": "-1024",
                "0028|1053": "1",
            } | (tags or {})
            for key, value in facts.items():
                image.SetMetaData(key, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            files.append(folder / (names[z] if names else f"{z}.dcm"))
            writer.SetFileName(str(files[-1]))
            writer.SetImageIO("GDCMImageIO")
            writer.Execute(image)
        return files

    yield write
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the process in the locale C (reading does not)


def stored(folder: Path) -> np.ndarray:
    """Values in the order of the files: columns, rows, slices."""
    scan = volume.read(folder)
    return scan.array[::-1, ::-1] if scan.array.ndim == 3 else scan.array[::-1, ::-1, :, :]


def notes(path: Path) -> dict[str, str]:
    return {note.kind: note.seen for note in volume.read(path).source.notes}
