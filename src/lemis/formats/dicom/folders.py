"""Which files of a folder are DICOM, and which series, study and patient they belong to. No voxels are read.

DICOM SEG objects are no part of a series: they are labels, found by ``segmentations``.
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lemis.errors import DataFault
from lemis.formats.dicom import choice
from lemis.formats.dicom.tags import PER_FRAME, SLICED, Header, read_header

_SUFFIXES = (".dcm", ".dicom", ".ima")
# Files that lie beside slices; without these suffixes, their content would have to be looked at.
_OTHERS = (
    *(".gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw", ".png", ".tif", ".tiff"),
    *(".jpg", ".jpeg", ".bmp", ".csv", ".tsv", ".json", ".txt", ".md", ".xml", ".yaml", ".pdf", ".zip", ".tar"),
)
# Segmentation Storage and Label Map Segmentation Storage, as a UID ends in a file.
_SEGMENTATION = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47](?![.\d])")
_START_BYTES = 1024  # the class of an object stands in its first elements
# What is written in place of a patient's number.
_NOBODY = re.compile(r"^(?:0+|none|na|n/a|unknown|patient|test)$|anon|de-?ident|removed", re.IGNORECASE)


def is_dicom(file: Path) -> bool:
    """True if the content of a file begins as DICOM does, whatever its name; False for a DICOMDIR."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    start = _start_of(file)
    return start[128:132] == b"DICM" or _begins_with_a_group(start)


def is_segmentation(file: Path) -> bool:
    """True for a DICOM SEG object, by the class that its first bytes name."""
    try:
        state = file.stat()
    except OSError:
        return False
    when = state.st_size, state.st_mtime_ns, state.st_ctime_ns
    return stat.S_ISREG(state.st_mode) and _names_segmentation(file, *when)


@functools.lru_cache(maxsize=2**16)  # folders are gone through several times, and opening a file takes its time
def _names_segmentation(file: Path, *_state: int) -> bool:
    return _SEGMENTATION.search(_start_of(file)) is not None


def _start_of(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_START_BYTES)
    except OSError:  # so nothing says what it is
        return b""


def _begins_with_a_group(start: bytes) -> bool:
    """Whether bytes are the first element of group 0002 or 0008: files of before 1993 have no preamble."""
    if len(start) < 12:
        return False
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    explicit = start[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"OB", b"SH", b"LO", b"PN", b"ST")
    short = int.from_bytes(start[4:8], "little") <= 64
    return (group == 2 and element <= 0x16 and explicit) or (group == 8 and element <= 0x1F and (explicit or short))


def candidates(folder: Path) -> Iterator[Path]:
    """Files of a folder that are DICOM by their names or their content, sorted by name; no SEG objects."""
    return (file for file in _dicom_files(folder) if not is_segmentation(file))


def segmentations(folder: Path) -> list[Path]:
    """The DICOM SEG objects of a folder itself, sorted by name."""
    return [file for file in _dicom_files(folder) if is_segmentation(file)]


def _dicom_files(folder: Path) -> Iterator[Path]:
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
    """The files of a folder in which each is an image of its own: X-rays, single slices or enhanced files.

    Empty if the folder holds a series, or only one image. A file that cannot be read is included: reading it says why.
    Localisers and screenshots are left out where there is anything else.
    """
    found: dict[Path, bool] = {}  # whether there is nothing to say against it
    series: set[tuple[str, ...]] = set()
    for file in candidates(folder):
        header = readable_header(file)
        if header is None:
            found[file] = True
            continue
        if not header.has_image:
            continue
        sliced = bool(header.text("ImagePositionPatient")) or header.text("Modality") in SLICED
        if sliced and header.series in series:
            return []
        series.add(header.series)
        found[file] = not header.no_scan
    usable = [file for file, is_usable in found.items() if is_usable] or list(found)
    return usable if len(found) > 1 else []


def is_enhanced(file: Path) -> bool:
    """Whether a file is a scan by itself, of many frames that state their places."""
    header = readable_header(file) if file.is_file() else None
    return header is not None and PER_FRAME in header.sequences


class Listed(NamedTuple):
    """One series in a folder."""

    folder: Path
    name: str  # what names it after ``#series=``; "" where numbers and UIDs are those of others too
    first: Header
    images: int  # files, or the frames in them

    @property
    def title(self) -> str:
        """What people call it."""
        return choice.title_of(self.first)

    @property
    def path(self) -> Path:
        """What reads it, and no other series of the folder."""
        return Path(f"{self.folder}#series={self.name}")


def series_in(folder: Path) -> list[Listed]:
    """The series whose files lie in a folder itself, in the order of their files' names."""
    headers = [header for file in candidates(folder) if (header := readable_header(file)) is not None]
    groups = choice.series_of(headers)
    return [
        Listed(folder, choice.name_of(group, groups), group[0], sum(_frames(header) for header in group))
        for group in groups
    ]


def _frames(header: Header) -> int:
    text = header.text("NumberOfFrames")
    return int(text) if PER_FRAME in header.sequences and text.isdecimal() else 1


def looks_mixed(folder: Path) -> bool:
    """Whether the first, the middle and the last file of a folder tell that it holds several series.

    That it holds but one is only known when all of it is read, and is looked at again then.
    """
    return len({header.series for header in _some(folder)}) > 1


def _some(folder: Path) -> list[Header]:
    """The headers of the first, the middle and the last file of a folder."""
    files = list(candidates(folder))
    places = sorted({0, len(files) // 2, len(files) - 1}) if files else []
    return [header for at in places if (header := readable_header(files[at])) is not None]


def studies(folders: Sequence[Path]) -> list[list[Path]]:
    """Folders of series, grouped by study."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        header = _first(folder)
        found.setdefault(header.text("StudyInstanceUID") if header else "", []).append(folder)
    return list(found.values())


def no_scan(folder: Path) -> str:
    """Why the DICOM files of a folder are not a scan (a localiser, say, or a report); "" if they may be one."""
    reasons = [header.no_scan for header in _some(folder)]
    return reasons[0] if reasons and all(reasons) else ""


def description(folder: Path) -> str:
    """The Series Description in a file, or in the first file of a folder; "" if there is none."""
    header = header_of(folder)
    return header.text("SeriesDescription") if header else ""


def patient(path: Path, series: str = "") -> str:
    """The patient of a file or folder (``patient_of``), of a folder of several series that of the one named."""
    header = header_of(path, series) or header_of(path)
    return patient_of(header) if header else ""


def patient_of(header: Header) -> str:
    """The Patient ID in a header, however it is spelt (``0815``, ``815``); "" if it is missing or was removed."""
    name = header.text("PatientID")
    parts = re.findall(r"[0-9]+|[^\W\d_]+", name.casefold())
    return "" if _NOBODY.search(name) else "_".join(part.lstrip("0") or part for part in parts) or name


def header_of(path: Path, name: str = "") -> Header | None:
    """The header of a file, or of the first file of a folder: of that series where one is named (``choice``)."""
    if not path.is_dir():
        return readable_header(path)
    headers = (readable_header(file) for file in candidates(path))
    fit = (header for header in headers if header is not None and (not name or choice.is_meant(header, name)))
    return next((header for header in fit if name or not header.no_scan), None)


def _first(folder: Path) -> Header | None:
    return next((readable_header(file) for file in candidates(folder)), None)


def readable_header(file: Path) -> Header | None:
    """The header of a file; None if it cannot be read, which is reported when the file itself is read."""
    try:
        return read_header(file)
    except DataFault:
        return None
