"""Scans in and label maps out: every format becomes one array in RAS+ order, and goes back on its own grid.

Canonical order is a permutation and flips of the stored axes, no resampling: axis 0 runs to the patient's
Right, 1 to Anterior, 2 to Superior, as nearly as the stored axes allow; or along the three directions that the reader
is given, so that scans of a data set lie alike (``frame.py``). World coordinates are mm, RAS.

- NIfTI (``.nii``, ``.nii.gz``, versions 1 and 2), FreeSurfer (``.mgz``, ``.mgh``): nibabel. The stored affine
  is kept exactly, shear included; a header in metres or micrometres keeps its unit. Where qform and sform codes are
  both 0 the world frame is unknown: we use nibabel's guess, write the header back unchanged, and ``check`` warns.
- NRRD (``.nrrd``, ``.nhdr``), MetaImage (``.mha``, ``.mhd``): SimpleITK, its LPS turned into RAS.
- A folder of one DICOM series, or a file that is an X-ray or a single slice: see ``dicom.py``. Label maps of it are
  written as NIfTI.
- PNG, TIFF, JPEG, BMP: Pillow. Pixels are 1 mm, x runs to the right, y upwards (the last row is y = 0);
  the pages of a TIFF are z. A picture that its camera says is to be turned (EXIF) is turned. Alpha is dropped; a
  palette picture gives its indices, which is what a mask saved so means.

What a header claims is held against the file before anything is allocated, and a packed file is read to its check sum
(``headers.py``, ``packed.py``).

A fourth axis, or vector voxels, are channels, however many there are; an axis of length 1 is dropped. Stored
values with slope and intercept are scaled in float64 and returned as float32; others keep their type.

A path may say which part of a file is meant:

- ``patient001_4d.nii.gz#frame=7``: the seventh volume of a time series (they count from 1)
- ``Ground#grid=DICOM_anon``: a folder with one picture per slice of the DICOM series in ``DICOM_anon`` beside it, in
  the order of the names of the series' files; a label map
- ``pet_ct#series=4``: of a folder of several DICOM series, the one of that Series Number or UID
- ``ISIC_0000000.jpg#grey``: a colour picture as a grey one
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis import files
from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import dicom, directions, headers, packed, segments
from lemis.formats.directions import Axes
from lemis.formats.names import readable
from lemis.formats.notes import Note

Array = npt.NDArray[Any]
Shape3 = tuple[int, int, int]

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
_STRANGE = {
    **dict.fromkeys((".hdr", ".img", ".hdr.gz", ".img.gz"), "NIfTI or Analyze pairs (.hdr and .img)"),
    ".mnc": "MINC files",
    **dict.fromkeys((".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"), "NIfTI files in another compression than gzip"),
}
_DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in a file beside them
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A written grid may differ from the wanted one by the rounding of a float32 affine, far below any voxel.
_WRITING = ".writing-"  # begins the names of folders that are written to before anything takes its place
_AFFINE_TOLERANCE_MM = 1e-3
# A packed file is read from its start to the frame that is asked for. Readers go from frame to frame, two at a time.
_FILMS, _FILM_BYTES = 2, 256_000_000
_MOST_CHANNELS = 4096  # no series is longer
_FEW_BYTES = 1024  # that may follow the voxels: padding, FreeSurfer's tags
_SPACING_TOLERANCE = 0.01  # of a spacing stated twice, of which one is rounded
# Lengths of a voxel, beyond which nothing is a scan: a nanometre, and a person.
_LEAST_MM, _MOST_MM = 1e-6, 2e3
_FARTHEST_MM = 1e7  # of the origin; beyond it, a header's float32 no longer tells two voxels apart
_METRES, _MICRONS = 1, 3  # NIfTI's codes of a unit of length; 2 is mm, 0 is unknown and taken for mm
_UNITS_MM = {0: 1.0, _METRES: 1000.0, 2: 1.0, _MICRONS: 0.001}
_PACKED = (".gz", ".mgz")
# How many bytes of pixels one byte of a picture may stand for: deflate's bound, and beyond any of the others.
_PICTURE_RATIOS = {"PNG": packed.DEFLATE_RATIO}
_PICTURE_RATIO = 4096
_EXIF_ORIENTATION = 0x0112
TRANSPARENT = "transparent in part"
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Image.Transpose that undoes each EXIF orientation
_PART = re.compile(
    r"^(.+)#(?:frame=(?P<frame>\d+)|grid=(?P<grid>[^#]+)|series=(?P<series>[^#]+)|(?P<grey>grey))$", re.S
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a file says of its own grid: all that is needed to write a label map back on it."""

    path: Path
    format: str  # nifti, mgh, nrrd, meta, dicom, picture
    shape: Shape3  # stored order; a 2D file has 1 last
    channels: int
    affine: npt.NDArray[np.float64]  # (4, 4), stored voxel -> mm RAS
    dtype: str  # as stored, before slope and intercept
    codes: tuple[int, int] | None = None  # NIfTI (qform_code, sform_code)
    unit_mm: float = 1.0  # the header's own unit of length; ``affine`` is in mm
    segments: dict[str, int] = field(default_factory=dict)  # names and values inside a .seg.nrrd
    notes: tuple[Note, ...] = ()  # what reading had to assume; what voxels show, only where they were read
    header: Any = field(default=None, repr=False)  # the format's own header
    along: Axes = ()  # what the canonical axes run along, as nearly as they can; (): the body axes

    @property
    def orientation(self) -> npt.NDArray[np.float64]:
        """(3, 2): per stored axis, the canonical axis it becomes and the direction (1 or -1)."""
        if self.along:
            turn = directions.turn_to(directions.of_affine(self.affine), directions.as_matrix(self.along))
            return directions.orientation(turn)
        from nibabel.orientations import io_orientation

        found: npt.NDArray[np.float64] = io_orientation(self.affine)
        return found

    @property
    def axes(self) -> Axes:
        """Where the canonical axes run. As ``along`` of a file on the same grid, they give it this one's order."""
        return directions.as_axes(directions.of_affine(self.canonical_affine))

    @property
    def axis_codes(self) -> str:
        """Directions of the stored axes, ``"LPS"`` for instance."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    @property
    def canonical_shape(self) -> Shape3:
        """Shape in canonical order."""
        shape = [0, 0, 0]
        for size, (axis, _) in zip(self.shape, self.orientation, strict=True):
            shape[int(axis)] = size
        return shape[0], shape[1], shape[2]

    @property
    def canonical_affine(self) -> npt.NDArray[np.float64]:
        """(4, 4), canonical voxel -> mm RAS."""
        from nibabel.orientations import inv_ornt_aff

        affine: npt.NDArray[np.float64] = self.affine @ inv_ornt_aff(self.orientation, self.shape)
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Canonical voxel size."""
        return _column_norms(self.canonical_affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan in memory."""

    array: Array  # (X, Y, Z) or (X, Y, Z, C), in canonical order
    affine: npt.NDArray[np.float64]  # (4, 4), voxel of ``array`` -> mm RAS
    source: Source

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the axes of ``array``."""
        return _column_norms(self.affine)


def read(path: Path, along: Axes = ()) -> Volume:
    """Read a file, or a folder that holds one DICOM series.

    Args:
        path: The file or folder, or a part of it.
        along: Directions that the canonical axes run along; (): the body axes, RAS+.

    Raises:
        UsageError: There is no such file, or we do not read its format.
        DataFault: The file is damaged, is no image (DICOM SEG), or holds no intensities (complex numbers).
    """
    path = Path(path)
    source, stored = _reader(path)(path, True)
    return _canonical(replace(source, along=along), stored)


def _canonical(source: Source, stored: Array | None) -> Volume:
    from nibabel.orientations import apply_orientation

    assert stored is not None
    array = apply_orientation(_native(stored), source.orientation)
    return Volume(array=array, affine=source.canonical_affine, source=source)


def read_header(path: Path) -> Source:
    """What the file says of its grid, without its voxels. Raises like ``read``."""
    path = Path(path)
    source, _ = _reader(path)(path, False)
    return source


def file_of(path: Path) -> Path:
    """The file or folder itself of a path that may name a part of it (``#frame=7``)."""
    match = _PART.match(str(path))
    return Path(match.group(1)) if match else Path(path)


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


def suffix_of(path: Path) -> str:
    """``".nii.gz"`` and the like (``".nrrd"`` for ``.seg.nrrd``); ``""`` for a format that we do not read."""
    name = file_of(Path(path)).name.lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), "")


