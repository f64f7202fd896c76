"""The pixels of one DICOM file: what it says of them, and their values.

Grey pixels that are not packed are read by NumPy. All others are unpacked by GDCM (in SimpleITK), which sees a copy
with nothing in it but sizes and pixels: so it neither scales values by itself nor meets a tag that was not checked.
Every file has its own slope, intercept, sign and padding: PET and Philips MR series differ from slice to slice.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats.dicom.tags import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, Header, dataset_of, unreadable

Array = npt.NDArray[Any]

_PLAIN = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
_RLE = "1.2.840.10008.1.2.5"
_PACKED = re.compile(r"1\.2\.840\.10008\.1\.2\.(?:4\.\d+|5)")  # JPEG, JPEG-LS, JPEG 2000; RLE
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_VALUES = 1e15  # float32, in which networks compute, holds 1e38
# Lossless packing shrinks images by 2 to 10, empty ones by some hundreds. A file of a few kB that claims gigabytes is
# damaged or made up; the free part is an X-ray of 40 megapixels, as plain as can be.
_MOST_PACKED, _FREE_BYTES = 200, 80_000_000


@dataclass(frozen=True)
class Slice:
    """One file of one frame: what it says of its pixels."""

    file: Path
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
        return self.slope.is_integer() and self.intercept.is_integer()

    @property
    def values(self) -> tuple[float, float]:
        """The least and the greatest value that it can hold."""
        lowest = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        ends = [self.slope * end + self.intercept for end in (lowest, lowest + 2**self.bits_stored - 1)]
        return min(ends), max(ends)


def slice_of(header: Header) -> Slice:
    """The pixels of a file, as it states them.

    Raises:
        DataFault: They are not one grey or colour plane, or not there.
    """
    if header.text("Modality") == "SEG":
        raise DataFault(
            f"{header.file} is a DICOM SEG object (a segmentation), not an image",
            allowed="image series; label maps as .nii.gz, .nrrd or .mha",
            next="convert the segmentation to .nii.gz (dcmqi's segimage2itkimage does) and use it as a label",
        )
    frames = header.text("NumberOfFrames") or "1"
    if frames != "1":
        raise DataFault(
            f"{header.file} is a DICOM file of {frames[:20]} frames",
            allowed="a folder with one file per slice, or another format",
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
    )
    if one.slope == 0:
        raise header.fault("RescaleSlope", "is 0, which makes all pixels alike", "another number")
    if min(one.rows, one.columns) == 0:
        raise unreadable(header.file, f"it has {one.rows} rows and {one.columns} columns")
    size = header.file.stat().st_size
    if not one.packed and one.syntax != DEFLATED and one.stored_bytes > size:
        raise _too_short(one, size)
    return one


def _too_short(one: Slice, size: int) -> DataFault:
    return unreadable(
        one.file,
        f"{one.rows} rows of {one.columns} pixels take {one.stored_bytes} bytes, and {size} are there",
    )


def _padding(header: Header) -> tuple[int, int] | None:
    ends = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if len(header.raw[name]) >= 2:
            word = header.whole(name)
            ends.append(word - 0x10000 if header.whole("PixelRepresentation", 0) == 1 and word >= 0x8000 else word)
    return (min(ends), max(ends)) if header.raw["PixelPaddingValue"] and ends else None


def refuse_claims(path: Path, slices: Sequence[Slice]) -> None:
    """Refuse a file or series that would unpack to far more than such files do, before anything is allocated."""
    packed = [one for one in slices if one.packed]
    claimed = sum(one.stored_bytes for one in packed)
    held = sum(one.file.stat().st_size for one in packed)
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


class Plane(NamedTuple):
    """What one file holds."""

    values: Array  # (rows, columns[, 3]), slope and intercept applied
    padded: npt.NDArray[np.bool_] | None  # where they are padding; None if the file does not say
    spare_bytes: int  # that follow the last pixel; 0 of packed pixels


def plane_of(one: Slice) -> Plane:
    """Read the pixels of a file.

    Raises:
        DataFault: They are damaged, or fewer than claimed.
    """
    dataset = dataset_of(one.file, ["PixelData"], pixels=True)
    raw = getattr(dataset.get_item("PixelData"), "value", None)
    if not isinstance(raw, bytes):
        raise unreadable(one.file, "it holds no pixels")
    if not one.packed and len(raw) < one.stored_bytes:
        raise _too_short(one, len(raw))
    spare_bytes = 0 if one.packed else len(raw) - one.stored_bytes
    if one.samples > 1:
        return Plane(_by_gdcm(one, raw), None, spare_bytes)
    stored, padded = (_in_bits(one, _by_gdcm(one, raw)), None) if one.packed else _by_numpy(one, raw)
    if one.padding is not None:
        inside = (stored >= one.padding[0]) & (stored <= one.padding[1])
        padded = inside if padded is None else inside | padded
    if one.turned_over:
        lowest = -(2 ** (one.bits_stored - 1)) if one.signed else 0
        stored = 2 * lowest + 2**one.bits_stored - 1 - stored
    scaled = (one.slope, one.intercept) != (1, 0)
    return Plane(stored * one.slope + one.intercept if scaled else stored, padded, spare_bytes)


def _by_numpy(one: Slice, raw: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Stored values of plain grey pixels, and where a whole cell is the padding value, unused bits included."""
    kind = np.dtype(f"u{one.bits_allocated // 8}").newbyteorder(">" if one.syntax == BIG_ENDIAN else "<")
    cells = np.frombuffer(raw, dtype=kind, count=one.rows * one.columns).reshape(one.rows, one.columns).astype(np.int64)
    stored = _in_bits(one, cells >> (one.high_bit + 1 - one.bits_stored))
    if one.padding is None:
        return stored, None
    return stored, cells == one.padding[0] & (2**one.bits_allocated - 1)


