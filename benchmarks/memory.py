"""(m) Memory: what ``lemis predict --dry-run`` says of a large scan, and what the same command then takes.

Both are processes of their own. What is taken is the most that the process held, as the kernel counts it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

from lemis import phantom

TITLE = "(m) peak memory of predict: said by --dry-run, and taken"
SHAPE, SPACING_MM = (448, 448, 160), (0.8, 0.8, 1.6)
FEW = ("--preset", "tiny", "--fold", "0", "steps=1")
NETWORKS = {"unet2d": (), "unet3d": ("prepare.spacing_mm=2", "prepare.slice_spacing_mm=3")}


def rows() -> list[dict[str, object]]:
    """One row a network and a way to store the scan: whole numbers, and whole numbers with a slope."""
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        phantom.write_dataset(folder / "scans", kind="heart", subjects=4, labelled=4, shape=(48, 48, 8))
        scans = {"int16": _large(folder / "large", None), "int16 with a slope": _large(folder / "sloped", 0.37)}
        for network, preparing in NETWORKS.items():
            work = folder / network
            _lemis("check", folder / "scans", "-o", work)
            _lemis("prepare", work, *(word.removeprefix("prepare.") for word in preparing))
            _lemis("finetune", work, "--backbone", network, "--name", "run", *FEW)
            for stored, scan in scans.items():
                command = ("predict", work / "runs" / "run", "-i", scan, "-o", folder / f"{network}-{scan.stem}")
                said = max(float(gb) for gb in re.findall(r"about ([\d.]+) GB", _lemis(*command, "--dry-run")[0]))
                taken = _lemis(*command)[1]
                found.append(
                    {
                        "network": network, "scan": f"{' x '.join(map(str, SHAPE))}, {stored}",
                        "said, GB": f"{said:.1f}", "taken, GB": f"{taken:.2f}", "taken / said": f"{taken / said:.2f}",
                    }
                )  # fmt: skip
    return found


def _large(file: Path, slope: float | None) -> Path:
    values = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([*SPACING_MM, 1.0]))
    image.header.set_slope_inter(slope, 0 if slope else None)
    path = file.with_suffix(".nii")
    nibabel.save(image, path)
    return path


def _lemis(*words: object) -> tuple[str, float]:
    """What a command says, and the most memory that it held, in 10^9 bytes."""
    environment = {**os.environ, "COLUMNS": "500"}
    with subprocess.Popen(
        [sys.executable, "-m", "lemis", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return said, used.ru_maxrss * 1024 / 1e9
