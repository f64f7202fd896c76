"""``embedded.npz`` of a run: the labelled scans as its network sees them, which new ones are near to or far from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lemis import files
from lemis.formats import npz
from lemis.measure.distance import Seen

FILE = "embedded.npz"
_VERSION = 1


def find(run: Path, weights: str) -> Seen | None:
    """The labelled scans of a run; None where nothing is known, or the run was trained anew since.

    Raises:
        UsageError: The file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return None
    try:
        content = npz.read(path, ("version", "weights", "scans", "subjects", "vectors"))
        version, of = int(content["version"]), str(content["weights"])
        scans, subjects = ([str(one) for one in content[name]] for name in ("scans", "subjects"))
        vectors = content["vectors"].astype(np.float64)
        if vectors.ndim != 2 or not len(scans) == len(subjects) == len(vectors) or not np.isfinite(vectors).all():
            raise ValueError("its parts do not fit together")
    except (npz.Damaged, ValueError, TypeError) as error:
        again = f"delete {path}, and predict again: the labelled scans are looked at anew"
        raise npz.damaged(path, error, again) from None
    return Seen(scans, subjects, vectors) if version == _VERSION and of == weights else None


def save(run: Path, weights: str, seen: Seen) -> None:
    """Replace the file."""
    with files.replacing(run / FILE) as temporary, temporary.open("wb") as out:
        np.savez_compressed(
            out, version=_VERSION, weights=weights, scans=np.array(seen.scans), subjects=np.array(seen.subjects),
            vectors=seen.vectors.astype(np.float32),
        )  # fmt: skip
