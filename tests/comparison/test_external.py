"""Rows that another program trains: what is refused, what a cell's key holds, and what goes there and back again.

nnU-Net itself is tried where ``LEMIS_NNUNET_PYTHON`` names the Python of an environment that has it; everywhere else a
short program stands for it that speaks the same protocol and finds what is bright.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import lemis
from lemis import phantom
from lemis.comparison import cells, external_cells, external_rows, external_runs
from lemis.comparison.cells import Cell, Grid
from lemis.comparison.external_rows import PYTHON, SCRIPT
from lemis.comparison.places import places
from lemis.comparison.plans import Plan, load_plan, ways
from lemis.datasets import index as index_file
from lemis.errors import LemisError, UsageError
from lemis.preparation.store import open_store
from lemis.settings import write_yaml
from lemis.verbs.compare import compare
from lemis.work_files import predictions
from lemis.work_files.comparison import Result, write_result

REAL = os.environ.get(PYTHON)  # before any test sets it
TINY: dict[str, Any] = {
    "preset": "tiny", "labelled": [1], "folds": [0],
    "settings": {"finetune": {"steps": 2, "precision": "32"}},
}  # fmt: skip
STEPS = {"external": "nnunet", "settings": {"plan": "own", "steps": 7}}
TIMES = {"external": "nnunet", "settings": {"plan": "lemis", "times": 3}}
THERE = {"nnunetv2": "2.8.1", "torch": "2.13.0", "python": "3.11.7"}
# Keeps what it was given, and calls half of the brighter voxels the first structure and the others the last.
FAKE = """
import json, os, sys, time
from pathlib import Path
import nibabel, numpy as np

here = Path(__file__).parent
assert sys.argv[1] == "-I" and sys.argv[-2 if "train" in sys.argv else -1] in ("train", "versions"), sys.argv
what = json.loads((here / "does.json").read_text())
if sys.argv[-1] == "versions":
    print(json.dumps(what["versions"]))
    sys.exit()
request = json.loads(Path(sys.argv[-1]).read_text())
folder = Path(request["folder"])
steps = request["steps"] or round(10 * request["core_seconds"])
(folder / "steps.json").write_text(json.dumps(steps))
if what["does"] == "fail":
    print("first this")
    sys.exit("no such plan")
if what["does"] == "wait":
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(60)
raw = folder / "nnUNet_raw" / "Dataset001_Cell"
seen = {"request": request, "dataset": json.loads((raw / "dataset.json").read_text()), "files": {}}
for file in sorted(raw.glob("*/*.nii.gz")):
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj)
    found = {"shape": voxels.shape, "mm": [float(mm) for mm in image.header.get_zooms()]}
    seen["files"][f"{file.parent.name}/{file.name}"] = found | {"most": float(voxels.max())}
    if file.parent.name == "imagesTs":
        classes = np.zeros(voxels.shape, np.uint8)
        classes[voxels > np.median(voxels)] = 1
        classes[voxels > np.percentile(voxels, 75)] = len(seen["dataset"]["labels"]) - 1
        (folder / "predicted").mkdir(exist_ok=True)
        name = file.name.replace("_0000.nii.gz", ".nii.gz")
        nibabel.save(nibabel.Nifti1Image(classes, image.affine), folder / "predicted" / name)
(here / "seen.json").write_text(json.dumps(seen))
(folder / "answer.json").write_text(json.dumps({
    "steps": steps, "epochs": min(1000, steps), "seconds": 2.0, "core_seconds": 1.5, "peak_memory_gb": 0.5,
    "preparation_core_seconds": 0.1, "prediction_core_seconds": 0.2, "versions": what["versions"],
    "spacing_mm": [2.0, 2.0], "patch_px": [32, 32], "batch_size": 4, "widths": [4, 8, 16],
}))
"""


class Fake:
    """A program in place of nnU-Net, and what it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "fake.py").write_text(FAKE, encoding="utf-8")
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "fake.py"}" "$@"\n', encoding="utf-8")
        self.python.chmod(0o755)
        self.does("train")

    def does(self, what: str, **versions: str) -> None:
        told = {"does": what, "versions": THERE | versions}
        (self.folder / "does.json").write_text(json.dumps(told), encoding="utf-8")

    @property
    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "seen.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    made = Fake(folder)
    monkeypatch.setenv(PYTHON, str(made.python))
    return made


