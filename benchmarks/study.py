"""Methods x folds x labelled subjects on one data set: the table of ``docs/results.md``.

    python -m benchmarks.study SCANS WORK [--methods scratch pcl ...] [--folds 0 1] [--labelled 2 6] [--seeds 0]

Pre-training sees every scan's image, as the papers do (transductive), so each method is pre-trained once per seed.
Every step leaves files and is skipped when it is there, so several processes may share the work, each with its methods.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lemis.cli import keep_freed_memory
from lemis.data import preprocess
from lemis.settings import load_preset, resolve

METHODS = ("scratch", "rotation", "simclr", "pcl", "sal")


class Cell(NamedTuple):
    """One fine-tuned network and what it scored."""

    method: str
    fold: int
    labelled: int
    seed: int
    pooled_last: float
    pooled_best: float
    per_scan: float
    minutes: float


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--labelled", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="small")
    given = parser.parse_args()
    keep_freed_memory()
    _prepared(given.scans, given.work, given.preset)
    cells = [
        _cell(given.work, method, fold, labelled, seed, given.preset)
        for seed in given.seeds
        for method in given.methods
        for labelled in given.labelled
        for fold in given.folds
    ]
    print(table(cells))


def _prepared(scans: Path, work: Path, preset: str) -> None:
    from lemis.verbs.check import check
    from lemis.verbs.prepare import prepare

    if not (work / "prepared" / "meta.json").exists():
        check(scans, output=work)
        prepare(work, settings=resolve(preprocess.Settings, load_preset(preset).get("prepare", {})))


def _cell(work: Path, method: str, fold: int, labelled: int, seed: int, preset: str) -> Cell:
    from lemis.verbs.evaluate import evaluate
    from lemis.verbs.finetune import finetune
    from lemis.verbs.predict import predict
    from lemis.verbs.pretrain import pretrain

    common: dict[str, Any] = {"preset": preset, "seed": seed}
    pretrained = None if method == "scratch" else pretrain(work, method=method, name=f"{method}-seed{seed}", **common)
    name = f"{method}-seed{seed}-m{labelled}-fold{fold}"
    run = finetune(work, pretrained=pretrained, fold=fold, labelled=labelled, name=name, **common)
    folder = work / "study" / name
    if not (folder / "evaluation" / "summary.json").exists():
        predict(run, scans=_held_out(work, run), output=folder / "predictions")
        evaluate(folder / "predictions", work=work, output=folder / "evaluation")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    pooled = [line["held_out/pooled_dice"] for line in logged if "held_out/pooled_dice" in line]
    minutes = json.loads((run / "status.json").read_text(encoding="utf-8"))["seconds"] / 60
    return Cell(method, fold, labelled, seed, pooled[-1], max(pooled), _per_scan(folder), minutes)


def _held_out(work: Path, run: Path) -> list[str]:
    from lemis.data import index

    test = set(json.loads((run / "model.json").read_text(encoding="utf-8"))["test_subjects"])
    return [scan.id for scan in index.load(work / "index.json").scans if scan.subject in test]


def _per_scan(folder: Path) -> float:
    import csv

    with (folder / "evaluation" / "per_case.csv").open(newline="") as lines:
        return statistics.mean(float(row["dice"]) for row in csv.DictReader(lines) if row["dice"])


def table(cells: Iterable[Cell]) -> str:
    """Rows are methods, columns are folds and label budgets; best pooled (last pooled) / per scan."""
    cells = list(cells)
    columns = sorted({(cell.labelled, cell.fold) for cell in cells})
    head = ["method", *(f"M = {labelled}, fold {fold}" for labelled, fold in columns), "mean", "minutes a fine-tuning"]
    lines = [head, ["---"] * len(head)]
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        texts = [_text([cell for cell in own if (cell.labelled, cell.fold) == column]) for column in columns]
        lines.append([method, *texts, _text(own), f"{statistics.mean(cell.minutes for cell in own):.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(cells: list[Cell]) -> str:
    if not cells:
        return ""
    best, last, scan = (
        statistics.mean(getattr(cell, name) for cell in cells) for name in ("pooled_best", "pooled_last", "per_scan")
    )
    return f"{best:.3f} ({last:.3f}) / {scan:.3f}"


if __name__ == "__main__":
    main()
