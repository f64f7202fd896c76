"""Text headers of NRRD and MetaImage, parsed before a C++ library reads them.

Those libraries trust what they read: a number of axes of 100 ends the process, a data file named ``%s`` is a format
string, a named pipe blocks for ever, and packed voxels with a wrong check sum become an image. So the header is
held to what the format allows, and what it claims to what the file holds; what passes is left to the library.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats import packed
from lemis.formats.names import readable

_MOST_BYTES = 8 << 20  # of a header; those of segmentations name every structure, and stay below 1 MB
_AXES = range(2, 6)  # what SimpleITK reads
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Numbers that a key is followed by: one of n for each axis, or a matrix of n x n.
_META_VECTORS = ("Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize")
_META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_NRRD_TYPES = {
    1: "signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, "
    "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, "
    "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
# Spaces that say where the patient's left is; others, such as scanner-xyz, do not.
_ANATOMICAL = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")
_MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???", "none")
_NRRD_ALIASES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_NRRD_PACKINGS = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "txt": "text",
    "text": "text",
    "ascii": "text",
    "hex": "hex",
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a text header says of its voxels."""

    path: Path
    shape: tuple[int, ...]  # all axes as stored, the fastest first; components of a voxel come last in MetaImage
    itemsize: int  # bytes of one value
    packing: str  # raw, gzip, zlib, text, hex
    files: tuple[Path, ...]  # that hold the voxels, each an equal part; the file itself where the header is attached
    start: int  # of the voxels in each file, in bytes; -1: they are its last bytes
    spaced: bool  # whether the header states a distance of voxels
    oriented: bool = True  # whether it says where left and right are
    dtype: str = ""  # of one value, of MetaImage only
    packed_bytes: int | None = None  # of the packed voxels, where the header says it
    pairs: tuple[tuple[str, str], ...] = ()  # free ``key:=value`` of NRRD, in order, repeated ones too

    @property
    def claimed_bytes(self) -> int:
        """Of the voxels in each of the files."""
        return math.prod(self.shape) * self.itemsize // len(self.files)


def read(path: Path, kind: str) -> Header:
    """Parse and check the header of a file of kind ``"nrrd"`` or ``"meta"``; its voxels are not read.

    Raises:
        DataFault: It is no such header, holds what the format does not allow, names a data file outside of its
            folder or one that is none, or claims more voxels than the file can hold.
    """
    packed.refuse_special(path)
    header = _nrrd(path) if kind == "nrrd" else _meta(path)
    for file in header.files:
        _refuse_file(path, file)
        _refuse_claim(header, file)
    return header


def verify(header: Header) -> None:
    """Unpack the packed voxels of an NRRD file to their end: the library does not look at the check sum.

    Raises:
        OSError, EOFError, zlib.error: They are cut short or damaged.
    """
    if header.packing == "gzip":
        for file in header.files:
            packed.verify_gzip(file, header.start, header.claimed_bytes)


def unpack(header: Header) -> npt.NDArray[Any] | None:
    """Voxels of a packed MetaImage in the order in which they are stored, (n,); None of other files.

    The library returns what lies in memory where it cannot unpack them, as it cannot without a CompressedDataSize.

    Raises:
        OSError, EOFError, zlib.error: They are cut short or damaged.
    """
    if header.packing != "zlib":
        return None
    parts = [
        packed.read_zlib(file, max(0, header.start), header.claimed_bytes, header.packed_bytes) for file in header.files
    ]
    return np.concatenate(parts).view(header.dtype) if len(parts) > 1 else parts[0].view(header.dtype)


# ---------------------------------------------------------------- MetaImage


