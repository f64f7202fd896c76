"""CHAOS (Kavur et al., MedIA 2021), as it unpacks: MR/1/T2SPIR/{DICOM_anon, Ground}, one PNG per slice.

The pictures are in the order of the names of the DICOM files. ``chaos_t1``: MR/1/T1DUAL/DICOM_anon/{InPhase, OutPhase},
two channels; ``chaos_ct``: CT/1/{DICOM_anon, Ground}. Folders above these do not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lemis.datasets.layouts.by_pattern import by_pattern
from lemis.datasets.layouts.structures import LABELS
from lemis.datasets.listing import Case, Found, LeftOut, Tree, files_in, only_image


class Kind(NamedTuple):
    """One kind of scans; folders are below a patient's."""

    title: str
    modality: str
    series: dict[str, str]  # of each channel
    labels: str  # of pictures
    grid: str  # the series beside the folder of labels that gives them their place


KINDS = {
    "chaos": Kind("CHAOS, MR T2-SPIR", "MR", {"T2-SPIR": "T2SPIR/DICOM_anon"}, "T2SPIR/Ground", "DICOM_anon"),
    "chaos_t1": Kind(
        "CHAOS, MR T1-DUAL",
        "MR",
        {"in phase": "T1DUAL/DICOM_anon/InPhase", "out of phase": "T1DUAL/DICOM_anon/OutPhase"},
        "T1DUAL/Ground",
        "DICOM_anon/InPhase",
    ),
    "chaos_ct": Kind("CHAOS, CT", "CT", {"CT": "DICOM_anon"}, "Ground", "DICOM_anon"),
}


def find(tree: Tree, kind: str) -> Found | None:
    """The scans of one kind: ``chaos``, ``chaos_t1`` or ``chaos_ct``."""
    wanted = KINDS[kind]
    cases = []
    for number, folders in _patients(tree, kind).items():
        name = f"chaos_ct_{number}" if kind == "chaos_ct" else f"chaos_{number}"
        folder = only_image(tree.root, name, folders)
        drawn = folder / wanted.labels
        label = Path(f"{drawn}#grid={wanted.grid}") if files_in(drawn) else None
        cases.append(Case(name, tuple(folder / part for part in wanted.series.values()), label, name))
    if not cases:
        return None
    others = [other for other in KINDS if other != kind and _patients(tree, other)]
    left_out = tuple(LeftOut(KINDS[other].title, f"other images: --layout {other}") for other in others)
    return Found(cases, tuple(wanted.series), dict(LABELS["chaos_ct" if kind == "chaos_ct" else "chaos"]), left_out)


def _patients(tree: Tree, kind: str) -> dict[str, list[Path]]:
    """Folders of patients by number."""
    series = next(iter(KINDS[kind].series.values()))
    up = series.count("/") + 1
    files = by_pattern(tree, rf"{KINDS[kind].modality}/(\d+)/{series}/[^/]+$")
    return {number: sorted({file.parents[up] for file in found}) for number, found in files.items()}
