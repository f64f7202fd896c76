"""Whose scan it is, as far as its name tells.

``subject_of`` applies what is certain: an end of the name that says when, never who. ``doubts`` finds what only looks
so, and what a person has to decide.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_NUMBER_OR_NAME = "ses|session|run|frame|phase|time|tp|visit|slice"
_NUMBER = r"day|week|month|year|time[-_]?points?|follow[-_]?up|fu|t"
_WORD = (
    r"ED|ES|(?:end[-_]?)?(?:systole|diastole)|inhale|exhale|inspiration|expiration|baseline|follow[-_]?up"
    r"|(?:pre|post|intra)[-_]?(?:op|operative|surgery|treatment|therapy|contrast)|pre|post"
)
_ANY_MOMENT = rf"[_-](?:{_WORD}|(?:{_NUMBER_OR_NAME})[-_]?[A-Za-z0-9]+|(?:{_NUMBER})[-_]?[0-9]+[a-z]?)"
_MOMENT = re.compile(rf"{_ANY_MOMENT}$", re.IGNORECASE)
_MOMENT_INSIDE = re.compile(rf"{_ANY_MOMENT}(?=[_-])", re.IGNORECASE)
_DATE = re.compile(r"(?<![0-9])((?:19|20)[0-9]{2})[-_.]([01][0-9])[-_.]([0-3][0-9])(?![0-9])")
# A side, a moment or a day before a number that may be a person's: L_9001104, pre_001, 20200101_Patient01. After a day,
# 001 counts the people of that day.
_START = re.compile(
    rf"^(?:(?:L|R|left|right|{_WORD})[_\-. ]+(?=.*[0-9])"
    r"|(?:19|20)[0-9]{2}([-_.]?)[01][0-9]\1[0-3][0-9][_\-. ]+(?=.*(?:[A-Za-z].*[0-9]|[0-9]{4})))",
    re.IGNORECASE,
)
_DAY = re.compile(r"(?:19|20)[0-9]{2}[01][0-9][0-3][0-9]")
# BIDS names the person first, wherever such a file lies.
_BIDS = re.compile(r"^(sub-[A-Za-z0-9]+)_")
# BraTS since 2021: cohort, patient, time point, as BraTS-GLI-00006-001.
_BRATS = re.compile(r"^(BraTS(?:-[A-Za-z]+)+-\d{4,5})-\d{1,3}$", re.IGNORECASE)
_PATIENT_AND_SLICE = re.compile(r"^([A-Za-z].*\d)_\d+$")
# The last part of a name, and a letter after a number (p03b).
_CUTS = (re.compile(r"^(.*[^_\-. ])[_\-. ]+([^_\-. ]+)$"), re.compile(r"^(.*\d)([A-Za-z])$"))
_FEW = 5  # scans of one patient, of whom nothing else is known


def subject_of(name: str, *, picture: bool = False) -> str:
    """The subject that an id or a folder names: the name without trailing parts that name a moment of the same person.

    Dropped from the end, as often as they occur, after ``_`` or ``-``: ``ED``, ``ES``, ``systole``, ``inhale``,
    ``baseline``, ``followup``, ``pre``, ``postop`` and the like; ``ses``, ``session``, ``run``, ``frame``, ``phase``,
    ``time``, ``tp``, ``visit``, ``slice`` with their number or name; ``day``, ``week``, ``month``, ``year``,
    ``timepoint``, ``followup``, ``fu``, ``t`` with their number; the time point of BraTS (``BraTS-GLI-00006-001``); and
    all after ``sub-XX_`` of BIDS. Of a 2D picture also a slice number, where what is left starts with a letter and ends
    with a digit (``chd1001_0063`` -> ``chd1001``, but ``lungct_002`` stays).
    """
    subject = name
    while shorter := _MOMENT.sub("", subject):
        if shorter == subject:
            break
        subject = shorter
    if match := _BIDS.match(name) or _BRATS.match(subject) or (_PATIENT_AND_SLICE.match(subject) if picture else None):
        return match.group(1)
    return subject


def doubts(subjects: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of subjects that may be one person each, by their names alone; most often there is none.

    Names look like one person where they differ in capitals, separators or leading zeros only (``p01``, ``P1``), or in
    a moment or side (``p01_day1_ct``, ``p01_day2_ct``; ``L_0815``, ``R_0815``), where one goes on where the other ends
    (``p03``, ``p03_2``), and where names with a number in common end differently (``p01_L``, ``p01_R``;
    ``training01_01``, ``training01_02``), unless that end is what tells people apart (``brats13_0001``,
    ``brats13_0002``; ``2019_0001`` to ``2019_0050``; ``20200101_p1``, ``20200101_p2``).
    """
    names = sorted(set(subjects))
    known = set(names)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[_plain(_START.sub("", _MOMENT_INSIDE.sub("", name)))].append(name)
    longer = [[stem, name] for name in names for stem in _stems(name) if stem in known and _has_digit(stem)]
    return _joined([*alike.values(), *longer, *_common_stems(names)])


def _common_stems(names: Sequence[str]) -> list[list[str]]:
    """Names that differ in their last part only, where that part does not look like the number of a person."""
    ends: dict[str, dict[str, str]] = defaultdict(dict)  # stem -> end -> name
    for name in names:
        for cut in _CUTS:
            if match := cut.match(_DATE.sub(r"\1\2\3", name)):
                ends[match.group(1)][match.group(2)] = name
    most = max(_FEW, len(ends) // 2)
    sets = Counter(frozenset(group) for group in ends.values())
    found = []
    for stem, group in ends.items():
        numbers = all(end.isdecimal() for end in group)
        of_a_person = stem[-1].isdigit() and not _DAY.fullmatch(stem) and not (numbers and len(ends) == 1)
        recurs = not numbers and sets[frozenset(group)] > 1  # anna_left, anna_right, bob_left, bob_right
        if 2 <= len(group) <= most and (of_a_person or recurs):
            found.append(list(group.values()))
    # One long run of numbers shows that numbers tell people apart here, and what stands before them a site or a year.
    runs = any(len(group) > most and all(end.isdecimal() for end in group) for group in ends.values())
    return [] if runs else found


def _stems(name: str) -> set[str]:
    """The name without its last part, without its last two, ..."""
    found: set[str] = set()
    left = [name]
    while left:
        longer = left.pop()
        shorter = {match.group(1) for cut in _CUTS if (match := cut.match(longer))} - found
        found |= shorter
        left += shorter
    return found


def _plain(name: str) -> tuple[str, ...]:
    """Words and numbers without capitals, separators and leading zeros."""
    parts = re.findall(r"[0-9]+|[^\W\d_]+", name.casefold())
    return tuple(str(int(part)) if part.isascii() and part.isdecimal() else part for part in parts) or (name,)


def _has_digit(text: str) -> bool:
    return any(letter.isdigit() for letter in text)


def _joined(groups: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Groups of two or more, those that overlap made one, in order."""
    group_of: dict[str, set[str]] = {}
    for group in groups:
        joined = set(group).union(*(group_of.get(name, set()) for name in group))
        group_of |= dict.fromkeys(joined, joined)
    return sorted({tuple(sorted(group)) for group in group_of.values() if len(group) > 1})
