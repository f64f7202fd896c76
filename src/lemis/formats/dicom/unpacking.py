"""Packed or coloured pixels, unpacked by GDCM (in SimpleITK), or by what pydicom finds where GDCM cannot.

They see a copy with nothing in it but sizes and the pixels of one frame: so they neither scale values by themselves nor
meet a tag that was not checked.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault
from lemis.formats.dicom.stored import Slice
from lemis.formats.dicom.tags import SECONDARY_CAPTURE, unreadable

Array = npt.NDArray[Any]

_GDCM_CANNOT = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(?:1\d\d|2\d\d)")  # High-Throughput JPEG 2000, JPEG XL, MPEG
_RLE = "1.2.840.10008.1.2.5"


def unpacked(one: Slice, raw: bytes) -> Array:
    """Stored values of one frame, (rows, columns[, 3]).

    Raises:
        DataFault: They are damaged, of another size than the file claims, or packed in a way that nothing installed
            reads.
    """
    decoder = _decoder(one) if _GDCM_CANNOT.fullmatch(one.syntax) else None
    if one.packed:
        raw = _checked(one, raw)
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.dcm"
        try:
            _write_bare(one, raw, bare)
        except ValueError as error:  # a syntax that the standard does not have
            raise unreadable(one.file, f"its pixels cannot be unpacked ({error})") from error
        stored = _by_gdcm(one, bare) if decoder is None else _by_pydicom(one, bare, decoder)
    if stored.shape != (one.rows, one.columns, *((one.samples,) if one.samples > 1 else ())):
        raise unreadable(one.file, f"it unpacks to {stored.shape}, not to {one.rows} rows of {one.columns} pixels")
    return stored if one.samples > 1 else stored.astype(np.int64)


def _by_gdcm(one: Slice, bare: Path) -> Array:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(bare))
    try:
        stored: Array = sitk.GetArrayFromImage(reader.Execute()).squeeze(axis=0)
    except (RuntimeError, ValueError) as error:
        raise unreadable(one.file, f"its pixels cannot be unpacked ({str(error).strip().splitlines()[-1]})") from error
    return stored


def _decoder(one: Slice) -> Any:
    """What of pydicom unpacks a frame, once the packages that it needs are there."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    name = UID(one.syntax).name
    try:
        decoder = get_decoder(UID(one.syntax))
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise DataFault(
            f"{one.file}: its pixels are packed as {name} ({one.syntax}), which "
            + ("nothing that we know unpacks" if decoder is None else "is not unpacked by what is installed"),
            allowed="plain pixels, RLE, JPEG, JPEG-LS, JPEG 2000; with lemis[dicom] High-Throughput JPEG 2000 too",
            next="export the series again without compression (gdcmconv --raw, dcmdjpeg)"
            if decoder is None
            else "pip install 'lemis[dicom]', and the same command again",
        )
    return decoder


def _by_pydicom(one: Slice, bare: Path, decoder: Any) -> Array:
    from pydicom import dcmread

    try:
        stored, _ = decoder.as_array(dcmread(bare), raw=True)
    except Exception as error:  # plugins raise anything on damaged codes
        raise unreadable(one.file, f"its pixels cannot be unpacked ({error})") from error
    return np.asarray(stored)


def _write_bare(one: Slice, raw: bytes, file: Path) -> None:
    """A DICOM file of nothing but pixels and their sizes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(one.syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(SECONDARY_CAPTURE)
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


def _checked(one: Slice, code: bytes) -> bytes:
    """The code of a packed frame, as one fragment.

    Raises:
        DataFault: It states another size than the file: it is the code's that would be allocated.
    """
    from pydicom.encaps import encapsulate

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
