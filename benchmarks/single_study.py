"""Methods for one image without labels, on folders of images with references: the tables of ``docs/results.md``.

    python -m benchmarks.single_study OUT DATASET... [--methods s3net s3net,weight_affine=0 s3net@released kmeans ...]
                                      [--size 96] [--seeds 0 1 2] [--first 20]

A data set is a folder in nnU-Net's layout (``imagesTr``, ``labelsTr``). A method is named with a preset after ``@`` and
with settings after commas. Each image, method and seed is a line of ``OUT/results.jsonl`` and its labels a file beside
it; what is there is not made again, so several processes may share the work, each with its methods. Then the tables of
all that ``OUT`` holds are printed: plain means over images, then over seeds, with the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from lemis import plugins
from lemis.data import single_image
from lemis.measure import clusters
from lemis.measure.tables import markdown
from lemis.parts.starts import explained
from lemis.settings import parse_overrides, plain, resolve

METHODS = ("kmeans", "deepcluster", "iic", "sgscn", "msformer", "s3net")
SCORES = ("dice", "hammoude", "xor")


class Named(NamedTuple):
    """A method with its settings, and how it was typed."""

    text: str
    module: Any
    settings: Any

    @classmethod
    def read(cls, text: str) -> Named:
        """``s3net``, ``s3net@released`` or ``s3net,weight_affine=0,spatial=tv``."""
        name, *changed = text.split(",")
        name, _, preset = name.partition("@")
        module = plugins.load("single", name)
        layer = plain(module.PRESETS[preset]) if preset else {}
        return cls(text, module, resolve(module.Settings, layer, parse_overrides(changed)))


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--size", type=int, default=96, help="side of the square that the methods work at")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--first", type=int, help="so many images of each data set, by name")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for method in [Named.read(text) for text in given.methods]:
        for folder in given.data:
            for image in sorted((folder / "imagesTr").iterdir())[: given.first]:
                _segment(given.out, folder, image, method, given.size, given.seeds)
    print(tables(given.out, {folder.name: folder for folder in given.data}))


def _segment(out: Path, folder: Path, image: Path, method: Named, size: int, seeds: Sequence[int]) -> None:
    stem = image.name.split(".")[0].removesuffix("_0000")
    there = {(row["image"], row["method"], row["seed"], row["size"]) for row in _read(out)}
    missing = [seed for seed in seeds if (stem, method.text, seed, size) not in there]
    if not missing:
        return
    stack = single_image.read(image)
    reference = single_image.read_labels(next((folder / "labelsTr").glob(f"{stem}.*")), stack)[1] != 0
    pixels = torch.from_numpy(single_image.resized(stack.planes[0], size))[None]
    for seed in missing:
        wall, core = time.perf_counter(), time.process_time()
        found = method.module.segment(pixels, method.settings, [seed])
        core, wall = time.process_time() - core, time.perf_counter() - wall
        labels = found.labels[0].numpy()
        row = {
            "data": folder.name, "image": stem, "method": method.text, "seed": seed, "size": size,
            "iterations": found.iterations[0], "restarts": found.restarts[0], "labels": len(np.unique(labels)),
            "seconds": wall, "core_seconds": core, **_scores(labels, stack, reference),
        }  # fmt: skip
        np.savez_compressed(_labels_file(out, row), labels=labels.astype(np.uint8))
        with (out / "results.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")


def _scores(labels: Any, stack: single_image.Stack, reference: Any) -> dict[str, Any]:
    """By both protocols, and of the cluster that is proposed without the reference.

    As ``lemis segment-one`` scores: the honest protocol on the image's own grid, the released one at the method's size.
    """
    parts, names = clusters.separated(labels)
    large_parts = single_image.nearest(parts, stack.shape)
    large = np.array([0, *names])[large_parts]
    found: dict[str, Any] = {}
    for protocol in get_args(clusters.Protocol):
        honest = protocol == "honest"
        marked = reference if honest else single_image.nearest(reference, labels.shape)
        best = clusters.best(large if honest else labels, marked, protocol)
        found |= {f"{protocol}_{key}": value for key, value in best.overlap._asdict().items()} if best else {}
    proposal = clusters.propose(single_image.resized(stack.planes[0], labels.shape[0]), parts)
    mine = clusters.overlap(large_parts == proposal.label, reference)
    return {**found, **({f"proposed_{key}": value for key, value in mine._asdict().items()} if mine else {})}


def _read(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _labels_file(out: Path, row: Mapping[str, Any]) -> Path:
    return out / f"{row['image']}-{row['method']}-{row['size']}-{row['seed']}.npz"


class _Unseen(NamedTuple):
    """What can be said of labels without a reference; means over images."""

    explained: float  # share of the image's variance that lies between clusters
    agreement: float  # of two seeds, adjusted Rand index; NaN with one seed
    dice: float  # honest, of the seed that explains most of its image, in per cent


@cache
def _pixels(folder: Path, image: str, size: int) -> torch.Tensor:
    plane = single_image.read(next((folder / "imagesTr").glob(f"{image}*"))).planes[0]
    return torch.from_numpy(single_image.resized(plane, size))


def _without_reference(out: Path, rows: Sequence[dict[str, Any]], folder: Path) -> _Unseen:
    shares, agreements, chosen = [], [], []
    for image in dict.fromkeys(row["image"] for row in rows):
        own = [row for row in rows if row["image"] == image]
        pixels = _pixels(folder, image, own[0]["size"])
        found = [torch.from_numpy(np.load(_labels_file(out, row))["labels"]).long() for row in own]
        each = [explained(pixels, labels) for labels in found]
        shares += each
        agreements += [adjusted_rand_score(a.flatten(), b.flatten()) for a, b in combinations(found, 2)]
        chosen.append(100 * own[each.index(max(each))]["honest_dice"])
    agreement = statistics.mean(agreements) if agreements else float("nan")
    return _Unseen(statistics.mean(shares), agreement, statistics.mean(chosen))


def tables(out: Path, folders: Mapping[str, Path]) -> str:
    """A Markdown table for each of these data sets and each size."""
    rows = [row for row in _read(out) if row["data"] in folders]
    texts = []
    for data, size in dict.fromkeys((row["data"], row["size"]) for row in rows):
        own = [row for row in rows if (row["data"], row["size"]) == (data, size)]
        images = len({row["image"] for row in own})
        lines = [
            _line(out, method, [row for row in own if row["method"] == method], folders[data])
            for method in dict.fromkeys(row["method"] for row in own)
        ]
        texts.append(f"{data}, {images} images at {size} x {size} px\n\n{markdown(lines)}")
    return "\n".join(texts)


def _line(out: Path, method: str, rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, object]:
    seeds = sorted({row["seed"] for row in rows})
    line: dict[str, object] = {"method": method, "runs": len(rows)}
    for protocol in (*get_args(clusters.Protocol), "proposed"):
        texts = []
        for score in SCORES:
            means = [
                100 * statistics.mean(row[f"{protocol}_{score}"] for row in rows if row["seed"] == seed)
                for seed in seeds
            ]
            spread = f" ({statistics.pstdev(means):.1f})" if score == "dice" and len(means) > 1 else ""
            texts.append(f"{statistics.mean(means):.1f}{spread}")
        line[f"{protocol} DSC / HM / XOR"] = " / ".join(texts)
    unseen = _without_reference(out, rows, folder)
    line |= {"of the seed that explains most": f"{unseen.dice:.1f}", "variance explained": unseen.explained}
    line["seeds agree"] = unseen.agreement
    line["labels left"] = f"{statistics.mean(row['labels'] for row in rows):.1f}"
    line["iterations"] = f"{statistics.mean(row['iterations'] for row in rows):.0f}"
    line["restarted"] = sum(row["restarts"] > 0 for row in rows)
    line["core-seconds an image"] = f"{statistics.mean(row['core_seconds'] for row in rows):.1f}"
    return line


if __name__ == "__main__":
    main()