def plan_of(tmp_path: Path, *rows: Any, **changed: Any) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(TINY | {"rows": list(rows)} | changed), encoding="utf-8")
    return load_plan(path)


# ------------------------------------------------------------------------------------------------- what a row may say


def test_a_row_is_named_by_its_plan_and_length_and_can_be_read_again(tmp_path: Path) -> None:
    rows = ["scratch", STEPS, TIMES, {"external": "nnunet"}, {**TIMES, "title": "Theirs", "python": "env/bin/python"}]
    rows += [{"external": "nnunet", "settings": {"times": 2, "of": "scratch"}}]
    plan = plan_of(tmp_path, *rows)
    assert [row.title for row in plan.rows] == [
        "scratch", "nnU-Net (its own plan, 7 steps)", "nnU-Net (Lemis' plan, 3 x the time)",
        "nnU-Net (Lemis' plan, 1 x the time)", "Theirs", "nnU-Net (Lemis' plan, 2 x the time of scratch)",
    ]  # fmt: skip
    assert [row.external for row in plan.rows] == [None] + ["nnunet"] * 5
    assert [way.row.title for way in ways(plan)] == ["scratch"]
    write_yaml(plan, tmp_path / "stored.yaml")
    assert load_plan(tmp_path / "stored.yaml") == plan


def test_sizes_and_time_are_those_of_the_baseline_where_lemis_trains_it(tmp_path: Path) -> None:
    for baseline, wanted in (("pcl", "pcl"), ("nnU-Net (its own plan, 7 steps)", "scratch"), (None, "scratch")):
        plan = plan_of(tmp_path, "scratch", "pcl", STEPS, baseline=baseline)
        assert external_rows.like(plan.rows[2], plan.rows, plan.baseline) == wanted


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another program": ({"rows": ["scratch", {"external": "nnformer"}]}, r"external: 'nnformer'.*\n.*nnunet"),
    "no name": ({"rows": ["scratch", {"external": ["nnunet"]}]}, r"external: \['nnunet'\]"),
    "a network": ({"rows": ["scratch", {**STEPS, "backbone": "unet2d"}]}, "backbone of a row with external: nnunet"),
    "a method": ({"rows": ["scratch", {**STEPS, "method": "pcl"}]}, "method of a row with external: nnunet"),
    "an unknown key": ({"rows": ["scratch", {**STEPS, "seed": 3}]}, "seed of a row with external: nnunet"),
    "python": ({"rows": ["scratch", {**STEPS, "python": 3}]}, "python: 3 of a row"),
    "settings": ({"rows": ["scratch", {"external": "nnunet", "settings": 3}]}, "settings: 3 of a row"),
    "its settings": ({"rows": ["scratch", {"external": "nnunet", "settings": {"epochs": 3}}]}, "epochs"),
    "steps and time": (
        {"rows": ["scratch", {"external": "nnunet", "settings": {"steps": 3, "times": 2}}]}, "steps: 3 and times: 2",
    ),
    "no step": ({"rows": ["scratch", {"external": "nnunet", "settings": {"steps": 0}}]}, "steps=0"),
    "a plan": ({"rows": ["scratch", {"external": "nnunet", "settings": {"plan": "best"}}]}, "plan='best'"),
    "of no row": (
        {"rows": ["scratch", {"external": "nnunet", "settings": {"of": "scrach"}}]}, r"'scrach'[\s\S]*of: scratch",
    ),
    "of itself": (
        {"rows": ["scratch", {**STEPS, "title": "N"}, {**TIMES, "settings": {"of": "N"}}]}, "settings.of: 'N'",
    ),
    "alone": ({"rows": [STEPS]}, r"row 'nnU-Net \(its own plan, 7 steps\)' alone"),
    "the papers' protocol": ({"rows": ["scratch", STEPS], "protocol": "paper"}, "protocol paper with row"),
    "single images": ({"rows": ["kmeans", STEPS], "kind": "single"}, "in a plan of single images"),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_run_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_of(tmp_path, **changed)


