"""A data set of made-up scans on disk, for the demo and for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lemis.errors import UsageError
from lemis.formats.volume import write_volume
from lemis.phantom.placement import Stored
from lemis.phantom.scans import CHANNELS, LABELS, Kind, make


def write_dataset(
    folder: Path | str,
    kind: Kind = "heart",
    *,
    subjects: int = 10,
    labelled: int | None = None,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
    phases: int = 1,
    stored: Sequence[Stored] = ("LPS",),
) -> Path:
    """A folder of made-up scans in nnU-Net's raw layout.

    Args:
        folder: Where to; made when it is not there.
        kind: ``"heart"`` or ``"abdomen"``.
        subjects: How many.
        labelled: How many of them, from the first, get label maps; all by default.
        seed: Another seed, other subjects.
        shape: (X, Y, Z) of every scan; see ``make``.
        phases: Scans per subject, hearts only. Two are called ED and ES.
        stored: Directions of the stored axes, of one subject after another.

    Returns:
        ``folder``.

    Raises:
        UsageError: Fewer than one subject or phase, more labelled than there are, or what ``make`` refuses.
    """
    folder, labelled = Path(folder), subjects if labelled is None else labelled
    if subjects < 1 or phases < 1 or not 0 <= labelled <= subjects:
        raise UsageError(
            f"subjects={subjects}, labelled={labelled}, phases={phases}",
            allowed="at least one subject and one phase, and no more labelled subjects than there are",
            next="subjects=10, labelled=2, phases=1",
        )
    names = {1: [""], 2: ["_ED", "_ES"]}.get(phases, [f"_frame{phase + 1:02d}" for phase in range(phases)])
    for number in range(1, subjects + 1):
        for phase, name in enumerate(names):
            axes = stored[(number - 1) % len(stored)]
            scan = make(kind, subject=number, seed=seed, shape=shape, phase=phase, phases=phases, stored=axes)
            id = f"{kind}_{number:03d}{name}"
            write_volume(scan.image, scan.affine, folder / "imagesTr" / f"{id}_0000.nii.gz")
            if number <= labelled:
                write_volume(scan.label, scan.affine, folder / "labelsTr" / f"{id}.nii.gz")
    facts = {
        "name": f"made-up {kind}",
        "description": "Drawn by lemis.phantom; nobody was scanned.",
        "channel_names": {"0": CHANNELS[kind]},
        "labels": LABELS[kind],
        "numTraining": labelled * phases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder
