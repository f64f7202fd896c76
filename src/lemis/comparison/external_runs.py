"""A cell that another program trains, run: its scans written, the program started, its label maps taken over.

```
cells/KEY/nnunet/    request.json  steps.json  answer.json   see nnunet_train.py
    nnUNet_raw/  nnUNet_preprocessed/  nnUNet_results/       its own folders; the last one stays, with the weights
    predicted/                                               label maps, numbered as it numbers them
```
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lemis import files, records
from lemis.comparison import external_rows
from lemis.comparison.cells import Cell
from lemis.comparison.external_rows import SCRIPT
from lemis.comparison.tasks import sigterm_interrupts
from lemis.datasets import index as index_file
from lemis.datasets.index import Index, Scan
from lemis.datasets.scans import read_image, read_label
from lemis.errors import LemisError
from lemis.formats import labels, volume
from lemis.formats.paths import label_suffix
from lemis.preparation.classes import to_classes, values_of
from lemis.preparation.store import Store, open_store
from lemis.runs.device import chosen_device
from lemis.work_files import predictions
from lemis.work_files.comparison import CellCase, External, Result, read_result
from lemis.work_files.predictions import Prediction, Predictions

RAW = Path("nnUNet_raw") / "Dataset001_Cell"
_FAREWELL_S = 30.0  # that a program has to end, before it is ended


class Answer(External):
    """``answer.json``."""

    seconds: float
    core_seconds: float
    peak_memory_gb: float | None


def run(work: Path, folder: Path, cell: Cell, device: str) -> Answer:
    """Train, and write the label maps of the test scans into ``cells/KEY/predictions``.

    What an earlier try left is thrown away, but for the number of steps, once that was decided.

    Args:
        work: The work folder, checked and prepared.
        folder: Of the comparison.
        cell: Of kind ``external``.
        device: As the user gave it.

    Raises:
        UsageError: The environment is not there.
        LemisError: The program failed; what it said is in the cell's log.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the program is ended first.
    """
    own = folder / "cells" / cell.key
    python = external_rows.interpreter(cell.call["python"], cell.title)
    index, store = index_file.load(work / "index.json"), open_store(work / "prepared")
    inside, steps = own / "nnunet", cell.call["steps"]
    if (inside / "steps.json").is_file():
        steps = records.read(inside / "steps.json", int, next=f"delete {inside} and run the same command again")
    shutil.rmtree(inside, ignore_errors=True)
    _write_scans(inside / RAW, index, store, cell)
    request = {
        "folder": str(inside.absolute()), "threads": torch.get_num_threads(), "device": chosen_device(device),
        "seed": cell.call["seed"], "plan": cell.call["plan"], "steps": steps,
        "core_seconds": None if steps else cell.call["times"] * _core_seconds(folder, cell.needs),
    }  # fmt: skip
    files.write(inside / "request.json", json.dumps(request))
    if steps:
        files.write(inside / "steps.json", json.dumps(steps))
    _start(
        [python, "-I", "-u", str(SCRIPT), "train", str(inside / "request.json")], own / "log.txt", request["threads"]
    )
    again = f"run the same command again; what the program said is in {own / 'log.txt'}"
    answer: Answer = records.read(inside / "answer.json", Answer, next=again)
    _take_over(inside / "predicted", own / "predictions", index, store, cell)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "predicted"):
        shutil.rmtree(inside / name, ignore_errors=True)
    return answer


def result_of(answer: Answer, cases: Iterable[CellCase]) -> Result:
    """``result.json``: time and memory are those of the training, as of other cells."""
    facts = {name: getattr(answer, name) for name in External.model_fields if name in answer.model_fields_set}
    return Result(
        version=1, seconds=answer.seconds, core_seconds=answer.core_seconds, peak_memory_gb=answer.peak_memory_gb,
        external=External(**facts), cases=tuple(cases),
    )  # fmt: skip


def _core_seconds(folder: Path, needs: Sequence[str]) -> float:
    """What the trainings took that this one is to take as long as."""
    found = [(key, read_result(folder, key)) for key in needs]
    absent = [key for key, result in found if result is None or not result.core_seconds]
    if absent:
        raise LemisError(f"cell {absent[0]}, whose core-seconds are asked for, is not done")
    return sum(result.core_seconds or 0.0 for _, result in found if result is not None)


# ----------------------------------------------------------------------------------------------- there and back again


def _write_scans(raw: Path, index: Index, store: Store, cell: Cell) -> None:
    """The training scans with their labels and the images of the test scans, in nnU-Net's layout.

    Voxels are as in the files, in the data set's frame, slices last. Of the grid only the voxel size is written, all
    that nnU-Net looks at. Structures are numbered without gaps; what is none counts as background.
    """
    by_id = {scan.id: scan for scan in index.scans}
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / name).mkdir(parents=True)
    for number, id in enumerate(cell.call["train"]):
        image = _write_image(raw / "imagesTr", f"train_{number:04d}", index, by_id[id])
        classes = to_classes(read_label(index, by_id[id], image), store.label_values, index.ignored)
        _write(raw / "labelsTr" / f"train_{number:04d}.nii.gz", classes, by_id[id])
    for number, id in enumerate(cell.test):
        _write_image(raw / "imagesTs", f"test_{number:04d}", index, by_id[id])
    facts = {
        "channel_names": {str(number): name for number, name in enumerate(index.channels)},
        # Not by their own names, of which "ignore" would mean something.
        "labels": {"background": 0, **{f"structure {i}": i for i in range(1, store.num_classes)}},
        "numTraining": len(cell.call["train"]), "file_ending": ".nii.gz",
    }  # fmt: skip
    files.write(raw / "dataset.json", json.dumps(facts))


def _write_image(folder: Path, name: str, index: Index, scan: Scan) -> volume.Volume:
    image = read_image(index, scan)
    for channel in range(image.array.shape[3]):
        _write(folder / f"{name}_{channel:04d}.nii.gz", image.array[..., channel].astype(np.float32), scan)
    return image


def _write(path: Path, array: NDArray[Any], scan: Scan) -> None:
    axes = [axis for axis in range(3) if axis != scan.slice_axis] + [scan.slice_axis]
    affine = np.diag([*(scan.spacing_mm[axis] for axis in axes), 1.0])
    volume.write_volume(np.ascontiguousarray(array.transpose(axes)), affine, path)


def _take_over(predicted: Path, output: Path, index: Index, store: Store, cell: Cell) -> None:
    """Label maps on the scans' own grids and with their own values, and a record of what their network had seen."""
    shutil.rmtree(output, ignore_errors=True)
    by_id = {scan.id: scan for scan in index.scans}
    values = values_of(store.label_values)
    named = zip(store.label_names, store.label_values, strict=True)
    shared = Predictions(
        version=1, structures={name: value for name, value in named if value}, ignored_values=index.ignored,
    )  # fmt: skip
    for number, id in enumerate(cell.test):
        scan = by_id[id]
        classes = labels.read(predicted / f"test_{number:04d}.nii.gz").array
        source = volume.read(index_file.locate(index, scan.images[0]), scan.axes).source
        map_ = np.moveaxis(values[classes], 2, scan.slice_axis)
        file = output / f"{id}{label_suffix(source.path)}"
        volume.write_labels(map_, source, file)
        made = Prediction(file=file.name, labelled_subjects=cell.labelled, pretraining_subjects=())
        predictions.add(output, id, made, shared)


# ------------------------------------------------------------------------------------------------------ the program


def _start(command: Sequence[str], log: Path, threads: int) -> None:
    """Run a program to its end. It ends with us: we hold the other end of its standard input."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "PYTHON"))}
    own |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("ab") as said, sigterm_interrupts():
        before = said.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=own, start_new_session=True
        )
        try:
            code = process.wait()
        finally:
            _end(process)
    if code:
        lines = log.read_bytes()[before:].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise LemisError(f"the program ended with exit code {code}: {last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of a program that runs on: it, and the processes that it started."""
    assert process.stdin is not None, "a pipe"
    process.stdin.close()
    if process.poll() is not None:
        return
    group = getattr(os, "killpg", None)  # Windows has no groups
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if group is not None:
            group(process.pid, number)
        else:
            process.terminate()
        try:
            process.wait(timeout=_FAREWELL_S)
            return
        except subprocess.TimeoutExpired:
            continue