def test_without_an_environment_it_is_told_how_to_make_one_before_anything_is_prepared(
    phantom_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    plan, work = tmp_path / "plan.yaml", tmp_path / "work"
    for row, said in (
        (STEPS, "without an environment that has nnunetv2"),
        ({**STEPS, "python": "nowhere/python"}, "python nowhere/python of row .* which is not there"),
        # Ours has none, and never will.
        ({**STEPS, "python": sys.executable}, "No package metadata was found for nnunetv2"),
        ({**STEPS, "python": str(plan)}, "Permission denied"),
    ):
        plan.write_text(yaml.safe_dump(TINY | {"rows": ["scratch", row]}), encoding="utf-8")
        with pytest.raises(
            UsageError, match=f"{said}[\\s\\S]*python3 -m venv nnunet && .* nnunetv2 && export {PYTHON}="
        ):
            compare(phantom_scans, output=work, plan=plan, device="cpu")
    assert not (work / "prepared").exists()


def test_nothing_of_lemis_needs_it_and_its_script_needs_nothing_of_lemis() -> None:
    package = Path(lemis.__file__).parent
    using = [path for path in package.rglob("*.py") if "import nnunetv2" in (text := path.read_text("utf-8")) or
             "from nnunetv2" in text]  # fmt: skip
    assert using == [SCRIPT]
    assert not any(line.lstrip().startswith(("from lemis", "import lemis")) for line in
                   SCRIPT.read_text("utf-8").splitlines())  # fmt: skip
    assert "nnunetv2" not in (package.parents[1] / "pyproject.toml").read_text("utf-8").split("[tool.")[0]


# ---------------------------------------------------------------------------------------------------------- its cells


def grid_of(plan: Plan, work: Path, device: str = "cpu", **versions: str) -> Grid:
    store, index = open_store(work / "prepared"), index_file.load(work / "index.json")
    columns, rows = places(plan, index.scans, Path(index.root)), ways(plan)
    there = {row.title: THERE | versions for row in plan.rows if row.external}
    grid = cells.expand(plan, rows, columns, cells.material(store), None)
    return external_cells.added(plan, grid, rows, columns, store, there, device)


def done_in(folder: Path, key: str, core_seconds: float) -> None:
    (folder / "cells" / key).mkdir(parents=True, exist_ok=True)
    write_result(folder, key, Result(version=1, core_seconds=core_seconds))


def theirs(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells.values() if cell.kind == "external"]


def test_a_cell_comes_after_what_its_length_is_measured_by(tmp_path: Path, prepared_work: Path) -> None:
    grid = grid_of(plan_of(tmp_path, "pcl", TIMES, STEPS, folds=[0, 1], labelled=[1, 2]), prepared_work)
    for use in (use for use in grid.uses if use.row != "pcl"):
        (same,) = (
            one for one in grid.uses
            if (one.row, one.labelled, one.fold, one.seed) == ("pcl", use.labelled, use.fold, use.seed)
        )  # fmt: skip
        cell, own = grid.cells[use.cell], grid.cells[same.cell]
        assert cell.needs == ((same.pretrained, same.cell) if "x the time" in use.row else ())
        assert (cell.labelled, cell.test) == (own.labelled, own.test)
        assert (use.transductive, use.pretrained) == (False, None)
    order = list(grid.cells)
    assert all(order.index(need) < order.index(cell.key) for cell in theirs(grid) for need in cell.needs)


def test_lemis_plan_is_what_its_own_row_has(tmp_path: Path, prepared_work: Path) -> None:
    plan = plan_of(tmp_path, "scratch", TIMES)
    (cell,), (way,) = theirs(grid_of(plan, prepared_work)), ways(plan)
    assert cell.call["plan"] == {
        "spacing_mm": open_store(prepared_work / "prepared").settings["spacing_mm"],
        "patch_px": (way.finetuning.objective.size_px,) * 2,
        "base_width": way.finetuning.backbone_settings.base_width,
        "batch_size": way.finetuning.objective.batch_size,
    }


def finetune(**settings: Any) -> dict[str, Any]:
    return {"settings": {"finetune": {"steps": 2, "precision": "32", **settings}}}


SAME = [1, 1]  # of the row with time and of the row with steps: how many cells are others then
CHANGES: dict[str, tuple[dict[str, Any], dict[str, str], list[int]]] = {
    "nothing": ({}, {}, [0, 0]),
    "the title": ({"title": "another"}, {}, [0, 0]),
    "the version of nnU-Net": ({}, {"nnunetv2": "2.9"}, SAME),
    "the seed": ({"seeds": [5]}, {}, SAME),
    "the fold": ({"folds": [1]}, {}, SAME),
    "the labelled subjects": ({"labelled": [2]}, {}, SAME),
    "the length of Lemis' training": (finetune(steps=3), {}, [1, 0]),
    "the patches of Lemis' training": (finetune(objective={"size_px": 16}), {}, [1, 0]),
    "the time": ({"rows": ["scratch", {**TIMES, "settings": {"times": 4}}, STEPS]}, {}, [1, 0]),
    "the steps": ({"rows": ["scratch", TIMES, {**STEPS, "settings": {"plan": "own", "steps": 8}}]}, {}, [0, 1]),
    "its plan": ({"rows": ["scratch", TIMES, {**STEPS, "settings": {"plan": "lemis", "steps": 7}}]}, {}, [0, 1]),
    "where it lies": ({"rows": ["scratch", TIMES, {**STEPS, "python": "env/bin/python"}]}, {}, [0, 0]),
}  # fmt: skip


@pytest.mark.parametrize(("plan", "versions", "others"), CHANGES.values(), ids=CHANGES)
def test_a_key_changes_with_what_decides_on_the_result(
    tmp_path: Path, prepared_work: Path, plan: dict[str, Any], versions: dict[str, str], others: list[int]
) -> None:
    rows = ("scratch", TIMES, STEPS)
    before = grid_of(plan_of(tmp_path, *rows), prepared_work)
    changed = plan_of(tmp_path, *plan.get("rows", rows), **{key: value for key, value in plan.items() if key != "rows"})
    after = theirs(grid_of(changed, prepared_work, **versions))
    assert [int(cell.key not in before.cells) for cell in after] == others


UNFIT: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "volumes": ([{"method": "scratch", "backbone": "unet3d"}, STEPS], {}, "cpu", "beside networks of three dimensions"),
    "no width": ([{"method": "scratch", "backbone": "swin_unet"}, TIMES], {}, "cpu", "swin_unet, which has no base_"),
    "a GPU": (["scratch", TIMES], {}, "cuda", "takes the core-seconds of scratch, on a GPU"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "changed", "device", "said"), UNFIT.values(), ids=UNFIT)
