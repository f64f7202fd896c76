"""One stack of slices for a scan: a series may hold several, of echoes, phases, directions or contrasts.

What tells them apart is looked for in their tags, and gives each its name (``EchoTime=4.92``), by which a user picks
it. Nothing is mixed, and nothing is picked by itself.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lemis.formats.dicom import grid
from lemis.formats.dicom.tags import Header

# In the order in which they are asked; of two that tell the same slices apart, the first gives the name.
_KEYS = (
    *("EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("CardiacPhasePercent", "RespiratoryPhasePercent", "TemporalPositionIdentifier", "TriggerTime"),
    *("ComplexImageComponent", "ImageType", "AcquisitionNumber", "AcquisitionTime"),
    *(f"Dimension{number}" for number in range(1, 8)),
)
# Times differ a little from slice to slice; their order at each place counts, under these names.
_RANKED = {"TriggerTime": "phase", "AcquisitionTime": "repeat"}
_MOST_KEYS = 3  # that are needed at once
_PLANES = ("sagittal", "coronal", "axial")


class Stack(NamedTuple):
    """Slices of which no two lie at one place."""

    name: str  # "" where a series is one stack
    headers: list[Header]


def stacks_of(headers: Sequence[Header]) -> list[Stack]:
    """The stacks of a series, in the order in which they are found; one where nothing tells slices apart.

    Args:
        headers: Of its files or frames.

    Raises:
        DataFault: A position or direction that is none.
    """
    found = []
    for name, group in _by_direction(headers):
        inner = _by_tags(group)
        found += [Stack(":".join(filter(None, (name, one.name))), one.headers) for one in inner]
    return found


def _by_direction(headers: Sequence[Header]) -> list[tuple[str, list[Header]]]:
    """Stacks that lie differently in the body. A single slice among others is no stack, but refused later."""
    kinds: dict[tuple[object, ...], list[Header]] = {}
    for header in headers:
        orientation = tuple(round(number, 2) + 0.0 for number in grid.orientation(header))
        kinds.setdefault(
            (orientation, header.text("StackID"), header.raw.get("Rows"), header.raw.get("Columns")), []
        ).append(header)
    if len(kinds) == 1 or any(len(group) < 2 for group in kinds.values()) or not all(kind[0] for kind in kinds):
        return [("", list(headers))]
    planes = [_PLANES[_normal_axis(group[0])] for group in kinds.values()]
    if len(set(planes)) == len(planes):
        names = [f"plane={plane}" for plane in planes]
    elif len({kind[1] for kind in kinds}) == len(kinds):
        names = [f"StackID={_in_a_path(str(kind[1]))}" for kind in kinds]
    else:
        names = [f"stack={number}" for number in range(1, len(kinds) + 1)]
    return list(zip(names, kinds.values(), strict=True))


def _normal_axis(header: Header) -> int:
    orientation = np.array(grid.orientation(header))
    return int(np.abs(np.cross(orientation[:3], orientation[3:])).argmax())


def _by_tags(headers: Sequence[Header]) -> list[Stack]:
    places = [tuple(round(number, 3) for number in grid.position(header)) for header in headers]
    most = max(Counter(places).values())
    whole = [Stack("", list(headers))]
    if most == 1 or not all(places):
        return whole
    values = {key: [value_of(header, key) for header in headers] for key in _KEYS}
    telling = [key for key in _KEYS if len(set(values[key])) > 1]
    for count in range(1, _MOST_KEYS + 1):
        for keys in itertools.combinations(telling, count):
            names = [":".join(f"{key}={values[key][place]}" for key in keys) for place in range(len(headers))]
            if len(set(names)) == most and len(set(zip(names, places, strict=True))) == len(headers):
                return _named(names, headers)
    for key in (key for key in _RANKED if key in telling):
        ranks = _ranks(places, [header.text(key) for header in headers])
        if ranks and max(ranks) == most:
            return _named([f"{_RANKED[key]}={rank}" for rank in ranks], headers)
    return whole


def _named(names: Sequence[str], headers: Sequence[Header]) -> list[Stack]:
    return [
        Stack(name, [header for header, other in zip(headers, names, strict=True) if other == name])
        for name in sorted(set(names), key=_counted)
    ]


def _counted(name: str) -> list[tuple[float, str]]:
    """Names in the order of the numbers in them."""
    return [_number(part.partition("=")[2]) for part in name.split(":")]


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _ranks(places: Sequence[tuple[float, ...]], times: Sequence[str]) -> list[int]:
    """Which one in time each slice is of those at its place, from 1; none where two are at the same time."""
    ranks = [0] * len(places)
    for place in set(places):
        here = sorted((float(_number(times[i])[0]), i) for i, other in enumerate(places) if other == place)
        if len({time for time, _ in here}) < len(here):
            return []
        for rank, (_, i) in enumerate(here, start=1):
            ranks[i] = rank
    return ranks


def value_of(header: Header, key: str) -> str:
    """What a tag says, as it stands in the name of a stack: ``4.92``, ``ORIGINAL_PRIMARY``, ``none``."""
    text = header.text(key)
    number, word = _number(text)
    return _in_a_path(text) if word or not text else f"{number:.7g}"


def _in_a_path(text: str) -> str:
    """A text as a part of a path such as ``scan#series=4:ImageType=ORIGINAL_PRIMARY``; ``none`` of nothing."""
    return "".join(letter if letter.isalnum() or letter in ".-+" else "_" for letter in text) or "none"
