"""Methods x folds x labelled subjects on one data set: the table of ``docs/results.md``.

    python -m benchmarks.study SCANS WORK [--methods scratch pcl scratch:kaf_unet ...] [--folds 0 1] [--labelled 2 6]
    python -m benchmarks.study SCANS WORK --methods scratch:unet3d scratch:unet3d+voxel_siamese,layers=1 --millimetres

A method is named alone or with its network, and its network with an extra loss and settings of that. Pre-training sees
every scan's image, as the papers do (transductive), so each method is pre-trained once per seed. Every step leaves
files and is skipped when it is there, so several processes may share the work, each with its methods.
"""

from __future__ import annotations

import argparse
import csv
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
from lemis.measure.paired import difference
from lemis.measure.statistics import estimate
from lemis.settings import resolve

METHODS = ("scratch", "rotation", "simclr", "pcl", "sal")


class Row(NamedTuple):
    """A line of the table: a method on a network, with an extra loss or without."""

    method: str
    backbone: str
    auxiliary: str | None
    settings: tuple[str, ...]  # of the extra loss: ``layers=1``

    @classmethod
    def read(cls, text: str) -> Row:
        """``pcl``, ``pcl:kaf_unet`` or ``scratch:unet3d+voxel_siamese,layers=1``."""
        text, _, extra = text.partition("+")
        method, _, backbone = text.partition(":")
        auxiliary, *settings = extra.split(",")
        return cls(method, backbone or pairing.default_backbone(method), auxiliary or None, tuple(settings))

    @property
    def title(self) -> str:
        """The method, the network where it is not the method's default, and the extra loss."""
        usual = self.backbone == pairing.default_backbone(self.method)
        text = self.method if usual else f"{self.method} ({self.backbone})"
        return ", ".join([f"{text} + {self.auxiliary}" if self.auxiliary else text, *self.settings])


class Cell(NamedTuple):
    """One fine-tuned network and what it scored."""

    row: str
    fold: int
    labelled: int
    seed: int
    pooled_last: float
    pooled_best: float
    per_scan: float
    minutes_before: float | None  # of one core, in pre-training; None where it was not recorded
    minutes: float | None  # the same, in fine-tuning
    memory_gb: float | None  # the more of both; None where it was not recorded
    folder: Path  # of its evaluation


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
    parser.add_argument("--millimetres", action="store_true", help="the folds' scans together: Dice, HD95 and ASSD")
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
    print(table_in_millimetres(cells) if given.millimetres else table(cells))


def _prepared(scans: Path, work: Path, preset: str, rows: Sequence[Row]) -> None:
    """Prepare what is missing: scans by the preset, keypoints where a network looks at them. Images there are kept."""
    from lemis.verbs.check import check
    from lemis.verbs.prepare import prepare

    tree = plan.base(preset, None)
    images, asked = preparation(plan.for_network(tree, rows[0].backbone).get("prepare", {}))
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
    extra = {"auxiliary": row.auxiliary, "overrides": [f"auxiliary.{pair}" for pair in row.settings]}
    start = "-".join([pairing.with_auxiliary(start, row.auxiliary), *(pair.replace("=", "-") for pair in row.settings)])
    name = f"{start}-m{labelled}-fold{fold}"
    run = _train(finetune, work, pretrained=pretrained, fold=fold, labelled=labelled, name=name, **extra, **common)
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
        _core_minutes(before), _core_minutes(after), max(memory, default=None), folder / "evaluation",
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


def _core_minutes(status: dict[str, Any]) -> float | None:
    """What a run took of the machine, however busy that was; 0 where there was no run."""
    seconds = status.get("core_seconds", None if status else 0)
    return None if seconds is None else seconds / 60


def _held_out(work: Path, run: Path) -> list[str]:
    from lemis.data import index

    test = set(json.loads((run / "model.json").read_text(encoding="utf-8"))["test_subjects"])
    return [scan.id for scan in index.load(work / "index.json").scans if scan.subject in test]


