"""How scans are prepared: the settings as they are asked for, and as they are for one data set (settled)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lemis.errors import UsageError
from lemis.preparation.slices import InPlane
from lemis.settings import plain

Size = Annotated[int, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Spacing = Annotated[float, Field(ge=1e-4, le=1000)]  # mm; microscopes have 0.0002, a body has 2000
FIELD_MULTIPLE = 16  # four poolings of the U-Net
FIELD_MARGIN = 0.10  # unlabelled hearts lie a little further out than the labelled ones
KEPT_MARGIN = 0.05  # INFERRED: half of it is enough to keep a field that was measured on fewer labels


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scans are prepared. ``settle`` replaces what depends on the data set by numbers."""

    # PCL: 1.25 for ACDC. None: the median of the data set. "native": no resampling (PCL on CHD).
    spacing_mm: Spacing | Literal["native"] | None = None
    # None: the whole slice. A number: side of the central square. "auto": the smallest central square, a
    # multiple of 16 prepared pixels, that holds every labelled structure of every labelled scan plus 10 %. Test
    # subjects are among them, as scans are prepared once for all folds: a run says what it would be without them.
    # What was measured once stays while every structure is inside it with 5 % to spare (``field_of_view.py``).
    field_of_view_mm: Annotated[float, Field(gt=0, le=5000)] | Literal["auto"] | None = None
    # PCL: over the whole volume, after resampling, no foreground mask.
    normalise: Literal["zscore"] = "zscore"
    # PCL on CHD: (1, 99), of the volume, before the z-score; ACDC: none.
    clip_percentiles: tuple[Percent, Percent] | None = None
    # PCL: 3 (cubic B-spline, edge padding).
    image_order: Literal[1, 3] = 3
    # PCL: one-hot, linear, then argmax.
    label_interpolation: Literal["linear", "nearest"] = "linear"
    # PCL: none. True blurs by sigma = (factor - 1) / 2 pixels before shrinking, as scikit-image does.
    antialias: bool = False
    # PCL: the slices as they are. A number: also through-plane, as in plane; for networks on volumes.
    slice_spacing_mm: Spacing | None = None
    # (slices, rows, cols) of every prepared scan, irrespective of its spacing and instead of the two spacings and the
    # field of view; Voxel Siamese: (64, 128, 128). None: by spacing.
    whole_px: tuple[Size, Size, Size] | None = None
    # (low, high) in stored units such as HU, before the z-score; Voxel Siamese: (-200, 250). None: not clipped.
    clip_values: tuple[float, float] | None = None
    # Across which canonical axis slices run. "own": each scan's widest spacing. "common": the axis of most scans, or a
    # number, for all: what a network on volumes needs, lest thin slices turn some scans on their side.
    slice_axis: Literal["own", "common", 0, 1, 2] = "own"


# Not named by stores and runs that are older than the preparation of volumes.
_FOR_VOLUMES = ("slice_spacing_mm", "whole_px", "clip_values", "slice_axis")


def settle(
    settings: Settings, planes: Sequence[InPlane], extents_mm: Sequence[float] = (), *, kept_mm: float | None = None
) -> Settings:  # fmt: skip
    """Settings with numbers in place of "median of the data set" and "auto".

    Args:
        settings: As asked for.
        planes: The slices of every scan of the data set.
        extents_mm: ``extent_mm`` of every labelled scan; needed for ``field_of_view_mm="auto"`` only.
        kept_mm: What ``"auto"`` was before; it stays while every structure lies well inside it. None: measure it.

    Raises:
        UsageError: Settings that exclude each other, or limits in the wrong order.
    """
    refuse_contradictions(settings)
    spacing, field = settings.spacing_mm, settings.field_of_view_mm
    if settings.whole_px is not None:
        return settings
    if spacing is None:
        spacing = float(np.median([plane.spacing_mm for plane in planes]))
    if field == "auto":
        extent = max(extents_mm, default=0.0)
        field = kept_mm if is_well_inside(extent, kept_mm, planes) else _auto_field_mm(spacing, planes, extent)
    return dataclasses.replace(settings, spacing_mm=spacing, field_of_view_mm=field)