def strange_format(path: Path) -> str:
    """The name of a format of scans that we do not read; ``""`` for anything else."""
    name = file_of(Path(path)).name.lower()
    return next((title for suffix, title in _STRANGE.items() if name.endswith(suffix)), "")


def is_picture(path: Path) -> bool:
    """Whether a file's format is one that states no spacing, so that lengths in it are pixels."""
    return FORMATS.get(suffix_of(path)) == "picture"


def label_suffix(path: Path) -> str:
    """The suffix that a label map of the scan at ``path`` gets: its own where that keeps labels exactly."""
    path = Path(path)
    suffix, allowed = suffix_of(path), LABEL_SUFFIXES[_format_of(path)]
    return suffix if suffix in allowed else allowed[0]


def write_labels(labels: Array, like: Source, path: Path) -> Path:
    """Write a label map on the grid of the file that ``like`` describes, in that file's format.

    Args:
        labels: (X, Y, Z) integers in canonical order. The smallest integer type that holds them is stored.
        like: ``read(...).source`` or ``read_header(...)`` of the scan.
        path: Where to; its suffix is one of ``LABEL_SUFFIXES`` of the scan's format (see ``label_suffix``).

    Raises:
        UsageError: A suffix of another format, or values that the format cannot hold.
        LemisError: What was written is not on the scan's grid (nothing is left at ``path``).
    """
    path = Path(path)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != like.canonical_shape:
        raise ValueError(f"labels {labels.dtype} {labels.shape} for a scan of shape {like.canonical_shape}")
    allowed = LABEL_SUFFIXES[like.format]
    if suffix_of(path) not in allowed:
        raise UsageError(
            f"label map {path.name} for {like.path.name}",
            allowed=f"labels of this scan are written as {' or '.join(allowed)}",
            next=f"name it {path.name.split('.')[0]}{allowed[0]}",
        )
    from nibabel.orientations import apply_orientation, ornt_transform

    back = ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), like.orientation)
    stored = np.ascontiguousarray(apply_orientation(labels, back))
    stored = stored.astype(_label_type(labels, like.format, path))
    write = {
        "nifti": _write_nifti,
        "mgh": _write_nifti,
        "dicom": _write_nifti,
        "picture": _write_picture,
    }.get(like.format, _write_itk)
    with _replacing(path) as temporary:
        write(stored, like, temporary)
        _same_grid(read_header(temporary), like)
    return path


