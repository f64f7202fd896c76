"""``field_of_view_mm: auto`` from one preparation to the next: it stays while no structure comes near its edge.

Every prepared image follows from the field of view, and every training from those. If it were measured anew whenever a
label is added, one label that reaches 2 mm farther out would train everything anew, pre-training included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lemis.measure.tables import count
from lemis.preparation.settings import KEPT_MARGIN, Settings, as_stored, is_well_inside, settle
from lemis.preparation.slices import InPlane
from lemis.preparation.store_files import Meta
from lemis.settings import plain

_KEY = "field_of_view_mm"
_ANEW = "so every scan is prepared anew, and every pre-training and every network that saw them is trained anew"
_MOST_NAMED = 3  # scans


class Settled(NamedTuple):
    """Settings with numbers in place of "auto", and what a person is told about it."""

    settings: Settings
    note: str | None  # None: it is what it was, or the first


def settled(
    asked: Settings, planes: Sequence[InPlane], extents_mm: Mapping[str, float], before: Meta | None
) -> Settled:
    """Settings for one data set, whose field of view is that of the last preparation where that was asked for alike.

    Args:
        asked: The settings, with the axis of the slices settled.
        planes: The slices of every scan.
        extents_mm: How far the structures of each labelled scan reach from the middle; empty unless "auto" is asked.
        before: Of the last preparation, finished or not; None: there was none.
    """
    fresh = settle(asked, planes, list(extents_mm.values()))
    if asked.field_of_view_mm != "auto" or before is None or not _is_alike(fresh, before):
        return Settled(fresh, None)
    was = before.settings[_KEY]
    now = settle(asked, planes, list(extents_mm.values()), kept_mm=was)
    return Settled(now, _note(now.field_of_view_mm, fresh.field_of_view_mm, was, extents_mm, planes))


def _is_alike(fresh: Settings, before: Meta) -> bool:
    """Whether it was "auto" then too, and all else is as it was."""
    if before.asked is None or before.asked.get(_KEY) != "auto":
        return False
    other = plain(as_stored(fresh)) | {_KEY: None}
    return bool(other == before.settings | {_KEY: None})


def _note(now: Any, fresh: Any, was: Any, extents_mm: Mapping[str, float], planes: Sequence[InPlane]) -> str | None:
    reach = f"structures reach {max(extents_mm.values(), default=0.0):.4g} mm from the middle of a slice"
    if now == was:
        would = "" if now == fresh else f"; measured anew it would be {_mm(fresh)}"
        return f"field of view: {_mm(was)}, as before; {reach}{would}" if would else None
    if now is None:
        return f"field of view: the whole slice instead of {_mm(was)}, as no label has a structure any more, {_ANEW}"
    if was is None:
        return f"field of view: {_mm(now)}, measured on the first labels, instead of the whole slice, {_ANEW}"
    out = [scan for scan, extent in extents_mm.items() if extent and not is_well_inside(extent, was, planes)]
    more = f" and {len(out) - _MOST_NAMED} more" if len(out) > _MOST_NAMED else ""
    return (
        f"field of view: widened from {_mm(was)} to {_mm(now)}, as {reach} in {count(len(out), 'scan')} "
        f"({', '.join(out[:_MOST_NAMED])}{more}), where {was / 2 / (1 + KEPT_MARGIN):.4g} mm leave {KEPT_MARGIN:.0%} "
        f"to spare, {_ANEW}"
    )


def _mm(side: float | None) -> str:
    return "the whole slice" if side is None else f"{side:.4g} mm"