def _auto_field_mm(spacing: float | Literal["native"], planes: Sequence[InPlane], extent: float) -> float | None:
    if extent == 0:
        return None
    # With native spacing the multiple of 16 holds for a scan of median spacing.
    unit = float(np.median([plane.spacing_mm for plane in planes])) if spacing == "native" else spacing
    step = FIELD_MULTIPLE * unit
    wanted = min(2 * extent * (1 + FIELD_MARGIN), _whole_mm(planes))
    return math.ceil(wanted / step - 1e-6) * step


def is_well_inside(extent_mm: float, field_mm: float | None, planes: Sequence[InPlane]) -> bool:
    """Whether structures that reach ``extent_mm`` from the middle leave ``KEPT_MARGIN`` of a field free, or the field
    holds every slice whole; not where there is no structure, or no field.
    """
    if field_mm is None or extent_mm == 0:
        return False
    return min(2 * extent_mm * (1 + KEPT_MARGIN), _whole_mm(planes)) <= field_mm * (1 + 1e-9)


def _whole_mm(planes: Sequence[InPlane]) -> float:
    return max(size * mm for plane in planes for size, mm in zip(*plane, strict=True))


def settle_slice_axis(settings: Settings, axes: Sequence[int]) -> Settings:
    """Settings with a number in place of "common": the axis of most scans, or the last one if there is a tie."""
    if settings.slice_axis != "common":
        return settings
    common: Any = max(sorted(set(axes)), key=lambda axis: (list(axes).count(axis), axis), default=2)
    return dataclasses.replace(settings, slice_axis=common)


def slice_axis_of(settings: Settings, own: int) -> int:
    """The canonical axis across which the slices of a scan run, under settled settings.

    Args:
        settings: From ``settle_slice_axis``.
        own: The axis of the scan's widest spacing.
    """
    assert settings.slice_axis != "common", "settle_slice_axis() comes first"
    return own if settings.slice_axis == "own" else settings.slice_axis


def as_stored(settings: Settings) -> dict[str, Any]:
    """Settled settings as plain YAML types, as stores and runs name them.

    What volumes added is named only where it is used, so that what was prepared or trained before is still the same.
    """
    usual = Settings()
    named: dict[str, Any] = plain(settings)
    return {
        key: value
        for key, value in named.items()
        if key not in _FOR_VOLUMES or getattr(settings, key) != getattr(usual, key)
    }


def refuse_contradictions(settings: Settings, prefix: str = "") -> None:
    """Refuse settings that contradict each other; ``prefix`` is what the user typed before the keys.

    Raises:
        UsageError: They contradict each other.
    """
    for name, usual in (("clip_percentiles", [1, 99]), ("clip_values", [-200, 250])):
        clip: tuple[float, float] | None = getattr(settings, name)
        if clip is not None and clip[0] >= clip[1]:
            raise UsageError(
                f"{prefix}{name}={list(clip)}", allowed="the lower one first", next=f"{prefix}{name}={_typed(usual)}"
            )
    for one, others, reason in (
        ("whole_px", ("spacing_mm", "slice_spacing_mm", "field_of_view_mm"), "it gives every scan one size in pixels"),
        ("clip_values", ("clip_percentiles",), "intensities are clipped once"),
    ):
        given = [name for name in others if getattr(settings, name) is not None]
        if getattr(settings, one) is not None and given:
            typed = (f"{prefix}{name}={_typed(plain(getattr(settings, name)))}" for name in (one, *given))
            raise UsageError(
                " and ".join(typed),
                allowed=f"{one} without {' or '.join(others)}: {reason}",
                next=f"{' '.join(f'{prefix}{name}=null' for name in given)}, or {prefix}{one}=null",
            )


def _typed(value: Any) -> str:
    return str(value).replace(" ", "")
