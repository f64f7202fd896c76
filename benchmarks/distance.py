"""Which scans are flagged as far from the labelled ones in what the networks see, and by which other flag of a scan.

python -m benchmarks.distance Dataset101_ACDCdev -o WORK [--others FOLDER ...] [--draws 0 1]

Networks are those of benchmarks.trust, trained where they are not there yet; nothing is segmented.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.trust import ALTERED, Draw, arguments, linked, trained
from lemis.datasets import frame as frames
from lemis.datasets import index as index_file
from lemis.datasets.index import Index
from lemis.datasets.scan_facts import scan_folder
from lemis.measure import looks
from lemis.measure.tables import markdown
from lemis.prediction import ensemble
from lemis.prediction.new_scan import prepared
from lemis.prediction.settings import Settings
from lemis.preparation import exposure
from lemis.preparation.settings import Settings as Preparation
from lemis.quality.measuring import Measuring, described
from lemis.quality.table import Known
from lemis.settings import resolve
from lemis.work_files import quality

Array = NDArray[Any]
EACH = 12  # scans of each kind
TILE_PX = 16


def main() -> None:
    """Print a table."""
    given = arguments(__doc__).parse_args()
    data = scan_folder(given.scans)
    lines: list[dict[str, object]] = []
    for seed in given.draws:
        lines += judged(trained(data, given.output / f"draw{seed}", seed, given), given.others, seed)
    print(markdown(lines))


def judged(draw: Draw, others: Sequence[Path], seed: int) -> list[dict[str, object]]:
    """A line for each kind of scan."""
    networks = ensemble.load(draw.runs, lambda _: Settings(mirror=False), device="cpu")
    models, measuring = networks.models, Measuring(networks, ())
    axes = None if models[0].frame is None else models[0].frame.axes
    own = frames.follow(index_file.load(draw.work / "index.json"), axes)
    measuring.learn(own)
    told = {run.name: quality.find_of_run(run) for run in draw.runs}
    labelled = {id: one for run in told.values() for id, one in run.labelled.items()}
    known = Known([], labelled, own.channels, quality.LEVEL, {name: run.apart for name, run in told.items()})
    like = functools.reduce(exposure.wider, [model.like for model in models if model.like is not None])

    def line(kind: str, index: Index, ids: Sequence[str]) -> dict[str, object]:
        far, otherwise, apart = 0, 0, []
        for scan in (scan for scan in index.scans if scan.id in ids):
            image, facts, _ = prepared(scan, index, resolve(Preparation, models[0].prepared))
            empty = np.zeros(facts.canonical_shape, np.uint8)
            found = measuring.distances.of(image, facts, range(len(models)), set())
            like_labels = [one.looks() for one in labelled.values()]
            seen = described(image, facts, empty, models[0].label_names).looks()
            far += bool(known.unlike(found, None))
            otherwise += bool(
                looks.unlike(seen, like_labels, len({one.subject for one in labelled.values()}), own.channels)
                or exposure.strange(facts, like, own.channels)
            )
            apart.append(float(np.mean([*found.values()])))
        return {
            "draw": seed, "scans": kind, "number": len(apart), "far in what networks see": far,
            "flagged as a whole otherwise": otherwise, "distance": f"{min(apart):.2f} to {max(apart):.2f}",
        }  # fmt: skip

    lines = [line("as they are", own, draw.tested)]
    for name, folder in _folders(draw, others).items():
        index = frames.follow(scan_folder(folder), axes)
        lines.append(line(name, index, [scan.id for scan in index.scans]))
    return lines


def _folders(draw: Draw, others: Sequence[Path]) -> dict[str, Path]:
    """Scans of each kind, written where they are not there yet."""
    ways = {**ALTERED, **OF_THEIR_GRID, **{f"{other.name} in disguise": _disguised(other) for other in others}}
    folders = {name: draw.work / "far" / name for name in [*ways, *(other.name for other in others)]}
    for name, alter in ways.items():
        folders[name].mkdir(parents=True, exist_ok=True)
        for scan in draw.tested[:EACH]:
            image = nibabel.load(draw.image(scan))  # type: ignore[attr-defined]
            altered = np.ascontiguousarray(alter(np.asarray(image.dataobj))).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(altered, image.affine), folders[name] / f"{scan}.nii.gz")  # type: ignore[attr-defined]
    for other in others:
        folders[other.name].mkdir(parents=True, exist_ok=True)
        for file in sorted((other / "imagesTr").glob("*_0000.nii.gz"))[:EACH]:
            linked(file, folders[other.name])
    return folders


def _shuffled(image: Array) -> Array:
    """Square tiles of each slice in another order, the same in all slices."""
    rows, cols = (side // TILE_PX for side in image.shape[:2])
    whole = image[: rows * TILE_PX, : cols * TILE_PX]
    tiles = whole.reshape(rows, TILE_PX, cols, TILE_PX, -1).swapaxes(1, 2).reshape(rows * cols, TILE_PX, TILE_PX, -1)
    tiles = tiles[np.random.default_rng(0).permutation(len(tiles))]
    out = image.copy()
    out[: rows * TILE_PX, : cols * TILE_PX] = (
        tiles.reshape(rows, cols, TILE_PX, TILE_PX, -1).swapaxes(1, 2).reshape(whole.shape)
    )
    return out


def _noisy(image: Array) -> Array:
    return image + np.random.default_rng(0).normal(0, 0.5 * image.std(), image.shape)


def _ghosts(image: Array) -> Array:
    shift = image.shape[1] // 4
    return image + 0.6 * np.roll(image, shift, 1) + 0.6 * np.roll(image, -shift, 1)


OF_THEIR_GRID: Mapping[str, Callable[[Array], Array]] = {
    "turned by 90 degrees": lambda image: np.rot90(image, axes=(0, 1)),
    "turned by 180 degrees": lambda image: np.rot90(image, 2, axes=(0, 1)),
    "tiles shuffled": _shuffled,
    "noisy": _noisy,
    "blurred": lambda image: ndimage.gaussian_filter(image.astype(np.float64), (3, 3, 0)),
    "ghosts": _ghosts,
}


def _disguised(other: Path) -> Callable[[Array], Array]:
    """Scans of another data set, one after another, on the grid and with the intensities of the given ones."""
    files = itertools.cycle(sorted((other / "imagesTr").glob("*_0000.nii.gz")))

    def disguised(image: Array) -> Array:
        content = np.asarray(nibabel.load(next(files)).dataobj).astype(np.float64)  # type: ignore[attr-defined]
        sides = [side / own for side, own in zip(image.shape, content.shape, strict=True)]
        content = ndimage.zoom(content, sides, order=1)
        out = np.empty(image.size)
        out[np.argsort(content.ravel(), kind="stable")] = np.sort(image.ravel())
        return out.reshape(image.shape)

    return disguised


if __name__ == "__main__":
    main()
