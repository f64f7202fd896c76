"""Empty files of a layout, and what is recognised of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hypothesis import strategies as st

from how_many import examples
from lemis.datasets.recognition import Listing, recognise

SHARED = Path(__file__).parents[1] / "../shared/data"
Normal = Literal["NFC", "NFD"]
QUICK = examples(25)
SUFFIXES = st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha", ".png"])

# Ids as people choose them, some with times of one person; never ending in what marks a channel or a label.
people = st.from_regex(r"[a-z]{2,6}[A-Z]?-?[0-9]{2,3}", fullmatch=True)
moments = st.sampled_from(["", "_ED", "_ES", "_frame03", "_ses-2", "_ses-pre_run-1", "-phase1"])
cohorts = st.dictionaries(people, st.lists(moments, min_size=1, max_size=2, unique=True), min_size=1, max_size=5)
# For every scan whether it has a label; the first one always has: so the folder shows how labels are named.
flags = st.lists(st.booleans(), min_size=10, max_size=10)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def wanted(cohort: dict[str, list[str]], labelled: list[bool]) -> dict[str, tuple[str, bool]]:
    """Id -> (subject, labelled)."""
    ids = [(person + moment, person) for person, moments in sorted(cohort.items()) for moment in moments]
    flags = [True, *labelled[1:]]
    return {name: (person, flag) for (name, person), flag in zip(ids, flags, strict=False)}


def found(root: Path, layout: str) -> tuple[Listing, dict[str, tuple[str, bool]]]:
    listing = recognise(root)
    assert listing.index.layout == layout
    for scan in listing.index.scans:
        for file in [*scan.images, *([scan.label] if scan.label else [])]:
            assert (root / file).exists()
    return listing, {scan.id: (scan.subject, scan.label is not None) for scan in listing.index.scans}
