"""The frames of an enhanced DICOM file (CT, MR, PET): each as if it were a file, with the tags that hold of it.

What classic files state at their top stands here in functional groups, of all frames (shared) or of each. Of both the
groups that tell where a frame lies, what its values mean, and what distinguishes it from others at the same place are
read (DICOM PS3.3, C.7.6.16); a frame's own go before the shared ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lemis.errors import DataFault
from lemis.formats.dicom.tags import PER_FRAME, SHARED, Header, as_text, dataset_of, raw_value, unreadable

# Path to a tag in the groups; the name it has in classic files, or ours; and its type where it is not text.
_GROUPS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", ""),
    (("PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", ""),
    (("PixelMeasuresSequence", "PixelSpacing"), "PixelSpacing", ""),
    (("PixelMeasuresSequence", "SliceThickness"), "SliceThickness", ""),
    (("PixelValueTransformationSequence", "RescaleSlope"), "RescaleSlope", ""),
    (("PixelValueTransformationSequence", "RescaleIntercept"), "RescaleIntercept", ""),
    (("FrameContentSequence", "StackID"), "StackID", ""),
    (("FrameContentSequence", "TemporalPositionIndex"), "TemporalPositionIdentifier", "L"),
    (("FrameContentSequence", "DimensionIndexValues"), "DimensionIndexValues", "L"),
    (("FrameContentSequence", "FrameAcquisitionNumber"), "AcquisitionNumber", "H"),
    (("MREchoSequence", "EffectiveEchoTime"), "EchoTime", "d"),
    (("MRModifierSequence", "InversionTimes"), "InversionTime", "d"),
    (("MRTimingAndRelatedParametersSequence", "FlipAngle"), "FlipAngle", "d"),
    (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"), "TriggerTime", "d"),
    (("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"), "CardiacPhasePercent", "f"),
    (("RespiratorySynchronizationSequence", "NominalPercentageOfRespiratoryPhase"), "RespiratoryPhasePercent", "f"),
    (("MRDiffusionSequence", "DiffusionBValue"), "DiffusionBValue", "d"),
    (
        ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
        "DiffusionGradientOrientation",
        "d",
    ),
    *(((f"{kind}FrameTypeSequence", "FrameType"), "ImageType", "") for kind in ("CTImage", "MRImage", "PET")),
    (("MRImageFrameTypeSequence", "ComplexImageComponent"), "ComplexImageComponent", ""),
)


def frames_of(header: Header) -> list[Header]:
    """The frames of an enhanced file, in its order; any other file itself.

    Raises:
        DataFault: It states another number of frames than it describes, or is damaged.
    """
    if PER_FRAME not in header.sequences:
        return [header]
    dataset = dataset_of(header.file, (SHARED, PER_FRAME), pixels=False)
    little = header.order == "little"
    try:
        shared = _tags(dataset[SHARED][0], little=little) if dataset.get(SHARED) else {}
        each = [_tags(item, little=little) for item in dataset[PER_FRAME]]
    except DataFault:
        raise
    except Exception as error:  # pydicom raises anything on damaged sequences
        raise unreadable(header.file, f"its frames are not described ({type(error).__name__}: {error})") from error
    claimed = header.text("NumberOfFrames") or "1"
    if str(len(each)) != claimed:
        raise header.fault(
            "NumberOfFrames", f"is {claimed[:20]}, and {len(each)} are described", "as many as there are"
        )
    return [
        dataclasses.replace(header, frame=number, raw={**header.raw, **shared, **own})
        for number, own in enumerate(each)
    ]


def _tags(groups: Any, *, little: bool) -> dict[str, bytes]:
    """What the functional groups of an item say, by the names of classic tags."""
    found: dict[str, bytes] = {}
    for (*sequences, tag), name, kind in _GROUPS:
        item = groups
        for sequence in sequences:
            inside = item.get(sequence) if item is not None else None
            item = inside[0] if inside else None
        if item is not None and (raw := raw_value(item, tag)):
            found[name] = as_text(raw, kind, little=little) if kind else raw
    indices = found.pop("DimensionIndexValues", b"").split(b"\\")
    return found | {f"Dimension{number}": value for number, value in enumerate(indices, start=1) if value}
