"""NIfTI (``.nii``, ``.nii.gz``, versions 1 and 2) and FreeSurfer (``.mgz``, ``.mgh``), by nibabel.

The stored affine is kept exactly, shear included; a header in metres or micrometres keeps its unit. Where qform and
sform codes are both 0 the world frame is unknown: we use nibabel's guess, write the header back unchanged, and
``check`` warns. Stored values with slope and intercept are scaled in float64 and returned as float32.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import packed
from lemis.formats.faults import not_an_intensity, reading
from lemis.formats.grids import is_sheared, spacing_of
from lemis.formats.notes import Note
from lemis.formats.paths import FORMATS, file_of, suffix_of
from lemis.formats.source import Source, spatial, usable

Array = npt.NDArray[Any]


# A packed file is read from its start to the frame that is asked for. Readers go from frame to frame, two at a time.
_FILMS, _FILM_BYTES = 2, 256_000_000
_FEW_BYTES = 1024  # that may follow the voxels: padding, FreeSurfer's tags
_SPACING_TOLERANCE = 0.01  # of a spacing stated twice, of which one is rounded
_METRES, _MICRONS = 1, 3  # NIfTI's codes of a unit of length; 2 is mm, 0 is unknown and taken for mm
_UNITS_MM = {0: 1.0, _METRES: 1000.0, 2: 1.0, _MICRONS: 0.001}
_PACKED = (".gz", ".mgz")
_SCALED_AT_ONCE = 1 << 18  # values; 2 MB in float64


def read(path: Path, with_voxels: bool, frame: int | None = None) -> tuple[Source, Array | None]:
    """A file, or one of its frames, which count from 1. Raises like ``volume.read``."""
    import nibabel

    with reading(path):
        image: Any = _opened(file_of(path))
        if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image | nibabel.MGHImage):
            raise ValueError(f"its content is {type(image).__name__}")
        dtype, affine = image.get_data_dtype(), np.asarray(image.affine, dtype=np.float64)
    if dtype.kind == "c":
        raise not_an_intensity(path, f"complex numbers ({dtype})", "save the magnitude as float32")
    colours = len(dtype.names) if dtype.names else 1  # RGB24, RGBA32
    if frame is not None:
        _refuse_frame(path, image.shape, frame)
    shape, channels = spatial(path, image.shape if frame is None else image.shape[:3], colours)
    header = image.header
    codes = (int(header["qform_code"]), int(header["sform_code"])) if "sform_code" in header else None
    unit_mm = 1.0 if codes is None else _unit_mm(path, header)
    source = usable(
        Source(
            path=path,
            format=FORMATS[suffix_of(path)],
            shape=shape,
            channels=channels,
            affine=affine * np.array([[unit_mm], [unit_mm], [unit_mm], [1.0]]),
            dtype="RGB" if dtype.names else dtype.newbyteorder("=").name,
            codes=codes,
            unit_mm=unit_mm,
            notes=() if codes is None else _notes(path, header, codes, unit_mm),
            header=header,
        )
    )
    if codes is not None and codes[0] > 0:
        _refuse_quaternion(path, header)
    _refuse_claim(path, image)
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
        stored = _scaled(stored, slope, intercept)
    return source, stored.reshape(shape if channels == 1 else (*shape, channels))


def _opened(file: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        # Not mapped into memory: a file that is cut short while it is read would end the process.
        return nibabel.load(file, mmap=False)
    except ImageFileError:
        if file.suffix.lower() in _PACKED:
            packed.verify_gzip(file, 0, 0)  # raises if it is the packing that is damaged
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


def _notes(path: Path, header: Any, codes: tuple[int, int], unit_mm: float) -> tuple[Note, ...]:
    """What nibabel or we had to decide about the grid."""
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
        placed = np.array(spacing_of(np.asarray(header.get_sform()))) * unit_mm
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
    """Refuse a qform that is no rotation, even beside a good sform: the header of a label map would repeat it."""
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


def _refuse_claim(path: Path, image: Any) -> None:
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
    """Voxels as they are stored, and how many bytes follow them. A packed file must have the right check sum."""
    stored, file = image.dataobj, Path(image.file_map["image"].filename)
    if file.suffix.lower() not in _PACKED:
        return np.asarray(stored.get_unscaled()), file.stat().st_size - stored.offset - _bytes_of(image)
    unpacked, surplus = packed.read_gzip(file, stored.offset, _bytes_of(image))
    found: Array = unpacked.view(stored.dtype)
    return found.reshape(stored.shape, order="F"), surplus


def _scaled(stored: Array, slope: float, intercept: float) -> npt.NDArray[np.float32]:
    """``stored * slope + intercept``, computed in float64; a part at a time, so that it takes no float64 copy."""
    scaled = np.empty_like(stored, dtype=np.float32)  # in the same order in memory, which ravel("K") then follows
    values, places = stored.ravel(order="K"), scaled.ravel(order="K")
    assert np.shares_memory(places, scaled) or not scaled.size
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which check looks for
        for start in range(0, values.size, _SCALED_AT_ONCE):
            part = slice(start, start + _SCALED_AT_ONCE)
            places[part] = values[part].astype(np.float64) * slope + intercept
    return scaled


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
    """One frame of a time series, before slope and intercept; those of a packed file are kept for the next calls."""
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


def write_labels(stored: Array, like: Source, path: Path) -> None:
    """A label map in stored order, with the header of its scan; of a DICOM series, with one made from its grid."""
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


def write_volume(array: Array, affine: npt.NDArray[np.float64], path: Path) -> None:
    """(X, Y, Z) or (X, Y, Z, C) with the (4, 4) affine voxel -> mm RAS."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
