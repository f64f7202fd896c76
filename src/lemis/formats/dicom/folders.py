"""Which files of a folder are DICOM, and which series, study and patient they belong to. No voxels are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lemis.errors import DataFault
from lemis.formats.dicom.tags import SLICED, Header, read_header

_SUFFIXES = (".dcm", ".dicom", ".ima")
# Files that lie beside slices; without these suffixes, their content would have to be looked at.
_OTHERS = (
    *(".gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw", ".png", ".tif", ".tiff"),
    *(".jpg", ".jpeg", ".bmp", ".csv", ".tsv", ".json", ".txt", ".md", ".xml", ".yaml", ".pdf", ".zip", ".tar"),
)
# What is written in place of a patient's number.
_NOBODY = re.compile(r"^(?:0+|none|na|n/a|unknown|patient|test)$|anon|de-?ident|removed", re.IGNORECASE)


def is_dicom(file: Path) -> bool:
    """True if the content of a file begins as DICOM does, whatever its name; False for a DICOMDIR."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:  # so nothing says that it is DICOM
        return False
    return start[128:] == b"DICM" or _begins_with_a_group(start)


def _begins_with_a_group(start: bytes) -> bool:
    """Whether bytes are the first element of group 0002 or 0008: files of before 1993 have no preamble."""
    if len(start) < 12:
        return False
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    explicit = start[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"OB", b"SH", b"LO", b"PN", b"ST")
    short = int.from_bytes(start[4:8], "little") <= 64
    return (group == 2 and element <= 0x16 and explicit) or (group == 8 and element <= 0x1F and (explicit or short))


def candidates(folder: Path) -> Iterator[Path]:
    """Files of a folder that are DICOM by their names or their content, sorted by name."""
    for file in sorted(folder.iterdir()):
        suffix = file.suffix.lower()
        if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or suffix in _OTHERS:
            continue
        if file.is_file() and (suffix in _SUFFIXES or is_dicom(file)):
            yield file


def is_series_folder(folder: Path) -> bool:
    """True where the folder itself (not its sub-folders) holds DICOM files."""
    return any(True for _ in candidates(folder))


def series_folders(folder: Path) -> list[Path]:
    """All folders below one that hold DICOM files themselves, however deep: patient, study, series."""
    return [below for below in _folders_below(folder, {folder.resolve()}) if is_series_folder(below)]


def _folders_below(folder: Path, walked: set[Path]) -> Iterator[Path]:
    """Every folder below, once each, even if links lead back up."""
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.name.startswith(".") and part.resolve() not in walked:
            walked.add(part.resolve())
            yield part
            yield from _folders_below(part, walked)


def single_images(folder: Path) -> list[Path]:
    """The files of a folder in which each is an image of its own: X-rays, or single slices of several series.

    Empty if the folder holds a series, or only one image. A file that cannot be read is included: reading it says why.
    """
    found: list[Path] = []
    series: set[str] = set()
    for file in candidates(folder):
        header = readable_header(file)
        if header is None:
            found.append(file)
            continue
        if not header.has_image:
            continue
        sliced = bool(header.text("ImagePositionPatient")) or header.text("Modality") in SLICED
        if sliced and header.text("SeriesInstanceUID") in series:
            return []
        series.add(header.text("SeriesInstanceUID"))
        found.append(file)
    return found if len(found) > 1 else []


def studies(folders: Sequence[Path]) -> list[list[Path]]:
    """Folders of series, grouped by study."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        header = _first(folder)
        found.setdefault(header.text("StudyInstanceUID") if header else "", []).append(folder)
    return list(found.values())


def no_scan(folder: Path) -> str:
    """Why the DICOM files of a folder are not a scan (a localiser, say, or a report); "" if they may be one."""
    header = _first(folder)
    if header is None:
        return ""
    if header.is_localiser:
        return "a localiser"
    if header.text("Modality") == "SEG":
        return "a DICOM SEG object (a segmentation); convert it to .nii.gz to use it as a label"
    return "" if header.has_image else f"DICOM without an image ({header.text('Modality') or 'of no modality'})"


def description(folder: Path) -> str:
    """The Series Description in the first file of a folder; "" if there is none."""
    header = _first(folder)
    return header.text("SeriesDescription") if header else ""


def patient(path: Path) -> str:
    """The Patient ID in a file, or in the first file of a folder; "" if it is missing or was removed."""
    header = _first(path) if path.is_dir() else readable_header(path)
    name = header.text("PatientID") if header else ""
    return "" if _NOBODY.search(name) else name


def _first(folder: Path) -> Header | None:
    return next((readable_header(file) for file in candidates(folder)), None)


def readable_header(file: Path) -> Header | None:
    """The header of a file; None if it cannot be read, which is reported when the file itself is read."""
    try:
        return read_header(file)
    except DataFault:
        return None