def write_volume(array: Array, affine: npt.NDArray[np.float64], path: Path) -> Path:
    """Write ``array``, (X, Y, Z) or (X, Y, Z, C), as NIfTI with the (4, 4) affine voxel -> mm RAS."""
    import nibabel

    if suffix_of(path) not in LABEL_SUFFIXES["nifti"]:
        raise UsageError(f"{path}", allowed="write_volume writes .nii and .nii.gz", next=f"{Path(path).stem}.nii.gz")
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with _replacing(Path(path)) as temporary:
        nibabel.save(image, temporary)
    return Path(path)


# ---------------------------------------------------------------- which format


def _format_of(path: Path) -> str:
    file = file_of(path)
    if file.is_dir():
        return "dicom"
    if not file.exists():
        raise UsageError(
            f"{path} does not exist", allowed="a file, or a folder of one DICOM series", next="check the path"
        )
    packed.refuse_special(file)
    suffix = suffix_of(path)
    if not suffix and dicom.is_dicom(file):
        return "dicom"
    if not suffix:
        raise UsageError(
            f"{path}: {strange_format(path) or 'files of this format'} are not read",
            allowed=f"{', '.join(FORMATS)}, or a folder of one DICOM series",
            next="convert it to .nii.gz",
        )
    return FORMATS[suffix]


