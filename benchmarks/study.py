"""Methods x folds x labelled subjects on one data set: the table of ``docs/results.md``.

    python -m benchmarks.study SCANS WORK [--methods scratch pcl scratch:kaf_unet ...] [--folds 0 1] [--labelled 2 6]

A method is named alone or with its network. Pre-training sees every scan's image, as the papers do (transductive), so
each method is pre-trained once per seed. Every step leaves files and is skipped when it is there, so several processes
may share the work, each with its methods.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lemis.cli import keep_freed_memory
from lemis.data import preprocess
from lemis.data.keypoints import preparation
from lemis.data.store import open_store
from lemis.engine import pairing, plan
from lemis.settings import resolve

METHODS = ("scratch", "rotation", "simclr", "pcl", "sal")


class Row(NamedTuple):
    """A line of the table: a method on a network."""

    method: str
    backbone: str

    @classmethod
    def read(cls, text: str) -> Row:
        """``pcl`` or ``pcl:kaf_unet``."""
        method, _, backbone = text.partition(":")
        return cls(method, backbone or pairing.default_backbone(method))

    @property
    def title(self) -> str:
        """The method, and the network where it is not the method's default."""
        usual = self.backbone == pairing.default_backbone(self.method)
        return self.method if usual else f"{self.method} ({self.backbone})"


class Cell(NamedTuple):
    """One fine-tuned network and what it scored."""

    row: str
    fold: int
    labelled: int
    seed: int
    pooled_last: float
    pooled_best: float
    per_scan: float
    minutes_before: float  # of pre-training
    minutes: float  # of fine-tuning
    memory_gb: float | None  # the more of both; None where it was not recorded


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
    rows = [Row.read(text) for text in given.methods]
    _prepared(given.scans, given.work, given.preset, rows)
    cells = [
        _cell(given.work, row, fold, labelled, seed, given.preset)
        for seed in given.seeds
        for row in rows
        for labelled in given.labelled
        for fold in given.folds
    ]
    print(table(cells))


def _prepared(scans: Path, work: Path, preset: str, rows: Sequence[Row]) -> None:
    """Prepare what is missing: scans by the preset, keypoints where a network looks at them. Images there are kept."""
    from lemis.verbs.check import check
    from lemis.verbs.prepare import prepare

    tree = plan.base(preset, None)
    images, asked = preparation(tree.get("prepare", {}))
    folder = work / "prepared"
    if (folder / "meta.json").exists():
        images, asked = resolve(preprocess.Settings, open_store(folder).settings), None
    else:
        check(scans, output=work)
        prepare(work, settings=images, keypoints=asked)
    for backbone in dict.fromkeys(row.backbone for row in rows):
        wanted = pairing.keypoints_of(backbone, plan.finetuning(backbone, tree, ()).backbone_settings)
        missing = pairing.keypoints_to_find(folder, None, wanted)
        if missing is not None:
            prepare(work, settings=images, keypoints=missing)


def _cell(work: Path, row: Row, fold: int, labelled: int, seed: int, preset: str) -> Cell:
    from lemis.verbs.evaluate import evaluate
    from lemis.verbs.finetune import finetune
    from lemis.verbs.predict import predict
    from lemis.verbs.pretrain import pretrain

    common: dict[str, Any] = {"backbone": row.backbone, "preset": preset, "seed": seed}
    start = f"{pairing.run_name(row.method, row.backbone)}-seed{seed}"
    pretrained = None
    if row.method != pairing.SCRATCH:
        pretrained = _train(pretrain, work, method=row.method, name=start, **common)
    name = f"{start}-m{labelled}-fold{fold}"
    run = _train(finetune, work, pretrained=pretrained, fold=fold, labelled=labelled, name=name, **common)
    folder = work / "study" / name
    if not (folder / "evaluation" / "summary.json").exists():
        predict(run, scans=_held_out(work, run), output=folder / "predictions")
        evaluate(folder / "predictions", work=work, output=folder / "evaluation")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    pooled = [line["held_out/pooled_dice"] for line in logged if "held_out/pooled_dice" in line]
    before, after = _status(pretrained) if pretrained else {}, _status(run)
    memory = [status["peak_memory_gb"] for status in (before, after) if status.get("peak_memory_gb")]
    return Cell(
        row.title, fold, labelled, seed, pooled[-1], max(pooled), _per_scan(folder),
        before.get("seconds", 0) / 60, after["seconds"] / 60, max(memory, default=None),
    )  # fmt: skip


def _train(verb: Callable[..., Path], work: Path, *, name: str, **given: Any) -> Path:
    """In a process of its own, so that the peak of its memory is its own; a finished run is only looked at."""
    if _status(work / "runs" / name).get("state") == "done":
        return verb(work, name=name, **given)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=keep_freed_memory) as pool:
        return pool.submit(verb, work, name=name, **given).result()


def _status(run: Path) -> dict[str, Any]:
    path = run / "status.json"
    status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return status


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
    costs = ["minutes of pre-training", "minutes a fine-tuning", "GB at most"]
    head = ["method", *(f"M = {labelled}, fold {fold}" for labelled, fold in columns), "mean", *costs]
    lines = [head, ["---"] * len(head)]
    for row in dict.fromkeys(cell.row for cell in cells):
        own = [cell for cell in cells if cell.row == row]
        texts = [_text([cell for cell in own if (cell.labelled, cell.fold) == column]) for column in columns]
        minutes = [statistics.mean(getattr(cell, name) for cell in own) for name in ("minutes_before", "minutes")]
        memory = [cell.memory_gb for cell in own if cell.memory_gb is not None]
        costs = [*(f"{value:.1f}" for value in minutes), f"{max(memory):.1f}" if memory else ""]
        lines.append([row, *texts, _text(own), *costs])
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