def _meta(path: Path) -> Header:
    fields: dict[str, str] = {}
    lines, start = _lines(path), 0
    for line, end in lines:
        start = end
        if not line.strip():
            continue
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            raise _fault(path, f"the line {_quoted(line)}", "lines such as NDims = 3")
        if key in fields:
            raise _fault(path, f"{key} twice", "one line for each key")
        fields[key] = value
        if key == "ElementDataFile":
            break
    else:
        raise _fault(path, "no ElementDataFile", "a MetaImage header, whose last line names the data file")
    axes = _number(path, fields, "NDims", _AXES)
    for key in _META_VECTORS:
        _vector(path, fields, key, axes)
    for key in _META_MATRICES:
        _vector(path, fields, key, axes * axes)
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields and not all(float(value) > 0 for value in fields[key].split()):
            raise _fault(path, f"{key} = {fields[key]}", "lengths above 0, in mm")
    shape = _sizes(path, "DimSize", fields.get("DimSize", ""), axes)
    channels = _number(path, {"ElementNumberOfChannels": "1"} | fields, "ElementNumberOfChannels", range(1, 65536))
    kind = fields.get("ElementType", "")
    if kind.removesuffix("_ARRAY") not in _META_TYPES:
        raise _fault(path, f"ElementType = {kind}", ", ".join(_META_TYPES))
    if (unit := fields.get("DistanceUnits", "mm")).lower() not in _MILLIMETRES:
        raise _fault(path, f"DistanceUnits = {unit}", "mm: lengths in another unit are not read")
    if len(fields.get("AnatomicalOrientation", "")) > 8:
        raise _fault(
            path, f"AnatomicalOrientation = {_quoted(fields['AnatomicalOrientation'])}", "RAI, LPS or the like"
        )
    big = any(_truth(path, fields, key, False) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    dtype = (">" if big else "<") + _META_TYPES[kind.removesuffix("_ARRAY")]
    local = fields["ElementDataFile"] in ("LOCAL", "Local", "local")
    skip = _number(path, {"HeaderSize": "0"} | fields, "HeaderSize", range(-1, 1 << 62))
    packed_bytes = None
    if "CompressedDataSize" in fields:
        packed_bytes = _number(path, fields, "CompressedDataSize", range(1, 1 << 62))
    binary = _truth(path, fields, "BinaryData", True)
    packing = "zlib" if _truth(path, fields, "CompressedData", False) else "raw" if binary else "text"
    return Header(
        path=path,
        shape=(*shape, channels) if channels > 1 else shape,
        itemsize=int(dtype[-1]),
        dtype=dtype,
        packing=packing,
        files=(path,) if local else _data_files(path, fields["ElementDataFile"], lines, shape[-1]),
        start=max(start, skip) if local and skip >= 0 else skip,
        spaced="ElementSpacing" in fields or "ElementSize" in fields,
        packed_bytes=packed_bytes if packing == "zlib" else None,
    )


def _truth(path: Path, fields: dict[str, str], key: str, otherwise: bool) -> bool:
    """True or False. The library looks at the first letter only, and would unpack what is not packed."""
    words = {"true": True, "1": True, "false": False, "0": False}
    text = fields.get(key, str(otherwise))
    if text.lower() not in words:
        raise _fault(path, f"{key} = {_quoted(text)}", "True or False")
    return words[text.lower()]


# ---------------------------------------------------------------- NRRD


def _nrrd(path: Path) -> Header:
    lines = _lines(path)
    magic, start = next(lines, ("", 0))
    if not re.fullmatch(r"NRRD000[1-6]", magic.strip()):
        raise _fault(path, f"a first line {_quoted(magic)}", "NRRD0001 to NRRD0006")
    fields: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for line, end in lines:
        start, text = end, line.strip()
        if not text:
            break
        field, pair = line.partition(": "), line.partition(":=")
        if text.startswith("#"):
            continue
        if pair[1] and (not field[1] or len(pair[0]) < len(field[0])):
            pairs.append((pair[0], pair[2].rstrip("\r\n")))
            continue
        key, separator, value = (part.strip() for part in line.partition(":"))
        key = _NRRD_ALIASES.get(key.lower(), key.lower())
        if not separator:
            raise _fault(path, f"the line {_quoted(line)}", "lines such as dimension: 3")
        if key in fields:
            raise _fault(path, f"{key} twice", "one line for each field")
        fields[key] = value
        if key == "data file" and value.split()[:1] == ["LIST"]:
            break
    axes = _number(path, fields, "dimension", _AXES)
    shape = _sizes(path, "sizes", fields.get("sizes", ""), axes)
    kind = fields.get("type", "").lower()
    itemsize = next((size for size, names in _NRRD_TYPES.items() if kind in names.split(", ")), None)
    if itemsize is None:
        raise _fault(path, f"type: {kind}", "a type of numbers, such as uint8, int16 or float")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_PACKINGS:
        raise _fault(path, f"encoding: {encoding}", "raw, gzip, ascii or hex")
    for key in ("line skip", "byte skip"):
        skip = _number(path, {key: "0"} | fields, key, range(-1 if key == "byte skip" else 0, 1 << 62))
        if skip > 0 and encoding != "raw":
            raise _fault(path, f"{key}: {skip} of voxels in {encoding}", "voxels that follow the header at once")
    if fields.get("line skip", "0") != "0":
        raise _fault(path, f"line skip: {fields['line skip']}", "a byte skip, which says the same of raw voxels")
    units = re.findall(r'"([^"]*)"', f"{fields.get('space units', '')} {fields.get('units', '')}")
    if other := [unit for unit in units if unit.strip().lower() not in (*_MILLIMETRES, "s", "ms")]:
        raise _fault(path, f"lengths in {other[0]}", "mm: lengths in another unit are not read")
    attached = "data file" not in fields
    skip = int(fields.get("byte skip", "0"))
    return Header(
        path=path,
        shape=shape,
        itemsize=itemsize,
        packing=_NRRD_PACKINGS[encoding],
        files=(path,) if attached else _data_files(path, fields["data file"], lines, shape[-1]),
        start=-1 if skip < 0 else (start if attached else 0) + skip,
        spaced=_distances(fields) > 1,
        oriented=axes < 3 or fields.get("space", "").lower().removesuffix("-time") in _ANATOMICAL,
        pairs=tuple(pairs),
    )


def _distances(fields: dict[str, str]) -> int:
    """For how many axes an NRRD header states the voxel distance; ``none`` and ``nan`` mean that it does not."""
    spacings = [word for word in fields.get("spacings", "").split() if word.lower() != "nan"]
    return len(spacings) or fields.get("space directions", "").count("(")


# ---------------------------------------------------------------- shared


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Lines of a header with the byte at which the next one begins. Comments may be in any encoding."""
    with path.open("rb") as stream:
        while line := stream.readline(_MOST_BYTES):
            if stream.tell() >= _MOST_BYTES:
                raise _fault(path, f"no end of its header within {_MOST_BYTES} bytes", "a header that ends")
            if b"\0" in line:
                raise _fault(path, "bytes that are no text within its header", "a complete header of text")
            yield line.decode("utf-8", errors="surrogateescape"), stream.tell()


def _data_files(path: Path, named: str, lines: Iterator[tuple[str, int]], slices: int) -> tuple[Path, ...]:
    """The files that hold the voxels: one, those listed below the header, or numbered ones (``ct%03d.raw 1 20 1``)."""
    words = named.split()
    if words[:1] == ["LIST"]:
        names = [line.strip() for line, _ in lines if line.strip()]
    elif "%" in named:
        names = _numbered(path, words)
    else:
        names = [named]
    if not names or len(names) > max(1, slices):
        raise _fault(path, f"{len(names)} data files for {slices} slices", "a data file, or one for each slice")
    return tuple(path.parent / name for name in names)


def _numbered(path: Path, words: Sequence[str]) -> list[str]:
    # The library hands the name to C's printf: one number, and nothing else.
    one_number = re.fullmatch(r"[^%]*%0?[0-9]?d[^%]*", words[0])
    if not one_number or len(words) < 4 or not all(re.fullmatch(r"-?\d{1,6}", word) for word in words[1:4]):
        raise _fault(path, f"data file {_quoted(' '.join(words))}", "a name, or one such as ct%03d.raw 1 20 1")
    first, last, step = map(int, words[1:4])
    numbers = range(first, last + 1, step) if step > 0 else ()
    return [words[0] % number for number in numbers]


def _refuse_file(path: Path, file: Path) -> None:
    """Refuse a data file that is no regular file or lies in another folder, where nobody would look for it."""
    # By name: links into a store of large files are not followed.
    lies_at, folder = (Path(os.path.normpath(one.absolute())) for one in (file, path.parent))
    if not lies_at.is_relative_to(folder):
        raise _fault(path, f"a data file {_quoted(str(file))} in another folder", "a data file beside its header")
    if not file.exists():
        raise _fault(path, f"a data file {_quoted(file.name)} that is not there", "a data file beside its header")
    what = "a folder" if file.is_dir() else packed.special(file)
    if what:
        raise _fault(path, f"{what} {_quoted(file.name)} as data file", "a data file beside its header")


def _refuse_claim(header: Header, file: Path) -> None:
    there = file.stat().st_size - max(0, header.start)
    if header.packed_bytes is not None and header.packed_bytes > there:
        raise _fault(header.path, f"{header.packed_bytes} packed bytes", f"the {there} bytes that there are")
    claimed, ratio = header.claimed_bytes, 1
    if header.packing in ("gzip", "zlib"):
        ratio = packed.DEFLATE_RATIO
    elif header.packing == "hex":
        claimed *= 2
    elif header.packing == "text":
        claimed = 2 * (claimed // header.itemsize) - 1  # a digit and a blank each
    sizes = " x ".join(map(str, header.shape))
    packed.refuse_claim(header.path, claimed, max(0, there), f"{sizes} values of {header.itemsize} bytes", ratio=ratio)


def _number(path: Path, fields: dict[str, str], key: str, allowed: range) -> int:
    text = fields.get(key, "")
    if not re.fullmatch(r"[+-]?\d{1,18}", text) or int(text) not in allowed:
        last = f" to {allowed[-1]}" if allowed[-1] < 1 << 31 else " or more"
        raise _fault(path, f"{key} = {_quoted(text)}" if key in fields else f"no {key}", f"{allowed[0]}{last}")
    return int(text)


def _sizes(path: Path, key: str, text: str, axes: int) -> tuple[int, ...]:
    words = text.split()
    if len(words) != axes or not all(re.fullmatch(r"\+?\d{1,9}", word) and int(word) > 0 for word in words):
        raise _fault(path, f"{key} = {_quoted(text)}", f"{axes} whole numbers above 0")
    return tuple(map(int, words))


def _vector(path: Path, fields: dict[str, str], key: str, length: int) -> None:
    if key not in fields:
        return
    words = fields[key].split()
    try:
        finite = all(math.isfinite(float(word)) for word in words)
    except ValueError:
        finite = False
    if len(words) != length or not finite:
        raise _fault(path, f"{key} = {_quoted(fields[key])}", f"{length} finite numbers")


def _quoted(text: str) -> str:
    """A piece of a header, escaped so that a terminal can show it."""
    return ascii(text.strip()[:60])


def _fault(path: Path, seen: str, allowed: str) -> DataFault:
    return DataFault(
        f"{path} cannot be read: its header has {readable(seen)}",
        allowed=allowed,
        next="copy or export the file again, or leave it out",
    )
