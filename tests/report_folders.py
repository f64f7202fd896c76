"""Small work folders as their files are written, for tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lemis.datasets import index as indexing
from lemis.formats import volume
from work_files_made import ENVIRONMENT, model

SHAPE = (20, 18, 6)
SPACING_MM = (1.5, 1.5, 8.0)
# A name that would break a page that does not escape what it shows.
NASTY = r"wall <b>&\"' $\frac$"


def label_map(shift: int = 0, *, without: int | None = None) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3 + shift : 9 + shift, 5:12, 1:5] = 1
    labels[9 + shift : 13 + shift, 5:12, 1:5] = 3
    if without is not None:
        labels[labels == without] = 0
    return labels


def make_index(folder: Path, predicted: dict[str, NDArray[np.uint8]]) -> Path:
    data, work, affine = folder / "Heart data", folder / "work", np.diag([*SPACING_MM, 1.0])
    scans = []
    for number, (scan, labels) in enumerate(predicted.items()):
        image = np.random.default_rng(number).normal(100, 10, SHAPE).astype(np.float32) + 50 * (label_map() > 0)
        volume.write_volume(image, affine, data / f"{scan}_img.nii.gz")
        volume.write_volume(label_map(), affine, data / f"{scan}.nii.gz")
        volume.write_volume(labels, affine, work / "predictions" / f"{scan}.nii.gz")
        scans.append(
            indexing.Scan(
                id=scan,
                subject=scan,
                images=(f"{scan}_img.nii.gz",),
                label=f"{scan}.nii.gz",
                shape=SHAPE,
                spacing_mm=SPACING_MM,
                slice_axis=2,
                label_values=(0, 1, 3),
            )
        )
    labels = {"background": 0, "pool": 1, NASTY: 3}
    index = indexing.Index(root=str(data), layout="flat", channels=("MR",), labels=labels, scans=tuple(scans))
    indexing.save(index, work / "index.json")
    return work


def make_run(work: Path, name: str, verb: str, **more: Any) -> None:
    folder = work / "runs" / name
    folder.mkdir(parents=True)
    status = {"verb": verb, "method": "sal", "state": "done", "step": 100, "steps": 100, "seconds": 754.0}
    (folder / "status.json").write_text(json.dumps({**status, **more.pop("status", {})}))
    (folder / "settings.yaml").write_text(yaml.safe_dump({"schedule": {"learning_rate": 0.1}, "note": "<i>"}))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "model.json").write_text(json.dumps(model(verb, **more)))
    lines: list[dict[str, float]] = []
    for step in range(10, 101, 2):
        line = {
            "step": step,
            "epoch": step // 20,
            "loss": 3 / step,
            "loss/one": 2 / step,
            "loss/two": 1 / step,
        }
        lines.append({**line, "embedding/global/std": 0.1, "embedding/global/cosine": 0.2, "seconds": step})
    lines.append({"step": 100, "held_out/pooled_dice": 0.8, "held_out/pooled_dice/pool": 0.9})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 102, "lo')  # the machine stopped here