def _per_scan(folder: Path) -> float:
    return statistics.mean(float(row["dice"]) for row in _per_case(folder / "evaluation") if row["dice"])


def _per_case(folder: Path) -> list[dict[str, str]]:
    with (folder / "per_case.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def table(cells: Iterable[Cell]) -> str:
    """Rows are methods, columns are folds and label budgets; best pooled (last pooled) / per scan."""
    cells = list(cells)
    columns = sorted({(cell.labelled, cell.fold) for cell in cells})
    costs = ["core-minutes of pre-training", "core-minutes a fine-tuning", "GB at most"]
    head = ["method", *(f"M = {labelled}, fold {fold}" for labelled, fold in columns), "mean", *costs]
    lines = [head, ["---"] * len(head)]
    for row in dict.fromkeys(cell.row for cell in cells):
        own = [cell for cell in cells if cell.row == row]
        texts = [_text([cell for cell in own if (cell.labelled, cell.fold) == column]) for column in columns]
        costs = _costs(own, ("minutes_before", "minutes", "memory_gb"))
        lines.append([row, *texts, _text(own), *costs])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_in_millimetres(cells: Iterable[Cell]) -> str:
    """A line for each row and label budget: means over the scans and structures of all folds, with intervals.

    The differences of Dice are paired by scan and structure, against the first method with as many labels.
    """
    cells = list(cells)
    head = ["method", "M", "Dice", "HD95, mm", "ASSD, mm", "Dice against the first", "missed"]
    head += ["core-minutes a training", "GB at most"]
    lines = [head, ["---"] * len(head)]
    for key in dict.fromkeys((cell.row, cell.labelled) for cell in cells):
        own = [cell for cell in cells if (cell.row, cell.labelled) == key]
        cases = [case for cell in own for case in _per_case(cell.folder)]
        figures = []
        for metric, digits in (("dice", 3), ("hd95_mm", 2), ("assd_mm", 2)):
            found = estimate([float(case[metric] or "nan") for case in cases], [case["subject"] for case in cases])
            figures.append(f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]")
        first = next(cell.row for cell in cells if cell.labelled == key[1])
        before = [
            case for cell in cells if (cell.row, cell.labelled) == (first, key[1]) for case in _per_case(cell.folder)
        ]
        figures.append(_difference(cases, before) if key[0] != first else "")
        missed = sum(case["status"] == "missed" for case in cases)
        lines.append([key[0], str(key[1]), *figures, str(missed), *_costs(own, ("minutes", "memory_gb"))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _difference(cases: list[dict[str, str]], before: list[dict[str, str]]) -> str:
    """Mean of our Dice minus that of another method, on the scans and structures that both have scored."""
    theirs = {(case["scan"], case["structure"]): float(case["dice"] or "nan") for case in before}
    both = [case for case in cases if (case["scan"], case["structure"]) in theirs]
    found = difference(
        [float(case["dice"] or "nan") for case in both],
        [theirs[case["scan"], case["structure"]] for case in both],
        [case["subject"] for case in both],
    )
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _costs(cells: list[Cell], names: Sequence[str]) -> list[str]:
    """Means of times, and the most memory; empty where nothing was recorded."""
    texts = []
    for name in names:
        values = [value for cell in cells if (value := getattr(cell, name)) is not None]
        figure = max(values, default=0) if name == "memory_gb" else statistics.mean(values or [0])
        texts.append(f"{figure:.1f}" if values else "")
    return texts


def _text(cells: list[Cell]) -> str:
    if not cells:
        return ""
    best, last, scan = (
        statistics.mean(getattr(cell, name) for cell in cells) for name in ("pooled_best", "pooled_last", "per_scan")
    )
    return f"{best:.3f} ({last:.3f}) / {scan:.3f}"


if __name__ == "__main__":
    main()
