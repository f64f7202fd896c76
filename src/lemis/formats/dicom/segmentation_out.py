"""Label maps as DICOM SEG objects, by highdicom: on the grid of the series that they are of, and of its patient.

Frames are written slice by slice beside the file that each is of, so that their places are those of the source to the
last digit; what is written is read back before it is kept. UIDs follow from what is written, its time among it: the
same file of a label map is the same object again, which replaces itself in an archive, and another one is another
object of the same series.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemis.errors import DataFault, LemisError, UsageError
from lemis.formats import segments
from lemis.formats.dicom import segmentation
from lemis.formats.dicom.codes import Code, Term
from lemis.formats.dicom.series import Series
from lemis.formats.faults import reading
from lemis.formats.grids import LPS_TO_RAS
from lemis.formats.itksnap import rgb

Array = npt.NDArray[Any]

KINDS = ("BINARY", "LABELMAP")
_NAMESPACE = uuid.UUID("6d5a1c3e-4f43-5f2b-9a57-2f0f6f1c0d3b")  # of our UIDs; any will do that stays
_LONGEST_LABEL, _LONGEST_DESCRIPTION = 64, 64  # characters, as DICOM holds them
_MOST_SEGMENTS = 65_535
_OF_A_SLICE = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"),
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# What a patient's data must hold even where nothing is known; removed tags come back empty.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A structure of a label map."""

    value: int  # in the label map
    name: str
    term: Term
    colour: str  # #rrggbb


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What made a label map, as the object says it."""

    runs: str  # names, for people
    digest: str  # of their weights
    version: str  # of Lemis
    when: datetime


def refuse_missing(what: str) -> None:
    """Refuse what needs highdicom where it is not installed.

    Raises:
        UsageError: It is not.
    """
    if find_spec("highdicom") is None:
        raise UsageError(
            f"{what} without highdicom, which Lemis does not install by itself",
            allowed="Lemis installed as lemis[dicom]",
            next="pip install highdicom",
        )


def write(
    labels: Array, series: Series, structures: Sequence[Segment], maker: Maker, kind: str, path: Path
) -> tuple[Segment, ...]:
    """Write a label map of a series.

    Structures that mark nothing are left out: programs fail on segments without frames.

    Args:
        labels: (columns, rows, slices) whole numbers, slices as in ``series``.
        series: Of one frame a file, each of which says where it lies.
        structures: All that ``labels`` may hold.
        maker: Of the label map.
        kind: BINARY or LABELMAP.
        path: The file.

    Returns:
        The structures that it holds, by their segment numbers from 1; none, and no file, where nothing is marked.

    Raises:
        DataFault: The series does not say what an object of it must state.
        UsageError: Values that are no structure's, or more structures than DICOM can number.
        LemisError: What was written is not what was to be written; it is removed.
    """
    there = np.unique(labels).tolist()
    marked = tuple(one for one in sorted(structures, key=lambda one: one.value) if one.value in there)
    if strange := sorted(set(there) - {0, *(one.value for one in structures)}):
        raise UsageError(
            f"a label map with the value {strange[0]}, of which no name is known",
            allowed=", ".join(f"{one.value} ({one.name})" for one in structures[:20]),
            next="correct the label map, or predict again",
        )
    if len(marked) > _MOST_SEGMENTS:
        raise UsageError(f"{len(marked)} structures", allowed=f"up to {_MOST_SEGMENTS}", next="merge some of them")
    if not marked:
        path.unlink(missing_ok=True)
        return ()
    numbered = np.zeros(labels.shape, np.uint8 if len(marked) < 256 else np.uint16)
    for number, one in enumerate(marked, start=1):
        numbered[labels == one.value] = number
    sources = _sources(series)
    missed = [one.name for one in structures if one not in marked]
    with warnings.catch_warnings():
        # Of a patient's name of one part, and the like: what came from the source stays as it is there.
        warnings.filterwarnings("ignore", category=UserWarning, module="highdicom")
        made = _object(numbered, sources, marked, missed, maker, kind)
    made.save_as(path, enforce_file_format=True)
    _refuse_other(path, numbered, series)
    return marked


def _sources(series: Series) -> list[Any]:
    """The files of a series without pixels, the first with all of its patient and study, with one grid for all.

    Raises:
        DataFault: They do not state what an object of them must.
    """
    from pydicom import dcmread

    refuse_incomplete(series)
    found = []
    for number, one in enumerate(series.files):
        with reading(one):
            found.append(
                dcmread(one, stop_before_pixels=True, force=True, specific_tags=list(_OF_A_SLICE) if number else None)
            )
    across, down, along = series.affine_lps[:3, :3].T
    normal = np.cross(across, down) / (np.linalg.norm(across) * np.linalg.norm(down))
    step_mm = float(abs(along @ normal))
    for source in found:
        # Of the series, not of one file: numbers may be rounded in some files, and Spacing Between Slices be wrong.
        source.ImageOrientationPatient = found[0].ImageOrientationPatient
        source.PixelSpacing = [_decimal(np.linalg.norm(down)), _decimal(np.linalg.norm(across))]
        source.SliceThickness = found[0].get("SliceThickness") or _decimal(step_mm)
        source.SpacingBetweenSlices = _decimal(step_mm)
    _complete(found[0])
    return found


def refuse_incomplete(series: Series) -> None:
    """Refuse a series that no object can be of, by the header of its first file: before a label map is made of it.

    Raises:
        DataFault: It does not state what an object of it must, or holds all its slices in one file.
    """
    from pydicom import dcmread

    file = series.files[0]
    if series.slices[0].frames > 1:
        raise DataFault(
            f"{file} holds all its slices in one file (enhanced CT or MR), of which no DICOM SEG is written",
            allowed="series of one file for each slice",
            next="export the series as single slices, or use the label map as it is",
        )
    with reading(file):
        first = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_OF_A_SLICE))
    missing = next((name for name in _NEEDED if not first.get(name)), None)
    if missing is not None or not first.get("ImagePositionPatient") or not first.get("ImageOrientationPatient"):
        raise DataFault(
            f"{file} does not state {missing or 'where it lies in the body'}",
            allowed="series with the UIDs, position and orientation that a DICOM SEG refers to",
            next="export the series again without removing these tags, or use the label map as it is",
        )


def _decimal(number: Any) -> str:
    """As DICOM holds it: 16 characters at most."""
    return f"{number:.10g}"[:16]


def _complete(first: Any) -> None:
    """Set tags of a patient and study that must be there: empty where nothing is known or what is there is invalid."""
    from pydicom.valuerep import DA, TM

    for name in _MAY_BE_EMPTY:
        if name not in first or first[name].value is None:
            setattr(first, name, "")
    if first.PatientSex not in ("M", "F", "O", ""):
        first.PatientSex = ""
    for name, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(str(first[name].value))
        except ValueError:
            setattr(first, name, "")


def _object(
    numbered: Array, sources: Sequence[Any], marked: Sequence[Segment], missed: Sequence[str], maker: Maker, kind: str
) -> Any:
    import highdicom as hd

    first = sources[0]
    of_series = _uid("series", first.SeriesInstanceUID, maker.digest)
    files = [source.SOPInstanceUID for source in sources]
    own = _uid(
        "object", of_series, kind, maker, tuple(marked), tuple(missed), files,
        hashlib.sha256(numbered.tobytes()).hexdigest(),
    )  # fmt: skip
    names = ", ".join(one.name for one in marked)
    none = f"; not found: {', '.join(missed)}" if missed else ""
    try:
        made = hd.seg.Segmentation(
            source_images=list(sources),
            pixel_array=np.ascontiguousarray(numbered.transpose(2, 1, 0)),
            segmentation_type=kind,
            segment_descriptions=_descriptions(marked, maker),
            series_instance_uid=of_series,
            series_number=_series_number(first),
            sop_instance_uid=own,
            instance_number=1,
            manufacturer="Lemis",
            manufacturer_model_name="Lemis",
            software_versions=maker.version,
            device_serial_number=maker.digest[:16] or "none",
            series_description=_text(f"Lemis {maker.runs}: {names}{none}", _LONGEST_DESCRIPTION),
            content_label="LEMIS",
            content_description=_text(f"Not for diagnosis. By {maker.runs}", _LONGEST_DESCRIPTION),
            content_date=maker.when.date(),
            content_time=maker.when.time(),
            specific_character_set="ISO_IR 192",
            omit_empty_frames=True,
        )
    except Exception as error:  # what a series may be like that highdicom knows no SEG of is not listed anywhere
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataFault(
            f"{first.filename}: no DICOM SEG can be made of its series: {why[:200]}",
            allowed="series of CT, MR or PET as scanners write them",
            next="export the series again, or use the label map as it is",
        ) from error
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    for item in made.ContributingEquipmentSequence:
        item.ContributionDateTime = maker.when.strftime("%Y%m%d%H%M%S")
    organization = _uid("dimensions", own)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return made


def _descriptions(marked: Sequence[Segment], maker: Maker) -> list[Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="Lemis",
        family=codes.cid7162.ArtificialIntelligence,
        version=maker.version,
        source="Lemis",
        parameters={"runs": _text(maker.runs, 1024), "weights": maker.digest},
    )
    found = []
    for number, (label, one) in enumerate(zip(_labels(marked), marked, strict=True), start=1):
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=_concept(one.term.category),
            segmented_property_type=_concept(one.term.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_rgb(*rgb(one.term.colour or one.colour)),
        )
        if one.term.modifier is not None:
            described = description.SegmentedPropertyTypeCodeSequence[0]
            described.SegmentedPropertyTypeModifierCodeSequence = [_concept(one.term.modifier)]
        found.append(description)
    return found


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _labels(marked: Sequence[Segment]) -> list[str]:
    """The names as DICOM holds them: no backslash, 64 characters, told apart where these are the same."""
    room = _LONGEST_LABEL - len(f" ({len(marked)})")
    short = [(_text(one.name, _LONGEST_LABEL), one.value) for one in marked]
    told = segments.told_apart(short)
    if all(len(label) <= _LONGEST_LABEL for label in told):
        return list(told)
    return list(segments.told_apart([(_text(name, room), value) for name, value in short]))


def _text(text: str, most: int) -> str:
    """One line without what separates values, no longer than ``most`` characters."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).replace("\\", "/").split())
    return plain if len(plain) <= most else f"{plain[: most - 3].rstrip()}..."


def _series_number(first: Any) -> int:
    """Beside that of the source: 401 for series 4."""
    try:
        number = int(first.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return 100 * number + 1 if 0 < number < 10_000_000 else 9001


def _uid(*parts: Any) -> str:
    import highdicom as hd

    return str(hd.UID.from_uuid(str(uuid.uuid5(_NAMESPACE, repr(parts)))))


def _refuse_other(path: Path, numbered: Array, series: Series) -> None:
    """Refuse a file that does not hold, read as any other, what was to be written; it is removed.

    Raises:
        LemisError: It does not.
    """
    source, voxels = segmentation.read(path, True)
    assert voxels is not None
    to_series: Array = np.linalg.solve(LPS_TO_RAS @ series.affine_lps, source.affine)
    at = np.rint(to_series[:3, 3]).astype(int)
    whole = np.zeros_like(numbered)
    place = tuple(slice(a, a + n) for a, n in zip(at, voxels.shape, strict=True))
    inside = (at >= 0).all() and (at + voxels.shape <= whole.shape).all()
    if inside:
        whole[place] = voxels
    if not inside or not np.array_equal(whole, numbered):
        path.unlink()
        raise LemisError(f"{path}: the label map read back is another one. It was not kept; please report this series.")
