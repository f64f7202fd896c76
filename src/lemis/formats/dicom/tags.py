"""The tags of one DICOM file, read by pydicom before anything looks at its pixels.

Texts are taken as their bytes stand in the file and turned into numbers here, so that a tag that is absent, empty or no
number is refused with its name and value, and is never a default.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lemis.errors import DataFault

_TAGS = (
    *("ImageType", "SOPClassUID", "Modality", "SeriesDescription", "SliceThickness", "ImagerPixelSpacing"),
    *(
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SamplesPerPixel",
    ),
    *("PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "SOPInstanceUID"),
    # What tells slices of one place apart: echoes, phases, contrasts (``stacks``).
    *("EchoTime", "InversionTime", "FlipAngle", "TriggerTime", "TemporalPositionIdentifier", "DiffusionBValue"),
    *("AcquisitionNumber", "AcquisitionTime"),
)
_DOUBLES = ("DiffusionBValue",)  # tags above that are not written as text
MODALITY_LUT, PER_FRAME, SHARED = (
    "ModalityLUTSequence",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
)
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
SLICED = ("CT", "MR", "PT", "NM")  # modalities of what lies in the body, where an X-ray looks through it
LOCALISER = "LOCALIZER"  # as the standard spells it in Image Type
# What scanners call a localiser that does not say so in Image Type (Siemens MR, Philips).
_LOCALISER_TITLE = re.compile(r"scout|locali[sz]er|topogram|surview|\bsurvey\b|\bplan(?:e)?[ _-]?loc", re.IGNORECASE)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# From a microscope's pixel to the step of a scout; beyond, no scan was meant.
LENGTHS_MM = (1e-5, 1e3)
_PLACES_MM = 1e6
_MOST_INFLATED_BYTES = 256_000_000


@dataclass(frozen=True)
class Header:
    """The tags of one file, as their bytes stand in it. Names are those of the standard, without spaces."""

    file: Path
    syntax: str
    order: Literal["little", "big"]  # of bytes
    raw: Mapping[str, bytes]
    frame: int | None = None  # of a file of many frames, from 0, whose own tags these are; None: the file
    sequences: frozenset[str] = frozenset()  # which of the sequences that matter are there

    @property
    def has_image(self) -> bool:
        """Whether it is an image at all: reports and contours are DICOM too."""
        return bool(self.raw.get("Rows")) and bool(self.raw.get("Columns"))

    @property
    def is_localiser(self) -> bool:
        """Whether it says that it is a localiser (scout, topogram)."""
        kinds = self.text("ImageType").upper().split("\\")
        return LOCALISER in kinds or _LOCALISER_TITLE.search(self.text("SeriesDescription")) is not None

    @property
    def no_scan(self) -> str:
        """Why it is not the scan where others lie beside it: a localiser, a report, a screenshot; else ""."""
        modality, kind = self.text("Modality"), self.text("SOPClassUID")
        if modality == "SEG":
            return "a DICOM SEG object (a segmentation)"
        if not self.has_image:
            return f"DICOM without an image ({modality or 'of no modality'})"
        if modality == "RTDOSE":
            return "a dose distribution (RTDOSE)"
        if self.is_localiser:
            return "a localiser"
        placed = bool(self.text("ImagePositionPatient")) or PER_FRAME in self.sequences
        captured = kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}.")
        if "SCREEN SAVE" in self.text("ImageType").upper() or (captured and not placed):
            return "a secondary capture (a screenshot, say)"
        return ""

    @property
    def series(self) -> tuple[str, str, str]:
        """What files of one series have in common; careless removal of names leaves all UIDs equal."""
        return self.text("SeriesInstanceUID"), self.text("StudyInstanceUID"), self.text("PatientID")

    def text(self, name: str) -> str:
        """The text of a tag; "" if it is empty or missing."""
        return self.raw.get(name, b"").decode("utf-8", errors="replace").replace("\0", " ").strip()

    def whole(self, name: str, otherwise: int | None = None) -> int:
        """An unsigned short; ``otherwise`` if the tag is empty or missing."""
        raw = self.raw.get(name, b"")[:2]
        if len(raw) == 2:
            return int.from_bytes(raw, self.order)
        if otherwise is None:
            raise self.fault(name, "is not there")
        return otherwise

    def numbers(self, name: str, count: int, *, limit: float = _PLACES_MM) -> tuple[float, ...]:
        """``count`` decimal numbers; () if the tag is empty or missing."""
        text = self.text(name)
        if not text:
            return ()
        try:
            found = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            found = ()
        if len(found) != count or not all(abs(number) <= limit for number in found):
            raise self.fault(name, f"is {text[:60]!r}", f"{count} number(s) up to {limit:g}")
        return found

    def lengths(self, name: str, count: int) -> tuple[float, ...]:
        """``count`` lengths in mm; () if the tag is empty or missing."""
        found = self.numbers(name, count)
        low, high = LENGTHS_MM
        if not all(low <= length <= high for length in found):
            raise self.fault(name, f"is {self.text(name)[:60]!r}", f"{count} length(s) of {low:g} to {high:g} mm")
        return found

    def fault(self, name: str, what: str, allowed: str = "a value, as the standard asks for") -> DataFault:
        """The error for a tag with a wrong value."""
        title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        return DataFault(f"{self.file}: {title} {what}", allowed=allowed, next="export the series again")


def dataset_of(file: Path, tags: Sequence[str], *, pixels: bool) -> Any:
    """A pydicom data set of these tags.

    Raises:
        DataFault: It is not DICOM, or ends early.
    """
    from pydicom import dcmread

    # Said of tags that do not matter here; what does is checked. A filter, as catch_warnings is not for threads.
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
    try:
        _refuse_bomb(file)
        return dcmread(file, stop_before_pixels=not pixels, force=True, specific_tags=list(tags))
    except (DataFault, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a parser of anything that people call DICOM raises anything
        raise unreadable(file, f"{type(error).__name__}: {error}") from error


def _refuse_bomb(file: Path) -> None:
    """Refuse a deflated file that unpacks to more than any slice: pydicom would inflate all of it."""
    from pydicom.filereader import read_file_meta_info

    with file.open("rb") as stream:
        if DEFLATED.encode() not in stream.read(1024):
            return
        # The data set begins after preamble, prefix, and the element that counts the bytes of the group up to it.
        stream.seek(144 + read_file_meta_info(file).FileMetaInformationGroupLength)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(stream.read(), _MOST_INFLATED_BYTES)
        if inflater.unconsumed_tail:
            raise unreadable(file, f"it unpacks to more than {_MOST_INFLATED_BYTES / 1e6:.0f} MB")


def read_header(file: Path) -> Header:
    """The tags of a file, without its pixels.

    Raises:
        DataFault: It is no DICOM file, or damaged.
    """
    sequences = (MODALITY_LUT, PER_FRAME)
    dataset = dataset_of(file, (*_TAGS, *sequences), pixels=False)
    implicit, little = dataset.original_encoding
    raw = {name: raw_value(dataset, name) for name in _TAGS}
    raw |= {name: as_text(raw[name], "d", little=little) for name in _DOUBLES if raw[name]}
    meta = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "")).strip("\0 ")
    syntax = meta or (IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN)
    there = frozenset(name for name in sequences if name in dataset)
    header = Header(file, syntax, "little" if little else "big", raw, sequences=there)
    if not header.has_image and not header.text("SOPClassUID") and not header.text("Modality"):
        raise unreadable(file, "it states neither what it is nor how many rows and columns it has")
    return header


def raw_value(dataset: Any, name: str) -> bytes:
    """The bytes of a tag as they stand in the file; none if it is missing."""
    value = getattr(dataset.get_item(name), "value", None)
    return value if isinstance(value, bytes) else b""


def as_text(raw: bytes, kind: str, *, little: bool) -> bytes:
    """Binary numbers, of one of the types of ``struct``, as the text that other tags hold."""
    stored = struct.Struct(f"{'<' if little else '>'}{kind}")
    numbers = stored.iter_unpack(raw[: len(raw) // stored.size * stored.size])
    return "\\".join(f"{number:.8g}" for (number,) in numbers).encode()


def unreadable(file: Path, reason: str) -> DataFault:
    """The error for a file that cannot be read as DICOM."""
    return DataFault(
        f"{file} cannot be read as DICOM: {reason.strip().splitlines()[0][:200]}",
        allowed="complete DICOM files with pixels",
        next="export the series again",
    )
