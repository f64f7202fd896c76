"""Small scans and labels on disk, and the faults that are found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from lemis.checking import check
from lemis.checking.faults import Fault
from lemis.datasets.recognition import recognise

SHARED = Path(__file__).parents[1] / "../shared/data"
SHAPE = (6, 5, 4)
AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])
ERROR, WARNING = "error", "warning"


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)


def label(*values: float, dtype: Any = np.uint8, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, dtype)
    array.ravel()[: len(values)] = values
    return array


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def find(root: Path) -> list[Fault]:
    return list(check.examine(recognise(root).index, jobs=2).faults)


def only(root: Path) -> Fault:
    found = find(root)
    assert len(found) == 1, found
    assert found[0].seen
    assert found[0].repair
    return found[0]


def kinds(root: Path) -> list[tuple[str, str, str]]:
    return [(fault.severity, fault.file, fault.kind) for fault in find(root)]
