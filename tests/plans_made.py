"""Plans of comparisons, run."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lemis.verbs.compare import compare


def compared(plan: Mapping[str, Any], scans: Path, work: Path, file: Path) -> tuple[Path, list[dict[str, str]]]:
    """Write a plan to a file and run it; its folder, and the lines of its ``results.csv``."""
    file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    done = compare(scans, output=work, plan=file, device="cpu")
    assert not done.failed
    with (done.folder / "results.csv").open(encoding="utf-8") as content:
        return done.folder, list(csv.DictReader(content))
