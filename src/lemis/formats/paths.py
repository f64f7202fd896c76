"""What the path of a scan says: its format, by the end of its name, and which part of the file is meant.

- ``patient001_4d.nii.gz#frame=7``: the seventh volume of a time series (they count from 1)
- ``Ground#grid=DICOM_anon``: a folder with one picture per slice of the DICOM series in ``DICOM_anon`` beside it, in
  the order of the names of the series' files; a label map
- ``pet_ct#series=4``: of a folder of several DICOM series, the one of that Series Number, UID or description, and of a
  series of several stacks (echoes, phases) one: ``pet_ct#series=4:EchoTime=4.92`` (``dicom/choice.py``)
- ``ISIC_0000000.jpg#grey``: a colour picture as a grey one
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lemis.errors import DataFault, UsageError
from lemis.formats import headers, packed
from lemis.formats.dicom.folders import is_dicom

FORMATS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mgz": "mgh",
    ".mgh": "mgh",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "meta",
    ".mhd": "meta",
    ".png": "picture",
    ".tif": "picture",
    ".tiff": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".bmp": "picture",
    ".dcm": "dicom",
}
# What a label map may be called, first the one we would choose. JPEG would change the values.
LABEL_SUFFIXES = {
    "nifti": (".nii.gz", ".nii"),
    "mgh": (".mgz", ".mgh"),
    "nrrd": (".nrrd",),
    "meta": (".mha", ".mhd"),
    "dicom": (".nii.gz", ".nii"),
    "picture": (".png", ".tif", ".tiff"),
}
# Scans that we do not read, by the end of their names.
_UNREAD = {
    **dict.fromkeys((".hdr", ".img", ".hdr.gz", ".img.gz"), "NIfTI or Analyze pairs (.hdr and .img)"),
    ".mnc": "MINC files",
    **dict.fromkeys((".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"), "NIfTI files in another compression than gzip"),
}
_DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in a file beside them
PART = re.compile(r"^(.+)#(?:frame=(?P<frame>\d+)|grid=(?P<grid>[^#]+)|series=(?P<series>[^#]+)|(?P<grey>grey))$", re.S)


def file_of(path: Path) -> Path:
    """The file or folder itself of a path that may name a part of it (``#frame=7``)."""
    match = PART.match(str(path))
    return Path(match.group(1)) if match else Path(path)


def series_of(path: Path) -> str:
    """What a path says after ``#series=``; "" where it does not."""
    match = PART.match(str(path))
    return (match["series"] or "") if match else ""


def suffix_of(path: Path) -> str:
    """``".nii.gz"`` and the like (``".nrrd"`` for ``.seg.nrrd``); ``""`` for a format that we do not read."""
    name = file_of(Path(path)).name.lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), "")


def may_be_dicom(path: Path) -> bool:
    """Whether a file has a name that DICOM files have: ``.dcm``, or one that says no format that we know."""
    return suffix_of(path) in ("", ".dcm")


def strange_format(path: Path) -> str:
    """The name of a format of scans that we do not read; ``""`` for anything else."""
    name = file_of(Path(path)).name.lower()
    return next((title for suffix, title in _UNREAD.items() if name.endswith(suffix)), "")


def is_picture(path: Path) -> bool:
    """Whether a file's format is one that states no spacing, so that lengths in it are pixels."""
    return FORMATS.get(suffix_of(path)) == "picture"


def format_of(path: Path) -> str:
    """``nifti``, ``mgh``, ``nrrd``, ``meta``, ``dicom`` or ``picture``.

    Raises:
        UsageError: There is no such file, or we do not read its format.
        DataFault: It is no file that ends, such as a named pipe.
    """
    file = file_of(path)
    if file.is_dir():
        return "dicom"
    if not file.exists():
        raise UsageError(
            f"{path} does not exist", allowed="a file, or a folder of one DICOM series", next="check the path"
        )
    packed.refuse_special(file)
    suffix = suffix_of(path)
    if not suffix and is_dicom(file):
        return "dicom"
    if not suffix:
        raise UsageError(
            f"{path}: {strange_format(path) or 'files of this format'} are not read",
            allowed=f"{', '.join(FORMATS)}, or a folder of one DICOM series",
            next="convert it to .nii.gz",
        )
    return FORMATS[suffix]


def label_suffix(path: Path) -> str:
    """The suffix that a label map of the scan at ``path`` gets: its own where that keeps labels exactly."""
    path = Path(path)
    suffix, allowed = suffix_of(path), LABEL_SUFFIXES[format_of(path)]
    return suffix if suffix in allowed else allowed[0]


def maps_by_scan(folder: Path) -> dict[str, Path]:
    """The label maps of a folder itself by the scan that they are named by, in order of name; none of no folder.

    Of several of one scan, the last.
    """
    return {scan: files[-1] for scan, files in all_maps_by_scan(folder).items()}


def all_maps_by_scan(folder: Path) -> dict[str, list[Path]]:
    """As ``maps_by_scan``, with every file of each scan."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and suffix_of(path):
            found.setdefault(path.name[: -len(suffix_of(path))].removesuffix(".seg"), []).append(path)
    return found


def stamp(path: Path, *, moved_is_other: bool = True) -> str:
    """Names, times and sizes of the files that a path stands for, as a digest: another scan has another one.

    The time of the last change of the file's state is among them: that of its content can be set, and archives and
    copies set it, so that two scans without compression may agree in name, size and time of content. A file that is
    moved gets another one; without ``moved_is_other`` it is left out.

    A folder stands for the files in it, a header (``.mhd``, ``.nhdr``) for all files of its name and those it names.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = file_of(path)
    if file.is_dir():
        parts = sorted(file.iterdir())
    elif suffix_of(file) in _DETACHED:
        beside = (part for part in file.parent.iterdir() if part.stem == file.stem)
        parts = sorted({file, *beside, *_named_in(file)})
    else:
        parts = [file]
    states = [(part.name, part.stat()) for part in parts]
    facts = [
        (name, state.st_mtime_ns, *([state.st_ctime_ns] if moved_is_other else []), state.st_size)
        for name, state in states
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _named_in(header: Path) -> tuple[Path, ...]:
    """Data files of a header; none where it cannot be read, which is said when the scan is."""
    try:
        return headers.read(header, FORMATS[suffix_of(header)]).files
    except DataFault:
        return ()
