"""Which series of several is meant: how they are shown, and how a user names one.

A series is named after ``#series=``: by its Series Number, its UID, or its Series Description, of which ``*`` and ``?``
may stand for a part; then, where it holds several stacks, by the name of one or by its place among them, counted from
1: ``#series=4``, ``#series=T1*``, ``#series=4:EchoTime=4.92``, ``#series=4:2``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from lemis.formats.dicom.stacks import Stack
from lemis.formats.dicom.tags import Header

_PART = re.compile(r"[A-Za-z]\w*=.+|\d+")
_MOST_SHOWN = 12


def series_of(headers: Sequence[Header]) -> list[list[Header]]:
    """Files, grouped by the series that they belong to."""
    groups: dict[tuple[str, ...], list[Header]] = {}
    for header in headers:
        groups.setdefault(header.series, []).append(header)
    return list(groups.values())


def divided(pick: str) -> tuple[str, str]:
    """What is said of the series, and of the stack in it ("" where nothing is)."""
    parts = pick.split(":")
    kept = len(parts)
    while kept > 1 and _PART.fullmatch(parts[kept - 1]):
        kept -= 1
    return ":".join(parts[:kept]), ":".join(parts[kept:])


def is_meant(header: Header, name: str) -> bool:
    """Whether a number, UID or description (``*`` and ``?`` allowed) is that of a file's series."""
    description = header.text("SeriesDescription").casefold()
    wanted = name.casefold()
    exact = name in (header.text("SeriesInstanceUID"), header.text("SeriesNumber")) or description == wanted
    return exact or fnmatchcase(description, wanted)


def meant(groups: Sequence[list[Header]], name: str) -> list[list[Header]]:
    """The series that a name stands for; what has it exactly as number or UID goes before descriptions."""
    exact = [group for group in groups if name in (group[0].text("SeriesInstanceUID"), group[0].text("SeriesNumber"))]
    return exact or [group for group in groups if is_meant(group[0], name)]


def name_of(group: Sequence[Header], groups: Sequence[Sequence[Header]]) -> str:
    """What names one series among others: its number, or else its UID; "" where both are those of others too."""
    for tag in ("SeriesNumber", "SeriesInstanceUID"):
        name = group[0].text(tag)
        if name and sum(name == other[0].text(tag) for other in groups) == 1:
            return name
    return ""


def stack_meant(stacks: Sequence[Stack], name: str) -> list[Stack]:
    """The stacks that a name, or a number from 1, stands for."""
    if name.isdecimal():
        return list(stacks[int(name) - 1 : int(name)]) if int(name) else []
    return [stack for stack in stacks if stack.name.casefold() == name.casefold()]


def title_of(header: Header) -> str:
    """What people call a series."""
    return header.text("SeriesDescription")[:64] or header.text("SeriesInstanceUID") or "a nameless series"


def shown(group: Sequence[Header]) -> str:
    """``5 of lung (a.dcm, ...), CT, series 4``."""
    first = group[0]
    kind = f" [{first.no_scan}]" if first.no_scan else ""
    modality = f", {first.text('Modality')}" if first.text("Modality") else ""
    number = f", series {first.text('SeriesNumber')}" if first.text("SeriesNumber") else ""
    files = f"{first.file.name}{', ...' * (len({header.file for header in group}) > 1)}"
    return f"{len(group)} of {title_of(first)}{kind} ({files}){modality}{number}"


def shown_stacks(stacks: Sequence[Stack]) -> str:
    """``1: EchoTime=2.46 (20 slices); 2: EchoTime=4.92 (20 slices)``."""
    texts = [f"{number}: {stack.name} ({len(stack.headers)} slices)" for number, stack in enumerate(stacks, start=1)]
    return in_a_line(texts)


def in_a_line(texts: Sequence[str]) -> str:
    """``a; b; and 3 more``."""
    more = f"; and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return "; ".join(texts[:_MOST_SHOWN]) + more
