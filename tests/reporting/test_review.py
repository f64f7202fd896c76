"""Which label maps to look at first, in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lemis.reporting.review import FIRST, SHOWN, based_on, review, worst
from lemis.work_files.quality import Basis, Row, Verdict

FOLDER = Path("maps")


def basis(subjects: int, level: float = 0.8, labelled: int = 12) -> Basis:
    return Basis(subjects=subjects, labelled=labelled, level=level, structures=("wall",))


def row(scan: str, verdict: Verdict = "look", flags: str = "", *, dice: float = 0.5) -> Row:
    return Row(
        scan=scan, structure="wall", agreement=0.61, expected_dice=dice, low=dice - 0.1, high=dice + 0.1,
        verdict=verdict, flags=flags,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (basis(4), "4 labelled subjects held out, and 5 are needed for a number"),
        (basis(6), "Based on 6 labelled subjects held out; on average over such sets of subjects, about 80%"),
        (basis(8, 0.9), "8 labelled subjects held out, and an interval of 90% needs 9: no numbers are given"),
        (basis(9, 0.9), "about 90% of these intervals hold the true Dice"),
        (basis(9, labelled=0), "No labelled scan is known, so anatomy is not judged."),
        (basis(9, labelled=1), "What is odd is so beside 1 labelled scan."),
    ],
)
def test_what_it_is_based_on(given: Basis, words: str) -> None:
    assert words in based_on(given)


def test_the_terminal_names_a_few_scans_with_reason_and_path() -> None:
    rows = [
        row("a", flags="wall missing; all 12 labelled scans have it", dice=math.nan),
        row("b", flags="wall 2 ml; labelled ones have 40 to 60 ml. wall in 3 pieces, 9 % of it outside the largest"),
        row("c"), row("d"), row("e", "usual"),
    ]  # fmt: skip
    lines = list(worst(rows, basis(6), FOLDER, {"a": "a.nii.gz", "b": "b.nii.gz", "c": "c.nii.gz"}))
    assert lines[:4] == [
        "look at these first, of 5 scans:",
        "  maps/a.nii.gz: wall missing; all 12 labelled scans have it",
        "  maps/b.nii.gz: wall 2 ml; labelled ones have 40 to 60 ml; 1 more reason (wall: Dice probably 0.40 to 0.60)",
        "  maps/c.nii.gz: wall: Dice probably 0.40 to 0.60, views agree 0.61",
    ]
    assert len(lines) == SHOWN + 3
    assert lines[4] == "  and 1 more, all in maps/quality.csv"


def test_nothing_stands_out() -> None:
    (said,) = worst([row("a", "usual")], basis(6), FOLDER, {})
    assert said.startswith("no label map stands out. Based on 6")
    assert list(worst([], basis(6), FOLDER, {})) == []


def test_the_report_folds_what_comes_later() -> None:
    told = review([row(f"s{number}") for number in range(FIRST + 2) for _ in range(2)], basis(6))
    assert told is not None
    assert (len(told.first), len(told.others)) == (FIRST, 2)
    assert all(len(rows) == 2 for _, rows in told.first)
    assert review([], basis(6)) is None