def test_what_nnunet_cannot_take_over_is_refused(
    tmp_path: Path, prepared_work: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], changed: dict[str, Any],
    device: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(external_cells, "chosen_device", lambda asked: asked)
    with pytest.raises(UsageError, match=said):
        grid_of(plan_of(tmp_path, *rows, **changed), prepared_work, device)


def test_a_python_that_a_folder_names_is_not_run_unasked(tmp_path: Path, prepared_work: Path) -> None:
    plan = plan_of(tmp_path, "scratch", {**STEPS, "python": "env/bin/python"}, TIMES)
    named = [cells.foreign_modules(cell) for cell in theirs(grid_of(plan, prepared_work))]
    assert named == [["env/bin/python"], []]


def test_what_only_lends_its_cost_is_not_trained_again_for_its_weights(tmp_path: Path, prepared_work: Path) -> None:
    grid, folder = grid_of(plan_of(tmp_path, "pcl", TIMES), prepared_work), tmp_path / "comparison"
    before, tuned, other = grid.cells.values()
    assert cells.missing(folder, tmp_path, grid) == [before, tuned, other]
    for cell in (before, tuned):
        done_in(folder, cell.key, 1.0)
    assert cells.missing(folder, tmp_path, grid) == [other]


# ------------------------------------------------------------------------------------------------- there and back again


