"""What one DICOM file, or one frame of it, says of its pixels: sizes, bits, sign, slope, padding.

Every file has its own slope, intercept, sign and padding: PET and Philips MR series differ from slice to slice.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lemis.errors import DataFault
from lemis.formats.dicom.tags import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    MODALITY_LUT,
    Header,
    dataset_of,
    raw_value,
    unreadable,
)

_PLAIN = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
_PACKED = re.compile(r"1\.2\.840\.10008\.1\.2\.(?:4\.\d+|5)")  # JPEG, JPEG-LS, JPEG 2000; RLE
_VALUES = 1e15  # float32, in which networks compute, holds 1e38
# Lossless packing shrinks images by 2 to 10, empty ones by some hundreds. A file of a few kB that claims gigabytes is
# damaged or made up; the free part is an X-ray of 40 megapixels, as plain as can be.
_MOST_PACKED, _FREE_BYTES = 200, 80_000_000


@dataclass(frozen=True)
class Table:
    """A Modality LUT: the value of each stored value, from ``first`` on; those outside are as the outermost."""

    first: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """One file, or one frame of a file: what it says of its pixels."""

    file: Path
    frame: int  # from 0
    frames: int  # in the file
    syntax: str  # UID of the transfer syntax
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: int
    slope: float
    intercept: float
    padding: tuple[int, int] | None  # first and last stored value that mean "nothing here"
    turned_over: bool  # MONOCHROME1: what is bright is stored small
    table: Table | None = None  # in place of slope and intercept

    @property
    def packed(self) -> bool:
        """Whether the pixels are compressed."""
        return self.syntax not in _PLAIN

    @property
    def stored_bytes(self) -> int:
        """What its pixels take unpacked."""
        return (self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8

    @property
    def scaled_exactly(self) -> bool:
        """Whether its values are whole numbers."""
        return self.table is not None or (self.slope.is_integer() and self.intercept.is_integer())

    @property
    def values(self) -> tuple[float, float]:
        """The least and the greatest value that it can hold."""
        if self.table is not None:
            return min(self.table.values), max(self.table.values)
        lowest = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        ends = [self.slope * end + self.intercept for end in (lowest, lowest + 2**self.bits_stored - 1)]
        return min(ends), max(ends)


def refuse_segmentation(header: Header) -> None:
    """Refuse a SEG object, whose frames are of segments and not of an image."""
    if header.text("Modality") == "SEG":
        raise segmentation_fault(header.file)


def segmentation_fault(file: Path) -> DataFault:
    """The error for a SEG object that is given as an image."""
    return DataFault(
        f"{file} is a DICOM SEG object (a segmentation), not an image",
        allowed="image series",
        next="use it as the label of its scan: lemis check finds it in the same folder, or list it in the column label "
        "of a CSV",
    )


def slice_of(header: Header) -> Slice:
    """The pixels of a file, as it states them.

    Raises:
        DataFault: They are not one grey or colour plane, or not there.
    """
    refuse_segmentation(header)
    frames = header.text("NumberOfFrames") or "1"
    if header.frame is None and frames != "1":
        raise DataFault(
            f"{header.file} is a DICOM file of {frames[:20]} frames that do not say where they lie",
            allowed="files of one frame, or enhanced ones (CT, MR, PET), in which each frame has its position",
            next="convert it to .nii.gz (dcm2niix does)",
        )
    if not (header.syntax in _PLAIN or _PACKED.fullmatch(header.syntax)):
        raise unreadable(header.file, f"its transfer syntax is {header.syntax[:64]!r}")
    photometric = header.text("PhotometricInterpretation").upper() or "MONOCHROME2"
    samples, allocated = header.whole("SamplesPerPixel", 1), header.whole("BitsAllocated")
    stored = header.whole("BitsStored", allocated)
    if not (photometric.startswith("MONOCHROME") and samples == 1) and not (
        photometric.startswith(("RGB", "YBR")) and samples == 3
    ):
        raise header.fault(
            "PhotometricInterpretation",
            f"is {photometric[:20]!r} with {samples} value(s) per pixel",
            "grey or RGB; a palette's pixels are indices, not intensities",
        )
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise header.fault("BitsStored", f"is {stored} of {allocated} allocated", "up to 8, 16 or 32 allocated bits")
    one = Slice(
        file=header.file,
        frame=header.frame or 0,
        frames=1 if header.frame is None else int(frames),
        syntax=header.syntax,
        rows=header.whole("Rows"),
        columns=header.whole("Columns"),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=min(max(header.whole("HighBit", stored - 1), stored - 1), allocated - 1),
        signed=header.whole("PixelRepresentation", 0) == 1,
        photometric=photometric,
        planar=header.whole("PlanarConfiguration", 0),
        slope=(header.numbers("RescaleSlope", 1, limit=_VALUES) or (1.0,))[0],
        intercept=(header.numbers("RescaleIntercept", 1, limit=_VALUES) or (0.0,))[0],
        padding=_padding(header),
        turned_over=photometric == "MONOCHROME1" and header.text("Modality") not in ("CT", "PT"),
        table=_table(header) if MODALITY_LUT in header.sequences else None,
    )
    if one.slope == 0:
        raise header.fault("RescaleSlope", "is 0, which makes all pixels alike", "another number")
    if min(one.rows, one.columns) == 0:
        raise unreadable(header.file, f"it has {one.rows} rows and {one.columns} columns")
    size = header.file.stat().st_size
    if not one.packed and one.syntax != DEFLATED and one.stored_bytes * one.frames > size:
        raise too_short(one, size)
    return one


def too_short(one: Slice, size: int) -> DataFault:
    """The error for a file that holds fewer bytes than it claims."""
    return unreadable(
        one.file,
        f"{one.rows} rows of {one.columns} pixels{f' in {one.frames} frames' if one.frames > 1 else ''} take "
        f"{one.stored_bytes * one.frames} bytes, and {size} are there",
    )


def _padding(header: Header) -> tuple[int, int] | None:
    ends = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if len(header.raw[name]) >= 2:
            word = header.whole(name)
            ends.append(word - 0x10000 if header.whole("PixelRepresentation", 0) == 1 and word >= 0x8000 else word)
    return (min(ends), max(ends)) if header.raw["PixelPaddingValue"] and ends else None


def _table(header: Header) -> Table:
    dataset = dataset_of(header.file, [MODALITY_LUT], pixels=False)
    try:
        item = dataset[MODALITY_LUT][0]
        descriptor, data = raw_value(item, "LUTDescriptor"), raw_value(item, "LUTData")
        order = "<" if header.order == "little" else ">"
        length, first, bits = struct.unpack(f"{order}3H", descriptor)
        length = length or 0x10000
        first -= 0x10000 if header.whole("PixelRepresentation", 0) == 1 and first >= 0x8000 else 0
        kind = "B" if bits <= 8 and len(data) < 2 * length else "H"
        values = struct.unpack_from(f"{order}{length}{kind}", data)
    except Exception as error:  # pydicom raises anything on a damaged sequence, struct on data of another length
        raise header.fault(
            MODALITY_LUT, f"cannot be read ({error})", "a table of as many values as it states"
        ) from error
    return Table(first, values)


def refuse_claims(path: Path, slices: Sequence[Slice]) -> None:
    """Refuse a file or series that would unpack to far more than such files do, before anything is allocated."""
    packed = [one for one in slices if one.packed]
    claimed = sum(one.stored_bytes for one in packed)
    held = sum(file.stat().st_size for file in {one.file for one in packed})
    if claimed > _FREE_BYTES + _MOST_PACKED * held:
        most = max(packed, key=lambda one: one.stored_bytes)
        raise unreadable(
            path,
            f"{most.rows} rows of {most.columns} pixels in {most.file.name}; {claimed / 1e6:.0f} MB in all, "
            f"packed into {held / 1e6:.3g} MB",
        )


def value_type(slices: Sequence[Slice]) -> np.dtype[Any]:
    """The smallest type that holds the values of all slices, whatever each of them states."""
    if all(one.scaled_exactly for one in slices):
        low, high = min(one.values[0] for one in slices), max(one.values[1] for one in slices)
        for kind in (np.uint8, np.uint16, np.int16, np.uint32, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float64)
