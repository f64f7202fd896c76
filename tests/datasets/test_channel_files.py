"""Numbers at the end of names: channels of a scan, or scans of their own; never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemis.datasets import channel_files
from lemis.errors import UsageError


def files(*stems: str, suffix: str = ".nii.gz") -> list[Path]:
    return [Path("imagesTr") / f"{stem}{suffix}" for stem in stems]


def grid(ids: str, *numbers: int) -> list[str]:
    return [f"{id}_{number:04d}" for id in ids for number in numbers]


@pytest.mark.parametrize(
    ("stems", "labels", "declared", "numbers"),
    [
        (grid("abc", 0, 1), ["a", "b"], 0, (0, 1)),
        (grid("abc", 0, 1), ["a_0000", "b_0000"], 0, (0, 1)),  # names of labels copied from an image
        (grid("a", 0, 1), ["a_0000"], 2, (0, 1)),
        (grid("a", 0, 1), ["a_0000"], 1, ()),
        (grid("abc", 0), ["a_0000"], 0, (0,)),
        (grid("abc", 0), [], 0, (0,)),
        (grid("abc", 0, 1), [], 0, (0, 1)),
        (grid("a", 0, 1), [], 0, (0, 1)),
        (grid("a", 0, 1, 2), ["a_0000", "a_0001"], 0, ()),
        (grid("a", *range(20)), [], 0, ()),
        (grid("a", 3, 7), [], 0, ()),
        (grid("ab", *range(20)), ["a_0000"], 0, ()),
        (["a_0000", "a_0001", "b_0000", "c_0000", "c_0001"], ["a"], 0, (0, 1)),  # one file is missing
        (["x", "y"], ["x"], 0, ()),
        (["x", "a_0000"], [], 0, ()),
        ([*grid("abc", 0, 1), "x"], ["a"], 0, (0, 1)),
        ([], [], 0, ()),
    ],
)
def test_numbers(stems: list[str], labels: list[str], declared: int, numbers: tuple[int, ...]) -> None:
    assert channel_files.numbers(files(*stems), labels, declared) == numbers


@pytest.mark.parametrize(
    ("stems", "labels", "suffix"),
    [
        (grid("ab", 0, 1), ["a", "b_0000"], ".nii.gz"),
        (grid("a", 0, 1), ["a_0000"], ".nii.gz"),
        (grid("abc", 0, 1), ["a_0000", "b_0000"], ".png"),  # or the first slice of each
    ],
)
def test_what_can_be_read_in_both_ways_is_refused(stems: list[str], labels: list[str], suffix: str) -> None:
    with pytest.raises(UsageError, match="may belong to the file"):
        channel_files.numbers(files(*stems, suffix=suffix), labels)


@pytest.mark.parametrize(("present", "missing"), [((0, 2), "a_0001"), ((1, 2), "a_0000"), ((0, 1, 3), "a_0002")])
def test_a_hole_in_the_numbers_is_refused(present: tuple[int, ...], missing: str) -> None:
    with pytest.raises(UsageError, match=rf"channels of a are numbered(.|\n)*add {missing}"):
        channel_files.numbers(files(*grid("abc", *present)), ["a"])


def test_a_missing_channel_keeps_its_place() -> None:
    stems = [*grid("ab", 0, 1, 2), "c_0000", "c_0002", "d_0000", "d_0001", "d_0002", "d_0005"]
    found = channel_files.by_scan(files(*stems), channel_files.numbers(files(*stems), ["a"]))
    assert found["c"] == tuple(files("c_0000", "c_0001", "c_0002"))
    assert found["d"] == tuple(files("d_0000", "d_0001", "d_0002", "d_0005"))


def test_two_files_for_one_channel_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a_0000\.nii\.gz and a_0000\.nrrd are both channel 0000 of a"):
        channel_files.by_scan([*files("a_0000"), *files("a_0000", suffix=".nrrd")], (0,))