@pytest.fixture(scope="module")
def odd_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans stored along other axes, whose structures are numbered with gaps."""
    folder = phantom.write_dataset(
        tmp_path_factory.mktemp("odd") / "scans",
        subjects=6,
        labelled=4,
        shape=(40, 36, 5),
        stored=("LPS", "LSP", "PSR"),
    )
    for file in (folder / "labelsTr").iterdir():
        stored = nibabel.load(file)
        voxels = np.asarray(stored.dataobj)
        voxels = np.array([0, 9, 2, 5], voxels.dtype)[voxels]
        nibabel.save(nibabel.Nifti1Image(voxels, stored.affine, stored.header), file)
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    names = [name for name in facts["labels"] if name != "background"]
    facts["labels"] = {"background": 0, **dict(zip(names, (9, 2, 5), strict=True))}
    (folder / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def table(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_program_gets_the_labelled_scans_and_its_masks_lie_on_the_scans(
    odd_scans: Path, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, plan = tmp_path / "work", tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(TINY | {"rows": ["scratch", {**TIMES, "title": "Theirs"}]}), encoding="utf-8")
    run: Callable[[], Any] = lambda: compare(odd_scans, output=work, plan=plan, device="cpu", keep_predictions=True)  # noqa: E731
    done = run()
    assert not done.failed, capsys.readouterr().err
    (cell,) = (json.loads(path.read_text("utf-8")) for path in done.folder.glob("cells/*/cell.json")
               if '"external"' in path.read_text("utf-8"))  # fmt: skip
    folder, index = done.folder / "cells" / cell["key"], index_file.load(work / "index.json")
    by_id = {scan.id: scan for scan in index.scans}
    # What it was given: the labelled scans of the place with labels, the test scans without, slices last.
    train, test = cell["call"]["train"], cell["test"]
    assert {by_id[id].subject for id in train} == set(cell["labelled"])
    files = fake.seen["files"]
    assert len([name for name in files if name.startswith("imagesTr")]) == len(train) == 1
    assert [facts["most"] for name, facts in files.items() if name.startswith("labelsTr")] == [3]
    assert len([name for name in files if name.startswith("imagesTs")]) == len(test)
    assert {facts["shape"][2] for facts in files.values()} == {5}
    assert fake.seen["dataset"]["labels"] == {
        "background": 0, "structure 1": 1, "structure 2": 2, "structure 3": 3,
    }  # fmt: skip
    # What came back: each mask on its scan's own grid, in its order of axes, with the data set's values.
    values = sorted(index.labels.values())
    record = predictions.read(folder / "predictions")
    assert record is not None
    for id in test:
        image = nibabel.load(odd_scans / by_id[id].images[0])
        mask = nibabel.load(folder / "predictions" / f"{id}.nii.gz")
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        voxels = np.asarray(image.dataobj).astype(np.float32)
        wanted = np.zeros(voxels.shape, int)
        wanted[voxels > np.median(voxels)] = values[1]
        wanted[voxels > np.percentile(voxels, 75)] = values[3]
        assert (np.asarray(mask.dataobj) == wanted).all()
        assert record.scans[id].labelled_subjects == tuple(cell["labelled"])
    # What is kept: the cost of training, how long it was, its plan, and nothing of the copies.
    own, other = (row for row in table(done.folder) if row["structure"] == "mean")
    seconds = float(own["finetuning_core_seconds"])
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert fake.seen["request"]["core_seconds"] == pytest.approx(3 * seconds)
    assert result["external"]["steps"] == round(30 * seconds)
    assert result["external"]["versions"] == THERE
    assert (other["method"], other["finetuning_core_seconds"], other["peak_memory_gb"]) == ("nnunet", "1.5", "0.5")
    assert 0 < float(other["dice"]) < 1
    assert {path.name for path in (folder / "nnunet").iterdir()} == {"request.json", "steps.json", "answer.json"}
    # What is said of it.
    said = f"Theirs: trained by nnU-Net's own code (nnunetv2 2.8.1, torch 2.13.0) in 2D, {round(30 * seconds)} steps"
    assert said in (done.folder / "table.md").read_text(encoding="utf-8").replace("\\", "")
    page = (done.folder / "index.html").read_text(encoding="utf-8")
    assert "own code (nnunetv2 2.8.1, torch 2.13.0) in 2D" in page
    assert (
        "steps (3 times the core-seconds of scratch), at the plan of scratch: 2 x 2 mm, patches of 32 x 32 pixels"
        in page
    )
    assert "Nature Methods 18, 2021" in page
    # Again: nothing to do.
    fake.does("fail")
    assert run() == done


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def cell_to_run(fake: Fake, tmp_path: Path, prepared_work: Path) -> tuple[Path, Cell]:
    """The folder of a comparison and a cell in it that the fake is to train, as long as another that is done."""
    (cell,), folder = theirs(grid_of(plan_of(tmp_path, "scratch", TIMES), prepared_work)), tmp_path / "comparison"
    done_in(folder, cell.needs[0], 2.0)
    cells.write_cell(folder, cell)
    return folder, cell


def test_sigterm_ends_the_program_and_the_next_try_keeps_the_number_of_steps(
    fake: Fake, prepared_work: Path, cell_to_run: tuple[Path, Cell]
) -> None:
    folder, cell = cell_to_run
    fake.does("wait")
    pid = fake.folder / "pid"

    def stop() -> None:
        end = time.monotonic() + 60
        while not pid.exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        external_runs.run(prepared_work, folder, cell, "cpu")
    assert not alive(int(pid.read_text(encoding="utf-8")))
    assert not (folder / "cells" / cell.key / "predictions").exists()
    done_in(folder, cell.needs[0], 5.0)  # would be others now
    fake.does("train")
    assert external_runs.run(prepared_work, folder, cell, "cpu").steps == 60
    request = fake.seen["request"]
    assert (request["steps"], request["core_seconds"], request["device"]) == (60, None, "cpu")


def test_a_program_that_fails_is_one_failed_cell_with_its_last_words(
    fake: Fake, prepared_work: Path, cell_to_run: tuple[Path, Cell]
) -> None:
    folder, cell = cell_to_run
    fake.does("fail")
    with pytest.raises(LemisError, match="the program ended with exit code 1: no such plan"):
        external_runs.run(prepared_work, folder, cell, "cpu")
    assert "first this" in (folder / "cells" / cell.key / "log.txt").read_text(encoding="utf-8")


def test_a_cell_before_what_it_is_to_take_as_long_as_fails(prepared_work: Path, cell_to_run: tuple[Path, Cell]) -> None:
    folder, cell = cell_to_run
    (folder / "cells" / cell.needs[0] / "result.json").unlink()
    with pytest.raises(LemisError, match=f"cell {cell.needs[0]}, whose core-seconds are asked for, is not done"):
        external_runs.run(prepared_work, folder, cell, "cpu")


# ------------------------------------------------------------------------------------------------------- the program


def test_the_script_ends_with_the_process_that_holds_its_standard_input() -> None:
    waits = f"import runpy, threading, time; end = runpy.run_path({str(SCRIPT)!r})['_end_with_standard_input']; " \
            "threading.Thread(target=end).start(); print('here', flush=True); time.sleep(60)"  # fmt: skip
    begun = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"here\n"
        process.stdin.close()
        assert process.wait(timeout=50) == 1
    assert time.monotonic() - begun < 50


@given(st.integers(1, 3000), st.integers(1, 1000))
def test_epochs_take_all_steps_together_and_as_many_each_as_can_be(steps: int, most: int) -> None:
    epochs = min(steps, most)
    each = [STEPS_OF(epoch, epochs, steps) for epoch in range(epochs)]
    assert sum(each) == steps
    assert 1 <= min(each) <= max(each) <= min(each) + 1


STEPS_OF: Callable[[int, int, int], int] = runpy.run_path(str(SCRIPT))["steps_of"]


@pytest.mark.skipif(REAL is None, reason=f"{PYTHON} does not name the Python of an environment that has nnunetv2")
def test_nnunet_itself_trains_and_segments(
    phantom_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PYTHON, str(REAL))
    plan = tmp_path / "plan.yaml"
    row = {"external": "nnunet", "settings": {"plan": "lemis", "steps": 3}}
    plan.write_text(yaml.safe_dump(TINY | {"rows": ["scratch", row]}), encoding="utf-8")
    done = compare(phantom_scans, output=tmp_path / "work", plan=plan, device="cpu")
    assert not done.failed, capsys.readouterr().err
    (answer,) = done.folder.glob("cells/*/nnunet/answer.json")
    found = json.loads(answer.read_text(encoding="utf-8"))
    (way,) = ways(load_plan(plan))
    assert (found["steps"], found["epochs"]) == (3, 3)
    assert found["batch_size"] == way.finetuning.objective.batch_size
    assert found["widths"][0] == way.finetuning.backbone_settings.base_width
    assert found["patch_px"] == [way.finetuning.objective.size_px] * 2
    assert {row["row"] for row in table(done.folder)} == {"scratch", "nnU-Net (Lemis' plan, 3 steps)"}
