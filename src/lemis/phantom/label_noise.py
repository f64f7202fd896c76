"""Label maps made worse on purpose: a copy of a data set whose training labels have faults of a known kind.

    missing   the structure is not drawn in a slice
    swap      it is drawn as another structure of the slice
    erode     its outline is drawn ``distance_mm`` too far inside
    dilate    too far outside, onto background
    warp      now inside, now outside: outlines are shifted smoothly, by about ``distance_mm``

Each structure of each slice is hit with probability ``share``, on its own (``warp``: each slice, with all that is in
it). What is drawn depends on the seed and the name of the scan alone, so that the same call gives the same labels.

The MACL article (Table X) has labels that are wrong at the boundary, flipped and missing, and does not print how they
are made: this is ours. Its imbalance of classes is not here, as what was changed is not known.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.layouts.recognised import slice_axis
from lemis.datasets.recognition import recognise
from lemis.datasets.split import choose
from lemis.errors import UsageError, first_of
from lemis.formats import labels, volume

Kind = Literal["missing", "swap", "erode", "dilate", "warp"]
Labels = NDArray[np.integer]

_SMOOTH = 4.0  # standard deviation of the smoothing of ``warp``, in distances


def write(
    folder: Path | str,
    output: Path | str,
    *,
    kind: Kind,
    share: float,
    distance_mm: float = 3.0,
    clean: Collection[str] = (),
    fold: int | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Path:
    """Copy a data set, with faults in its label maps. Images are copied as they are, whatever the layout.

    Args:
        folder: The data set; it stays as it is.
        output: A new folder.
        kind: Of fault, see above.
        share: Of the structures in slices that have it, 0 to 1.
        distance_mm: How far outlines are off, of ``erode``, ``dilate`` and ``warp``; by less than a pixel the first two
            do nothing.
        clean: Subjects whose labels stay right: those that are tested on. Scores against wrong labels say nothing.
        fold: Those that this fold tests keep theirs too; by default none.
        split: Whose folds, as of ``lemis finetune``.
        seed: Another seed, other faults.

    Returns:
        ``output``.

    Raises:
        UsageError: A kind that is none, a share beyond 0 to 1, a distance that is not above 0, an ``output`` that is
            there or lies in ``folder``, subjects or a fold that the data set does not have, or labels outside of its
            folder.
    """
    folder, output = Path(folder), Path(output)
    _refuse(kind, share, distance_mm)
    found = recognise(folder).index
    labelled = [scan for scan in found.scans if scan.label is not None]
    _refuse_subjects(clean, {scan.subject for scan in labelled})
    _refuse_places(Path(found.root), output, labelled)
    right = set(clean)
    if fold is not None:
        right |= set(choose(labelled, fold=fold, root=Path(found.root), scheme=split).test_subjects)
    shutil.copytree(found.root, output)
    for scan in labelled:
        if scan.subject not in right:
            _disturb_file(found, scan, output, kind, share, distance_mm, seed)
    return output


def disturb(
    label: Labels,
    spacing_mm: tuple[float, float],
    kind: Kind,
    share: float,
    distance_mm: float,
    rng: np.random.Generator,
) -> Labels:
    """One slice (rows, columns) with faults, background 0; the values that occur stay among those that there were."""
    there = [value for value in np.unique(label) if value != 0]
    if kind == "warp":
        return _warped(label, spacing_mm, distance_mm, rng) if there and rng.random() < share else label
    found = label.copy()
    for value in there:
        if rng.random() >= share:
            continue
        mask = label == value
        if kind == "missing":
            found[mask] = 0
        elif kind == "swap":
            others = [other for other in there if other != value]
            if others:
                found[mask] = rng.choice(others)
        elif kind == "erode":
            found[mask & (_far_mm(~mask, spacing_mm) <= distance_mm)] = 0
        else:
            found[(label == 0) & (_far_mm(mask, spacing_mm) <= distance_mm)] = value
    return found


def _far_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Of each pixel from the nearest one of the mask; the border of the image is no outline."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, np.inf)
    far: NDArray[np.float64] = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return far


def _warped(label: Labels, spacing_mm: tuple[float, float], distance_mm: float, rng: np.random.Generator) -> Labels:
    """Every pixel has the label of one that lies about ``distance_mm`` away, near ones in the same direction."""
    from scipy import ndimage

    places = np.indices(label.shape).astype(float)
    sigma_px = [_SMOOTH * distance_mm / spacing for spacing in spacing_mm]
    for axis, spacing in enumerate(spacing_mm):
        field = ndimage.gaussian_filter(rng.normal(size=label.shape), sigma_px)
        places[axis] += field / max(float(field.std()), 1e-12) * distance_mm / spacing
    moved: Labels = ndimage.map_coordinates(label, places, order=0, mode="nearest")
    return moved


def _disturb_file(
    index: Index, scan: Scan, output: Path, kind: Kind, share: float, distance_mm: float, seed: int
) -> None:
    assert scan.label is not None
    right = labels.read(index_file.locate(index, scan.label))
    spacing_mm = right.source.spacing_mm
    axis = slice_axis(index.layout, spacing_mm)
    in_plane = [spacing for other, spacing in enumerate(spacing_mm) if other != axis]
    digest = hashlib.sha256(f"{seed} {kind} {scan.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    slices = np.moveaxis(right.array, axis, 0)
    wrong = [disturb(one, (in_plane[0], in_plane[1]), kind, share, distance_mm, rng) for one in slices]
    array = np.moveaxis(np.stack(wrong), 0, axis).astype(right.array.dtype)
    volume.write_labels(array, right.source, output / scan.label)


def _refuse(kind: str, share: float, distance_mm: float) -> None:
    kinds = get_args(Kind)
    if kind not in kinds:
        raise UsageError(f"kind={kind!r}", allowed=", ".join(kinds), next=f"kind={kinds[0]!r}")
    if not 0 <= share <= 1:
        raise UsageError(f"share={share}", allowed="0 to 1", next="share=0.2")
    if not distance_mm > 0:
        raise UsageError(f"distance_mm={distance_mm}", allowed="a distance above 0", next="distance_mm=3")


def _refuse_subjects(clean: Collection[str], known: Collection[str]) -> None:
    unknown = sorted(set(clean) - set(known))
    if unknown:
        raise UsageError(
            f"clean: {', '.join(unknown)}",
            allowed=f"its labelled subjects: {first_of(sorted(known), 8)}",
            next="lemis check FOLDER -o work/",
        )


def _refuse_places(root: Path, output: Path, labelled: list[Scan]) -> None:
    if output.exists():
        raise UsageError(f"{output} is there", allowed="a new folder", next=f"another folder, or remove {output}")
    if not root.is_dir() or output.resolve().is_relative_to(root):
        raise UsageError(
            f"{output} for the data set {root}", allowed="a folder of scans, and one beside it", next=f"{root}-noisy"
        )
    outside = [scan.label for scan in labelled if scan.label and Path(scan.label).is_absolute()]
    if outside:
        raise UsageError(
            f"{outside[0]} lies outside {root}",
            allowed="label maps in the folder of the data set",
            next="bring them together in one folder first",
        )