def _in_bits(one: Slice, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Values of the bits that are stored; older files keep overlays in those above."""
    stored: npt.NDArray[np.int64] = cells & (2**one.bits_stored - 1)
    if one.signed:
        stored -= (stored >> (one.bits_stored - 1)) << one.bits_stored
    return stored


def _by_gdcm(one: Slice, raw: bytes) -> Array:
    """Stored values of packed or coloured pixels, (rows, columns[, 3])."""
    import SimpleITK as sitk  # noqa: N813

    if one.packed:
        raw = _checked(one, raw)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.dcm"
        _write_bare(one, raw, bare)
        reader.SetFileName(str(bare))
        try:
            stored: Array = sitk.GetArrayFromImage(reader.Execute()).squeeze(axis=0)
        except (RuntimeError, ValueError) as error:
            raise unreadable(
                one.file, f"its pixels cannot be unpacked ({str(error).strip().splitlines()[-1]})"
            ) from error
    if stored.shape != (one.rows, one.columns, *((one.samples,) if one.samples > 1 else ())):
        raise unreadable(one.file, f"it unpacks to {stored.shape}, not to {one.rows} rows of {one.columns} pixels")
    return stored if one.samples > 1 else stored.astype(np.int64)


def _write_bare(one: Slice, raw: bytes, file: Path) -> None:
    """A DICOM file of nothing but pixels and their sizes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(one.syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(_SECONDARY_CAPTURE)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3")
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = one.rows, one.columns, one.samples
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = one.bits_allocated, one.bits_stored, one.high_bit
    dataset.PixelRepresentation = int(one.signed)
    dataset.PhotometricInterpretation = one.photometric if one.samples > 1 else "MONOCHROME2"
    if one.samples > 1:
        dataset.PlanarConfiguration = one.planar
    dataset.add_new("PixelData", "OB" if one.packed or one.bits_allocated == 8 else "OW", raw)
    dataset["PixelData"].is_undefined_length = one.packed
    dataset.save_as(file, enforce_file_format=True)


def _checked(one: Slice, raw: bytes) -> bytes:
    """The fragments of packed pixels, joined into one.

    Raises:
        DataFault: They are damaged, or state another size than the file: it is theirs that would be allocated.
    """
    from pydicom.encaps import encapsulate, get_frame

    try:
        code = get_frame(raw, 0, number_of_frames=1)
    except Exception as error:  # pydicom raises anything on damaged fragments
        raise unreadable(one.file, f"its pixels are damaged ({error})") from error
    size = _coded_size(code)
    if one.syntax != _RLE and size != (one.rows, one.columns, one.samples):
        raise unreadable(
            one.file,
            f"its pixels are packed as {size or 'nothing that we know'}, "
            f"and it claims {(one.rows, one.columns, one.samples)} rows, columns and values per pixel",
        )
    return bytes(encapsulate([code]))


def _coded_size(code: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 stream states; None of other streams."""
    siz = code.find(b"\xff\x4f\xff\x51", 0, 4096)  # the first segment of JPEG 2000, maybe in a box of its file format
    if siz >= 0:
        right, bottom, left, top = (int.from_bytes(code[siz + at : siz + at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left, int.from_bytes(code[siz + 40 : siz + 42], "big")
    at = 2
    while code[:2] == b"\xff\xd8" and at + 10 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # a start of frame
            rows, columns = (int.from_bytes(code[at + first : at + first + 2], "big") for first in (5, 7))
            return rows, columns, code[at + 9]
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big") if marker != 0xFF else 1
    return None
