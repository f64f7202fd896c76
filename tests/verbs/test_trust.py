"""A run folder of somebody else: what it names is not run unless the user says so, and nothing is ever unpickled."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from lemis import cli
from lemis.comparison.cells import Cell, refuse_modules, write_cell
from lemis.errors import UsageError
from lemis.plugins import Trust
from lemis.preparation.store import open_store
from lemis.verbs.compare import compare
from lemis.verbs.finetune import finetune
from lemis.verbs.predict import predict
from lemis.verbs.prepare import prepare
from lemis.verbs.pretrain import pretrain
from lemis.verbs.report import report

FEW = ("steps=2", "precision=32")
LURE = "lab_of_somebody.lure"
# Sets a flag where it is imported, and is a network of ours otherwise.
MODULE = """
from pathlib import Path

Path(__file__).with_name("ran").touch()
from lemis.backbones.unet2d import Backbone, Settings

def detect(image):
    raise AssertionError("never called here")
"""


class Work:
    """A work folder with a pre-trained and a fine-tuned run, and a module beside it that says whether it ran."""

    def __init__(self, folder: Path, lab: Path) -> None:
        self.folder, self.flag = folder, lab / "ran"
        self.pretrained, self.tuned = folder / "runs" / "pcl", folder / "runs" / "scratch"

    def name(self, run: Path, **changes: Any) -> None:
        """What the ``model.json`` of a run names."""
        facts = json.loads((run / "model.json").read_text(encoding="utf-8"))
        (run / "model.json").write_text(json.dumps({**facts, **changes}))


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs, each of two steps."""
    folder = Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("trust") / "work"))
    pretrain(folder, method="pcl", name="pcl", preset="tiny", overrides=FEW, device="cpu")
    finetune(folder, name="scratch", fold=0, preset="tiny", overrides=FEW, device="cpu")
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A copy of it, and the module where Python finds it."""
    lab = tmp_path / "path" / LURE.partition(".")[0]
    lab.mkdir(parents=True)
    (lab / "__init__.py").write_text("")
    (lab / "lure.py").write_text(MODULE)
    monkeypatch.syspath_prepend(lab.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == lab.name]:
        monkeypatch.delitem(sys.modules, name)
    return Work(Path(shutil.copytree(trained, tmp_path / "work")), lab)


def refused(work: Work, does: Any, *, next: str) -> None:
    with pytest.raises(UsageError, match="which is not part of Lemis") as caught:
        does()
    assert LURE in caught.value.given
    assert caught.value.next.endswith(next)
    assert not work.flag.exists()


def test_a_network_that_a_run_names_is_not_imported(work: Work) -> None:
    work.name(work.tuned, backbone=LURE)
    refused(work, lambda: predict(work.tuned, device="cpu"), next=f"lemis predict {work.tuned} --trust")


def test_a_detector_that_a_run_names_is_not_imported(work: Work) -> None:
    work.name(work.tuned, backbone_settings={"keypoints": {"detector": f"{LURE}.detect", "most": 4}})
    refused(work, lambda: predict(work.tuned, device="cpu"), next="--trust")


def test_a_pretrained_run_names_no_network_to_import(work: Work) -> None:
    work.name(work.pretrained, backbone=LURE)
    more = {"name": "new", "preset": "tiny", "overrides": FEW, "device": "cpu"}
    refused(work, lambda: finetune(work.folder, pretrained=work.pretrained, **more), next="--trust")  # type: ignore[arg-type]
    assert not (work.folder / "runs" / "new").exists()


def test_a_figure_of_similarity_imports_no_network(work: Work) -> None:
    work.name(work.pretrained, backbone=LURE)
    page = work.folder / "page.html"
    query = "heart_001:2:20,30"
    refused(work, lambda: report(work.folder, similarity=query, output=page, device="cpu"), next=f"{query} --trust")
    assert not page.exists()


def test_the_command_line_asks_before_anything_is_imported(work: Work) -> None:
    work.name(work.tuned, backbone=LURE)
    asked = CliRunner().invoke(cli.app, ["predict", str(work.tuned), "--device", "cpu"])
    assert isinstance(asked.exception, UsageError)
    assert not work.flag.exists()
    told = CliRunner().invoke(
        cli.app, ["predict", str(work.tuned), "--device", "cpu", "--trust"], catch_exceptions=False
    )
    assert told.exit_code == 0
    assert work.flag.exists()


def test_what_the_user_names_is_trusted(work: Work) -> None:
    work.name(work.pretrained, backbone=LURE)
    run = finetune(
        work.folder, pretrained=work.pretrained, backbone=LURE, name="new", preset="tiny",
        overrides=(*FEW, "backbone.base_width=4"), device="cpu",
    )  # fmt: skip
    assert work.flag.exists()
    predict(run, scans=["heart_001"], output=work.folder / "out", device="cpu", trust=Trust().also(LURE))
    refused_again = Trust().also("another.module")
    with pytest.raises(UsageError, match="not part of Lemis"):
        predict(run, scans=["heart_001"], output=work.folder / "out2", device="cpu", trust=refused_again)


def test_a_folder_of_prepared_scans_names_no_detector_to_import(work: Work) -> None:
    asked = work.folder / "prepared" / "keypoints.json"
    asked.write_text(json.dumps({"detector": f"{LURE}.detect", "most": 4}))
    refused(work, lambda: prepare(work.folder), next=f"keypoints.detector={LURE}.detect")


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("pretrain", {"method": LURE, "backbone": "unet2d"}),
        ("pretrain", {"method": "pcl", "backbone": LURE}),
        ("finetune", {"backbone": "unet2d", "auxiliary": LURE}),
        ("finetune", {"backbone": "unet2d", "semi": LURE}),
        ("finetune", {"backbone": "unet2d", "overrides": {"backbone": {"keypoints": {"detector": f"{LURE}.detect"}}}}),
        ("single", {"method": LURE, "overrides": []}),
    ],
)
def test_a_cell_of_a_comparison_names_nothing_to_import(
    work: Work, kind: Literal["pretrain", "finetune", "single"], call: dict[str, Any]
) -> None:
    folder = work.folder / "comparisons" / "default"
    cell = Cell(kind=kind, key="k", title="t", run="r", work="", needs=(), made_of={}, call=call)
    write_cell(folder, cell)
    refused(work, lambda: compare(work.folder, output=work.folder, cell="k", device="cpu"), next="--cell k --trust")
    assert [path.name for path in (folder / "cells" / "k").iterdir()] == ["cell.json"]
    refuse_modules(folder, cell, Trust(every=True))


def test_the_scripts_of_a_plan_trust_what_the_plan_names(work: Work, phantom_scans: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    given: dict[str, Any] = {"output": work.folder, "plan": plan, "emit": "slurm", "device": "cpu"}
    for backbone, trusts in (("unet2d", False), (LURE, True)):
        rows = [{"title": "one", "method": "scratch", "backbone": backbone}]
        facts = {"title": "t", "preset": "tiny", "rows": rows, "labelled": [1], "folds": [0]}
        plan.write_text(yaml.safe_dump(facts))
        script = compare(phantom_scans, **given).folder / "slurm" / "level0_part0.sbatch"
        assert (" --trust --cell " in script.read_text()) is trusts


class _Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.flag,)


def test_no_prepared_array_is_unpickled(work: Work) -> None:
    flag = work.folder / "unpickled"
    (work.folder / "prepared" / "heart_001.npy").write_bytes(pickle.dumps(_Evil(flag)))
    with pytest.raises(UsageError, match="is damaged") as caught:
        open_store(work.folder / "prepared").image(0)
    assert caught.value.next == f"lemis prepare {work.folder}"
    assert not flag.exists()


def test_no_weights_are_unpickled(work: Work) -> None:
    flag = work.folder / "unpickled"
    (work.pretrained / "model.safetensors").write_bytes(pickle.dumps(_Evil(flag)))
    with pytest.raises(UsageError, match="cannot be read"):
        finetune(work.folder, pretrained=work.pretrained, name="n", preset="tiny", overrides=FEW, device="cpu")
    assert not flag.exists()


def test_no_checkpoint_is_unpickled(work: Work) -> None:
    flag = work.folder / "unpickled"
    (work.pretrained / "status.json").unlink()  # so that it is not finished
    (work.pretrained / "resume.ckpt").write_bytes(pickle.dumps(_Evil(flag)))
    with pytest.raises(UsageError, match="is damaged") as caught:
        pretrain(work.folder, method="pcl", name="pcl", preset="tiny", overrides=FEW, device="cpu")
    assert f"delete {work.pretrained / 'resume.ckpt'}" in caught.value.next
    assert not flag.exists()
