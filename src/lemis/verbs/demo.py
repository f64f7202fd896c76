"""``lemis demo``: made-up scans, every step, a report to open."""

from __future__ import annotations

from pathlib import Path

from lemis import phantom
from lemis.runs.run import messages
from lemis.verbs.fit import fit

SUBJECTS = 16  # made-up hearts
LABELLED = 6  # of them


def demo(*, output: Path = Path("demo"), device: str = "auto", seed: int = 0) -> Path:
    """Write made-up hearts to ``output/scans`` and run ``fit`` on them.

    Args:
        output: Folder to write.
        device: Where to compute: ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU when there is one.
        seed: Of the anatomy and of the training: same seed, same result.

    Returns:
        The report.
    """
    scans, work = output / "scans", output / "work"
    if not (scans / "dataset.json").exists():
        phantom.write_dataset(scans, kind="heart", subjects=SUBJECTS, labelled=LABELLED, seed=seed)
    messages().print(
        f"{SUBJECTS} made-up heart scans, {LABELLED} of them labelled, are in {scans}. What follows is\n"
        f"  lemis fit {scans} -o {work} --preset demo --seed {seed}"
    )
    return fit(scans, output=work, method="sal", preset="demo", seed=seed, device=device)