def _reader(path: Path) -> Callable[[Path, bool], tuple[Source, Array | None]]:
    readers: dict[str, Callable[[Path, bool], tuple[Source, Array | None]]] = {
        "nifti": _nifti,
        "mgh": _nifti,
        "nrrd": _itk,
        "meta": _itk,
        "dicom": _dicom,
        "picture": _picture,
    }
    kind, match = _format_of(path), _PART.match(str(path))
    if match is None:
        return readers[kind]
    if match["frame"] and readers[kind] is _nifti:
        return partial(_nifti, frame=int(match["frame"]))
    if match["grid"] and kind == "dicom":
        return partial(_slices, grid=match["grid"])
    if match["series"] and kind == "dicom":
        return partial(_dicom, series=match["series"])
    if match["grey"] and kind == "picture":
        return partial(_picture, grey=True)
    raise UsageError(
        f"{path}",
        allowed="#frame=7 of NIfTI and FreeSurfer files, #grey of pictures, #grid=FOLDER of folders of pictures, "
        "#series=4 of folders of DICOM files",
        next=f"give {file_of(path)}",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around every call of a library that reads a file: whatever it raises is a fault of that file.

    Nothing of our own belongs inside, so that a bug of ours is not taken for a damaged scan.
    """
    try:
        yield
    except LemisError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataFault:
    """What a library said of a file, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # ITK puts the place in its own code first, and the reason last.
    reason = lines[-1] if "ITK" in str(error) or "itk::" in str(error) else " ".join(lines)
    return DataFault(
        f"{path} cannot be read: {readable(reason)}",
        allowed="a complete file of the format that its name says",
        next="copy or export the file again, or leave it out",
    )


def _not_an_intensity(path: Path, what: str, repair: str) -> DataFault:
    return DataFault(f"{path} holds {what}", allowed="one real number per voxel and channel", next=repair)


def _usable(source: Source) -> Source:
    if min(source.shape) < 1:
        raise DataFault(f"{source.path} has shape {source.shape}", allowed="at least one voxel", next="export it again")
    linear = source.affine[:3, :3]
    finite = bool(np.isfinite(source.affine).all())
    lengths = np.abs(linear).max(axis=0) if finite else np.ones(3)  # squares could overflow
    if lengths.min() > 0 and not (lengths.min() >= _LEAST_MM and lengths.max() <= _MOST_MM):
        raise DataFault(
            f"{source.path} has voxels of {' x '.join(f'{length:.4g}' for length in lengths)} mm",
            allowed=f"{_LEAST_MM:g} to {_MOST_MM:g} mm",
            next="write the spacing into the header anew, from the original scan",
        )
    if finite and np.abs(source.affine[:3, 3]).max() > _FARTHEST_MM:
        raise DataFault(
            f"{source.path} has its origin at {source.affine[:3, 3].tolist()} mm",
            allowed=f"{-_FARTHEST_MM:g} to {_FARTHEST_MM:g} mm",
            next="write the origin into the header anew, from the original scan",
        )
    if not finite or lengths.min() == 0 or abs(np.linalg.det(linear / lengths)) < 1e-6:
        raise DataFault(
            f"{source.path} has an affine that is no grid: {source.affine[:3].tolist()}",
            allowed="three directions that are finite and span space",
            next="write the header anew from the original scan",
        )
    return source


# ---------------------------------------------------------------- NIfTI and FreeSurfer


def _nifti(path: Path, with_voxels: bool, frame: int | None = None) -> tuple[Source, Array | None]:
    import nibabel

    with reading(path):
        image: Any = _opened(file_of(path))
        if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image | nibabel.MGHImage):
            raise ValueError(f"its content is {type(image).__name__}")
        dtype, affine = image.get_data_dtype(), np.asarray(image.affine, dtype=np.float64)
    if dtype.kind == "c":
        raise _not_an_intensity(path, f"complex numbers ({dtype})", "save the magnitude as float32")
    colours = len(dtype.names) if dtype.names else 1  # RGB24, RGBA32
    if frame is not None:
        _refuse_frame(path, image.shape, frame)
    shape, channels = _spatial(path, image.shape if frame is None else image.shape[:3], colours)
    header = image.header
    codes = (int(header["qform_code"]), int(header["sform_code"])) if "sform_code" in header else None
    unit_mm = 1.0 if codes is None else _unit_mm(path, header)
    source = _usable(
        Source(
            path=path,
            format=FORMATS[suffix_of(path)],
            shape=shape,
            channels=channels,
            affine=affine * np.array([[unit_mm], [unit_mm], [unit_mm], [1.0]]),
            dtype="RGB" if dtype.names else dtype.newbyteorder("=").name,
            codes=codes,
            unit_mm=unit_mm,
            notes=() if codes is None else _nifti_notes(path, header, codes, unit_mm),
            header=header,
        )
    )
    if codes is not None and codes[0] > 0:
        _refuse_quaternion(path, header)
    _refuse_nifti_claim(path, image)
    if not with_voxels:
        return source, None
    with reading(path):
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        stored, surplus = _unscaled(image) if frame is None else (_frame(path, image, frame), 0)
    if surplus > max(_FEW_BYTES, _bytes_of(image) // 1000):
        source = replace(source, notes=(*source.notes, _more_than_said(image, surplus)))
    if dtype.names:
        stored = np.stack([stored[name] for name in dtype.names[:3]], axis=-1)  # alpha is no intensity
    elif (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which check looks for
            stored = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    return source, stored.reshape(shape if channels == 1 else (*shape, channels))


def _opened(file: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        # Not mapped into memory: a file that is cut short while it is read would end the process.
        return nibabel.load(file, mmap=False)
    except ImageFileError:
        if file.suffix.lower() in _PACKED:
            packed.verify_gzip(file, 0, 0)  # says what is wrong with the packing, where that is it
        raise


def _unit_mm(path: Path, header: Any) -> float:
    """The length of a NIfTI header's unit."""
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS_MM:
        raise DataFault(
            f"{path} has xyzt_units {int(header['xyzt_units'])}, whose unit of length is {code}",
            allowed="1 (metres), 2 (mm), 3 (micrometres), or 0 (not said: mm)",
            next="write 2 and the spacing in mm into the header, or convert the original scan again (dcm2niix)",
        )
    return _UNITS_MM[code]


def _nifti_notes(path: Path, header: Any, codes: tuple[int, int], unit_mm: float) -> tuple[Note, ...]:
    """What of the grid nibabel or we had to decide on."""
    file = file_of(path)
    with reading(path), gzip.open(file) if file.suffix.lower() in _PACKED else file.open("rb") as stream:
        stored = type(header)(stream.read(len(header.binaryblock)), header.endianness, check=False)  # as it stands
    notes = [
        Note(
            "unknown code",
            f"{name} {int(stored[name])} is no code of NIfTI; read as 0, not given",
            "find out how the scan lies, or convert the original again (dcm2niix)",
        )
        for name in ("qform_code", "sform_code")
        if int(stored[name]) != int(header[name])
    ]
    said = np.asarray(stored["pixdim"][1:4], dtype=np.float64)
    used = np.asarray(header["pixdim"][1:4], dtype=np.float64) * unit_mm
    axes = [axis for axis, size in enumerate(header.get_data_shape()[:3]) if size > 1]
    if codes[1] == 0:  # pixdim is the spacing
        if (said[axes] <= 0).any():
            notes.append(
                Note(
                    "spacing assumed",
                    f"pixdim is {_by(said)}; read as {_by(used)} mm",
                    "write the spacing into the header anew, from the original scan",
                )
            )
    elif codes[0] == 0:  # with both forms, check compares them
        placed = np.array(_column_norms(np.asarray(header.get_sform()))) * unit_mm
        if not np.allclose(used[axes], placed[axes], rtol=_SPACING_TOLERANCE):
            notes.append(
                Note(
                    "pixdim and sform disagree",
                    f"pixdim says {_by(used)} mm, the sform {_by(placed)} mm; we take the sform, others may not",
                    "find out which is right, and write it into both (nibabel: header.set_zooms)",
                )
            )
    return tuple(notes)


def _by(lengths: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def _refuse_quaternion(path: Path, header: Any) -> None:
    """Refuse a qform that is no rotation, even beside a good sform: a label map's header would repeat it."""
    try:
        header.get_qform()
    except ValueError as error:
        raise DataFault(
            f"{path} has a qform that is no rotation: "
            + ", ".join(f"{name} {float(header[name]):g}" for name in ("quatern_b", "quatern_c", "quatern_d")),
            allowed="numbers whose squares add up to 1 at most",
            next="convert the original scan again (dcm2niix), or set qform_code to 0 if the sform is right",
        ) from error


def _more_than_said(image: Any, surplus: int) -> Note:
    return Note(
        "more data than the header says",
        f"{surplus} bytes follow the {_bytes_of(image)} of {' x '.join(map(str, image.shape))} voxels; left out",
        "make sure that the header's sizes are right",
    )


def _refuse_nifti_claim(path: Path, image: Any) -> None:
    stored, file = image.dataobj, file_of(path)
    sizes = " x ".join(map(str, image.shape))
    packed.refuse_claim(
        path,
        stored.offset + _bytes_of(image),
        file.stat().st_size,
        f"{sizes} voxels of {stored.dtype.name}",
        ratio=packed.DEFLATE_RATIO if file.suffix.lower() in _PACKED else 1,
    )


def _bytes_of(image: Any) -> int:
    return math.prod(map(int, image.shape)) * int(image.dataobj.dtype.itemsize)


def _unscaled(image: Any) -> tuple[Array, int]:
    """Voxels as they are stored, of a packed file only if its check sum is right; and how many bytes follow them."""
    stored, file = image.dataobj, Path(image.file_map["image"].filename)
    if file.suffix.lower() not in _PACKED:
        return np.asarray(stored.get_unscaled()), file.stat().st_size - stored.offset - _bytes_of(image)
    unpacked, surplus = packed.read_gzip(file, stored.offset, _bytes_of(image))
    found: Array = unpacked.view(stored.dtype)
    return found.reshape(stored.shape, order="F"), surplus


class _Film:
    """All frames of one packed file, unpacked when the first of them is asked for."""

    def __init__(self, image: Any) -> None:
        self._image, self._lock = image, Lock()
        self._frames: Array | None = None

    def frame(self, number: int) -> Array:
        with self._lock:
            if self._frames is None:
                self._frames, _ = _unscaled(self._image)
            return np.array(self._frames[..., number])


_films: dict[tuple[str, int], _Film] = {}  # the latest last
_films_lock = Lock()


def _frame(path: Path, image: Any, frame: int) -> Array:
    """One volume of a time series, before slope and intercept; others of a packed file are kept for the next calls."""
    import nibabel

    file, stored = file_of(path), image.dataobj
    if file.suffix.lower() not in _PACKED:
        plain = nibabel.arrayproxy.ArrayProxy(str(file), (stored.shape, stored.dtype, stored.offset, 1.0, 0.0))
        return np.array(plain[..., frame - 1])
    if _bytes_of(image) > _FILM_BYTES:
        size = _bytes_of(image) // image.shape[3]
        unpacked, _ = packed.read_gzip(file, stored.offset + (frame - 1) * size, size)
        found: Array = unpacked.view(stored.dtype)
        return found.reshape(image.shape[:3], order="F")
    key = str(file), file.stat().st_mtime_ns
    with _films_lock:
        film = _films.pop(key, None) or _Film(image)
        _films[key] = film
        while len(_films) > _FILMS:
            del _films[next(iter(_films))]
    return film.frame(frame - 1)


def _refuse_frame(path: Path, shape: tuple[int, ...], frame: int) -> None:
    if len(shape) != 4 or not 1 <= frame <= shape[3]:
        raise DataFault(
            f"{path}: the file has shape {shape}",
            allowed=f"frames 1 to {shape[3]}" if len(shape) == 4 else "a frame of a file with four axes",
            next="unpack or export the file again, or correct the number of frames where it is stated",
        )


def _spatial(path: Path, shape: tuple[int, ...], colours: int = 1) -> tuple[Shape3, int]:
    """Spatial shape and number of channels of a stored (X, Y[, Z[, T[, C]]]) array."""
    if not shape or min(shape) < 1:
        raise DataFault(f"{path} has shape {tuple(shape)}", allowed="at least one voxel", next="export it again")
    space = (*shape, 1, 1)[:3]
    rest = [size for size in shape[3:] if size != 1]
    if len(rest) > 1 or (rest and colours > 1):
        raise _not_an_intensity(path, f"an array of shape {shape}", "save it with at most one axis of channels")
    channels = rest[0] if rest else min(colours, 3)
    if channels > _MOST_CHANNELS:
        raise _not_an_intensity(path, f"{channels} volumes", f"split it into files of {_MOST_CHANNELS} volumes at most")
    return (int(space[0]), int(space[1]), int(space[2])), int(channels)


def _write_nifti(stored: Array, like: Source, path: Path) -> None:
    import nibabel

    if like.format == "dicom":
        image = nibabel.Nifti1Image(stored, like.affine)
        image.set_sform(like.affine, code=1)
        # A qform cannot hold the shear of a tilted gantry; then the sform alone speaks.
        image.set_qform(like.affine, code=0 if is_sheared(like.affine) else 1)
        image.header.set_xyzt_units("mm")
    else:
        header = like.header.copy()
        affine = header.get_best_affine()  # now: an MGH header forgets its spacing with its shape
        header.set_data_dtype(stored.dtype)
        if like.format == "nifti":
            if len(header.get_data_shape()) == 2:
                stored = stored[:, :, 0]
            header.set_slope_inter(1.0, 0.0)
            header.set_intent("none")
            header["cal_min"] = header["cal_max"] = 0  # the scan's display window hides labels
            for text in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):  # may name the patient
                if text in header:
                    header[text] = b""
            header.extensions.clear()
        header.set_data_shape(stored.shape)
        kinds = {
            "mgh": nibabel.MGHImage,
            "Nifti1Header": nibabel.Nifti1Image,
            "Nifti2Header": nibabel.Nifti2Image,
        }
        kind = kinds["mgh"] if like.format == "mgh" else kinds[type(header).__name__]
        # nibabel leaves qform, sform and their codes alone as long as the affine is the header's own.
        image = kind(stored, affine, header)
    nibabel.save(image, path)


# ---------------------------------------------------------------- NRRD and MetaImage

_NO_SPACING = Note(
    "no spacing",
    "the header states no distance of voxels; 1 mm is assumed",
    "fine if lengths do not matter; otherwise export it with its spacing",
)


_NO_SPACE = Note(
    "unknown orientation",
    "the header names no space of the body: left, right, up and down are a guess",
    "fine if all scans lie alike; otherwise export it with its space (LPS or RAS)",
)


def _itk(path: Path, with_voxels: bool) -> tuple[Source, Array | None]:
    import SimpleITK as sitk  # noqa: N813

    kind = FORMATS[suffix_of(path)]
    with reading(path):
        header = headers.read(path, kind)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if kind == "nrrd" else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in pixel:
        raise _not_an_intensity(path, f"complex numbers ({pixel})", "save the magnitude as float32")
    size, vector = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    shape, channels = _spatial(path, (*size, vector) if vector > 1 and len(size) > 2 else size)
    channels = vector if vector > 1 else channels
    source = _usable(
        Source(
            path=path,
            format=kind,
            shape=shape,
            channels=channels,
            affine=LPS_TO_RAS @ itk_affine(reader),
            dtype=pixel,
            segments=segments.read(path, header.pairs, channels),
            notes=(*(() if header.spaced else (_NO_SPACING,)), *(() if header.oriented else (_NO_SPACE,))),
            header={
                "dimension": len(size),
                "spacing": reader.GetSpacing(),
                "origin": reader.GetOrigin(),
                "direction": reader.GetDirection(),
            },
        )
    )
    if not with_voxels:
        return source, None
    with reading(path):
        unpacked = headers.unpack(header)
        if unpacked is None:
            headers.verify(header)
            stored = sitk.GetArrayFromImage(reader.Execute())  # (T, Z, Y, X), vector components last
        else:
            stored = unpacked.reshape((*reversed(size), vector) if vector > 1 else tuple(reversed(size)))
    axes = tuple(reversed(range(len(size)))) + ((len(size),) if vector > 1 else ())
    return source, stored.transpose(axes).reshape(shape if channels == 1 else (*shape, channels))


def itk_affine(image: Any) -> npt.NDArray[np.float64]:
    """(4, 4) voxel -> mm LPS of a SimpleITK image or reader of 2, 3 or 4 dimensions."""
    n = image.GetDimension()
    keep = min(n, 3)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:keep, :keep]
    affine[:keep, :keep] = direction * np.array(image.GetSpacing())[:keep]
    affine[:keep, 3] = image.GetOrigin()[:keep]
    return affine


def _write_itk(stored: Array, like: Source, path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    dimensions = min(like.header["dimension"], 3)
    image = sitk.GetImageFromArray((stored[:, :, 0] if dimensions == 2 else stored).T)
    image.SetSpacing(like.header["spacing"][:dimensions])
    image.SetOrigin(like.header["origin"][:dimensions])
    full = like.header["dimension"]
    image.SetDirection(
        np.array(like.header["direction"]).reshape(full, full)[:dimensions, :dimensions].ravel().tolist()
    )
    sitk.WriteImage(image, str(path), useCompression=True)


# ---------------------------------------------------------------- DICOM


def _dicom(path: Path, with_voxels: bool, series: str | None = None) -> tuple[Source, Array | None]:
    file = file_of(path)
    if file.is_file():
        dicom.refuse_part_of_series(file)
    return _of_series(path, dicom.find_slice(file) if file.is_file() else dicom.find_series(file, series), with_voxels)


def read_dicom_slice(path: Path) -> Volume:
    """One file of a series, for who looks at single images; ``read`` takes whole series. Raises like ``read``."""
    source, stored = _of_series(path, dicom.find_slice(path), True)
    return _canonical(source, stored)


def _of_series(path: Path, series: dicom.Series, with_voxels: bool) -> tuple[Source, Array | None]:
    stored, found = dicom.read_voxels(series) if with_voxels else (None, ())
    source = Source(
        path=path,
        format="dicom",
        shape=series.shape,
        channels=series.channels,
        affine=LPS_TO_RAS @ series.affine_lps,
        dtype=series.dtype,
        notes=(*series.notes, *found),
    )
    return _usable(source), stored


def _slices(path: Path, with_voxels: bool, grid: str) -> tuple[Source, Array | None]:
    """A label map of one picture per slice of a DICOM series."""
    folder = file_of(path)
    series = dicom.find_series(folder.parent / grid)
    pictures = sorted((f for f in folder.iterdir() if is_picture(f)), key=_by_number)
    pictures = [file for file in pictures if not file.name.startswith(".")]
    if len(pictures) != len(series.files):
        raise DataFault(
            f"{path} holds {len(pictures)} pictures, and the series {len(series.files)} slices",
            allowed="one picture per slice",
            next="unpack the archive again, or leave the label out",
        )
    source = _usable(
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
    of_file = dict(zip(sorted(series.files, key=_by_number), pictures, strict=True))
    planes = [_plane(of_file[file], series.shape[:2]) for file in series.files]
    return source, np.stack(planes, axis=2)


def _plane(file: Path, size: tuple[int, int]) -> Array:
    """(columns, rows) values of a picture; white is 255 in black and white ones."""
    from PIL import Image

    packed.refuse_special(file)
    with reading(file), Image.open(file) as picture:
        stored = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if stored.shape != size[::-1]:
        raise DataFault(
            f"{file} is of shape {stored.shape}",
            allowed=f"one value per pixel of the slice, {size[::-1]}",
            next="unpack the archive again, or leave the label out",
        )
    return stored.T


def _by_number(file: Path) -> list[tuple[int, str]]:
    """Names in the order in which people count."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


# ---------------------------------------------------------------- pictures


def _picture(path: Path, with_voxels: bool, grey: bool = False) -> tuple[Source, Array | None]:
    with open_picture(path) as picture:
        with reading(path):
            source = _picture_source(path, picture)
        if grey:
            source = replace(source, channels=1, dtype="L")
        if not with_voxels:
            return source, None
        stored, opacity = _pages(picture, source)
    if opacity[0] < opacity[1]:
        source = replace(source, notes=(*source.notes, _transparent(opacity)))
    return source, stored


@contextmanager
def open_picture(path: Path) -> Iterator[Any]:
    """A picture as Pillow opens it, if its file can hold the pixels that it claims.

    Raises:
        DataFault: It cannot, or is no picture.
    """
    from PIL import Image

    file = file_of(path)
    with reading(path):
        picture = Image.open(file)
    with picture:
        with reading(path):
            pages, (width, height) = getattr(picture, "n_frames", 1), picture.size
            bits = 1 if picture.mode in ("1", "L", "P") else 8 * len(picture.getbands())  # at least
        packed.refuse_claim(
            path,
            width * height * pages * bits // 8,
            file.stat().st_size,
            f"{width} x {height} pixels" + (f" on {pages} pages" if pages > 1 else ""),
            ratio=_PICTURE_RATIOS.get(str(picture.format), _PICTURE_RATIO),
        )
        yield picture


def turn_of(picture: Any) -> int:
    """The EXIF orientation, 1 (none) to 8, that is still to be applied to a picture: Pillow turns a TIFF by itself."""
    return 1 if picture.format == "TIFF" else _exif_orientation(picture)


def _exif_orientation(picture: Any) -> int:
    turn = picture.getexif().get(_EXIF_ORIENTATION, 1)
    return turn if turn in _TURNS else 1


def upright(page: Any, turn: int) -> Any:
    """A picture, or a page of it, as people see it: turned by its camera's note."""
    return page.transpose(_TURNS[turn]) if turn in _TURNS else page


def _picture_source(path: Path, picture: Any) -> Source:
    mode = picture.mode
    raw = str(picture.tile[0][3]) if picture.tile else ""
    if ";16" in raw and mode not in ("I", "I;16", "I;16B", "I;16L"):
        raise _not_an_intensity(
            path, f"16-bit colour ({raw}), which Pillow cuts to 8 bits", "save one file per channel"
        )
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"):
        raise _not_an_intensity(path, f"a picture of mode {mode}", "save it as greyscale or RGB")
    noted, left = _exif_orientation(picture), turn_of(picture)
    if noted > 4 and left == 1 and picture.tile[0][0] == "raw":  # Pillow reads its rows with the length of its columns
        raise _not_an_intensity(path, f"an unpacked TIFF that is to be turned (orientation {noted})", "save it upright")
    pages, (width, height) = getattr(picture, "n_frames", 1), picture.size if left < 5 else picture.size[::-1]
    affine = np.eye(4)
    affine[1, 1], affine[1, 3] = -1.0, height - 1.0  # rows are stored from the top, y runs upwards
    return Source(
        path=path,
        format="picture",
        shape=(width, height, pages),
        channels=3 if mode in ("RGB", "RGBA") else 1,
        affine=affine,
        dtype=mode,
        notes=() if noted == 1 else (_turned(noted),),
    )


def _turned(turn: int) -> Note:
    return Note(
        "turned by its camera",
        f"EXIF orientation {turn}: read as viewers show it, not as its pixels are stored",
        "fine if its mask was drawn on what viewers show; otherwise save both anew without EXIF",
    )


def _transparent(opacity: tuple[int, int]) -> Note:
    return Note(
        TRANSPARENT,
        f"alpha is {opacity[0]} to {opacity[1]}; it is dropped, and what lies under transparent parts may be anything",
        "fine if the colours alone are the image; otherwise save it on a background, without transparency",
    )


def _pages(picture: Any, source: Source) -> tuple[Array, tuple[int, int]]:
    """(x, y, z[, colours]) pixels, and the least and the largest alpha; 255 where there is none."""
    mode = {"RGBA": "RGB", "LA": "L", "PA": "P"}
    pages: list[Array] = []
    turn, opacity = turn_of(picture), (255, 255)
    for number in range(source.shape[2]):
        with reading(source.path):
            if source.shape[2] > 1:
                picture.seek(number)
            if picture.mode in ("RGBA", "LA", "PA"):
                least, largest = picture.getchannel("A").getextrema()
                opacity = (least, largest) if not pages else (min(opacity[0], least), max(opacity[1], largest))
            wanted = "L" if source.dtype == "L" else mode.get(picture.mode, picture.mode)
            page = picture if picture.mode == wanted else picture.convert(wanted)
            pages.append(np.asarray(upright(page, turn)))
    if len({page.shape for page in pages}) > 1:
        raise DataFault(
            f"{source.path} has pages of different sizes",
            allowed="pages of one size",
            next="save one file per page",
        )
    stored = np.stack(pages, axis=2).swapaxes(0, 1)  # (rows, columns, page, ...) -> (x, y, z, ...)
    return stored.astype(np.uint8) if stored.dtype == bool else stored, opacity


def _write_picture(stored: Array, _like: Source, path: Path) -> None:
    from PIL import Image

    pages = [Image.fromarray(np.ascontiguousarray(stored[:, :, z].T)) for z in range(stored.shape[2])]
    tiff = suffix_of(path) in (".tif", ".tiff")
    options: dict[str, Any] = {"compression": "tiff_lzw"} if tiff else {}
    if len(pages) > 1:
        options |= {"save_all": True, "append_images": pages[1:]}
    pages[0].save(path, **options)


# ---------------------------------------------------------------- shared


def is_sheared(affine: npt.NDArray[np.float64]) -> bool:
    """True where the grid's axes are not at right angles (a tilted gantry), beyond rounding."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3)


def corner_distance_mm(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: Shape3) -> float:
    """The farthest that two affines place the same corner of a grid of ``shape`` apart."""
    corners = np.array([[x, y, z, 1] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


def _column_norms(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def _native(array: Array) -> Array:
    """The same values in this machine's byte order, in a type that NumPy computes with everywhere."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _label_type(labels: Array, kind: str, path: Path) -> npt.DTypeLike:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    types: dict[str, tuple[npt.DTypeLike, ...]] = {
        "mgh": (np.uint8, np.int16, np.int32),
        "picture": (np.uint8, np.uint16),
    }
    for dtype in types.get(kind, (np.uint8, np.uint16, np.int16, np.int32)):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:  # type: ignore[arg-type]
            return dtype
    raise UsageError(
        f"label values {low} to {high} in {path.name}",
        allowed="what the format holds: 0 to 65535 in pictures, 32-bit integers elsewhere",
        next="renumber the labels",
    )


def _same_grid(written: Source, like: Source) -> None:
    off = corner_distance_mm(written.affine, like.affine, like.shape)
    if written.shape != like.shape or off > _AFFINE_TOLERANCE_MM:
        raise LemisError(
            f"a label map for {like.path} came out on another grid: shape {written.shape} for {like.shape}, "
            f"{off:.4g} mm apart. It was not kept; please report this file's header."
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path of that name in a hidden folder beside it; what lies there moves over ``path`` on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.naming(path, written=path.parent / _WRITING),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=_WRITING) as folder,
    ):
        temporary = Path(folder) / path.name
        yield temporary
        # An .mhd names its data file: that one moves first.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == temporary):
            os.replace(file, path.parent / file.name)
