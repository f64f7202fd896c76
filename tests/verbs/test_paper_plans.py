"""Every plan of the papers makes its cells from the raw layout of its data set; one cell of each data set is run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lemis.comparison import plan_files, plans
from lemis.phantom import public_sets
from lemis.verbs import compare as module
from lemis.verbs.compare import compare

PLANS = {name: plan_files.read(name) for name in plan_files.shipped() if name.startswith("paper/")}
SCANS = sorted(name for name, plan in PLANS.items() if plan.get("kind") != "single")
MSD = {
    "macl-table2-spleen": "msd_spleen",
    "macl-table2-heart": "msd_heart",
    "macl-table2-hippocampus": "msd_hippocampus",
}
SMALL: dict[str, Any] = {  # what makes one step of a paper's training a matter of a second
    "backbones": {
        **{name: {"base_width": 4} for name in ("unet2d", "attention_unet2d", "residual_unet3d", "vnet")},
        **{name: {"base_width": 4} for name in ("unet3d", "attention_unet3d")},
    },
    "finetune": {"steps": 1, "objective": {"batch_size": 2, "size_px": 32}},
}


Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A phantom of a layout, as it is downloaded; each written once."""

    @cache
    def written(layout: str) -> Path:
        return public_sets.write(tmp_path_factory.mktemp(layout), layout)

    return written


@pytest.fixture(scope="module")
def work_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A work folder for each layout, so that plans with one preparation share it."""
    return cache(lambda layout: tmp_path_factory.mktemp(f"{layout}-work"))


def layout_of(name: str) -> str:
    return MSD.get(name.removeprefix("paper/"), str(PLANS[name]["data"]))


def small(name: str) -> list[str]:
    """One label, one fold and one seed: the phantoms have five subjects."""
    whole = {"prepare": {"whole_px": [16, 32, 32]}} if PLANS[name]["data"] == "gibson" else {}
    return ["labelled=[1]", "folds=[0]", "seeds=[0]", f"settings={json.dumps(SMALL | whole)}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANS)
def test_a_plan_makes_its_cells_from_raw_data(
    name: str, raw: Folder, work_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_execute", lambda *_, **__: None)
    upstream = PLANS[name].get("upstream")
    layout = layout_of(name)
    done = compare(
        raw(layout), output=work_of(layout), plan=name, overrides=small(name), device="cpu",
        upstream=None if upstream is None else raw(upstream),
    )  # fmt: skip
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in done.folder.glob("cells/*/cell.json")]
    plan = plans.load_plan(name)
    assert len([cell for cell in cells if cell["kind"] == "finetune"]) == len(plan.rows)
    assert all(len(cell["labelled"]) == 1 and cell["test"] for cell in cells if cell["kind"] == "finetune")
    assert {cell["work"] for cell in cells if cell["kind"] == "pretrain"} <= {"upstream" if upstream else ""}


def from_scratch(name: str) -> bool:
    """Whether a row is not pre-trained; tables of a method's parts have none."""
    rows = PLANS[name]["rows"]
    return "scratch" in [row if isinstance(row, str) else row["method"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({layout_of(name): name for name in SCANS if from_scratch(name)}.values()))
def test_one_cell_of_each_data_set_is_run(name: str, raw: Folder, work_of: Folder) -> None:
    first = next(row for row in plans.load_plan(name).rows if row.method == "scratch")
    one = ["upstream=null", f"rows=[{{title: one, method: scratch, backbone: {first.backbone}}}]", "baseline=one"]
    layout = layout_of(name)
    done = compare(
        raw(layout), output=work_of(layout), plan=name, name="one", overrides=[*small(name), *one], device="cpu"
    )
    assert done.failed == ()
    with (done.folder / "results.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["row"] for row in rows if row["structure"] == "mean"] == ["one"]
