"""In what a scan is not what the networks were made for: channels, view of the body, spacing, intensities."""

from __future__ import annotations

import dataclasses
import functools

from lemis.datasets import frame as frames
from lemis.datasets.index import Index, Scan
from lemis.prediction.ensemble import Ensemble
from lemis.preparation import exposure
from lemis.preparation.exposure import SLICE_DIRECTION, Strange
from lemis.preparation.facts import Facts
from lemis.preparation.settings import Settings as Preparation
from lemis.preparation.settings import slice_axis_of
from lemis.settings import resolve


def by_header(scan: Scan, index: Index, ensemble: Ensemble) -> tuple[Strange, ...]:
    """By names and header, before the scan is read.

    Args:
        scan: One of ``index``.
        index: In the frame of the networks.
        ensemble: The networks.
    """
    model, frame = ensemble.model, ensemble.frame
    found = exposure.other_channels(index.channels, model.channels)
    settings = resolve(Preparation, model.prepared)
    seen = dataclasses.replace(scan, slice_axis=slice_axis_of(settings, scan.slice_axis))
    if frame is not None and scan.axes and (lies := frames.strangeness(seen, frame)):
        degrees, nearest = lies
        said = (
            f"its slices lie {degrees:.0f} degrees from those of training, which lie within "
            f"{nearest.within_degrees:.0f} degrees of each other: another view of the body, never trained on"
        )
        found.append(Strange(SLICE_DIRECTION, said))
    return tuple(found)


def by_all(scan: Scan, facts: Facts, index: Index, ensemble: Ensemble) -> tuple[Strange, ...]:
    """By all that there is of a prepared scan; arguments as of ``by_header``."""
    found = by_header(scan, index, ensemble)
    likes = [model.like for model in ensemble.models if model.like is not None]
    if not likes:
        return found
    more = exposure.strange(facts, functools.reduce(exposure.wider, likes), ensemble.model.channels)
    told = {strange.kind for strange in found}  # a direction by its angle, where there is one
    return *found, *(strange for strange in more if strange.kind not in told)
