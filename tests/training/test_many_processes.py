"""Two processes see the batch that one sees: the same losses, the same weights, every file written once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lemis import phantom
from lemis.preparation.settings import Settings
from lemis.runs.run import load_model
from lemis.settings import load_preset, resolve
from lemis.verbs.check import check
from lemis.verbs.prepare import prepare

CASES = {
    "pcl": ("pcl",),
    "pcl, one view at a time": ("pcl", "method.views_together=false"),
    "simclr": ("simclr",),
    "rotation": ("rotation",),
    "sal, shared": ("sal", "method.geometry=shared", "method.centring=none"),
    # Groups of three: with batches of eight, the second scan of each batch lies in both processes.
    "sal, shared over the border": ("sal", "method.geometry=shared", "method.per_scan=3"),
    "sal, independent": ("sal", "method.geometry=independent", "method.centring=batch"),
    "sal, same slice": ("sal", "method.geometry=independent", "method.per_scan=3", "method.same_slice=true"),
    "sal, no alignment": ("sal", "method.alignment_weight=0"),
    "accumulated": ("rotation", "accumulate=2"),
    "pcl, volumes": ("pcl:unet3d",),
    "mae, volumes": ("mae:unet3d",),
    "glcl, one after the other": ("glcl", "method.stages=one after the other", "method.local_from=0.4"),
}
# Fine-tuning; the pool is looked at from the first step on, and intensities are changed in float32, in which a
# convolution of more rows rounds otherwise.
TUNED = {
    "labels alone": (None,),
    "averaged": (None, "average=0.6"),
    "deep supervision": (None, "objective.deep_supervision=true"),
    "bcp": ("bcp", "semi.stage_1=0.4"),
    "mean_teacher": ("mean_teacher", "semi.delay=0", "semi.weight=5"),
    "fixmatch": ("fixmatch", "semi.threshold=0.3", "semi.intensity.p_blur=0"),
    "cps": ("cps", "semi.weight=1", "semi.ramp=0"),
    "cps, averaged": ("cps", "semi.weight=1", "semi.ramp=0", "average=0.6"),
    "entropy": ("entropy", "semi.weight=1", "semi.ramp=0"),
    "bcp, volumes": ("bcp:unet3d", "semi.stage_1=0.4", "objective.batch_size=4"),
    "labels alone, accumulated": (None, "accumulate=2"),
}
STEPS = 5
WORKER = """
import json, sys
from pathlib import Path
from lemis.training import launch
from lemis.verbs.finetune import finetune
from lemis.verbs.pretrain import pretrain

# In double precision rounding cannot tip a ReLU or a maximum over its edge, so nothing hides a wrong gradient.
launch.precision = lambda settings, accelerator, dims, prefix: "64-true"
work, cases, few = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name, (method, *overrides) in cases.items():
    method, _, backbone = method.partition(":")
    given = {"name": name, "preset": "tiny", "overrides": [*few, *overrides], "device": "cpu"}
    pretrain(work, method=method, backbone=backbone or None, **given)
for name, (semi, *overrides) in json.loads(sys.argv[4]).items():
    semi, _, backbone = (semi or "").partition(":")
    # Adam makes steps of what rounding leaves of a gradient that is 0, as that of a bias before a normalisation.
    # 12 slices: a batch of 8 and a smaller one, of which each process has a pair.
    overrides = ["objective.batch_size=8", *few, "evaluations=0", "optimiser=sgd", *overrides]
    given = {"name": name, "preset": "tiny", "overrides": overrides, "device": "cpu"}
    finetune(work, semi=semi or None, backbone=backbone or None, fold=0, labelled=2, **given)
"""
FEW = (f"steps={STEPS}", "checkpoint_minutes=0.00001")


class Trained(NamedTuple):
    one: Path  # work folder of one process
    two: Path
    said: str  # by two


@pytest.fixture(scope="module")
def prepared_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six made-up hearts of six slices, three of them labelled, checked and prepared. Read only."""
    folder = tmp_path_factory.mktemp("hearts")
    phantom.write_dataset(folder / "scans", subjects=6, labelled=3, shape=(40, 40, 6))
    check(folder / "scans", output=folder / "work", jobs=1)
    prepare(folder / "work", settings=resolve(Settings, load_preset("tiny")["prepare"]), jobs=1)
    return folder / "work"


@pytest.fixture(scope="module")
def trained(prepared_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every case in one process, and in two that torchrun starts."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "worker.py").write_text(WORKER)
    said = ""
    for name, launcher in (("one", ()), ("two", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"))):
        work = Path(shutil.copytree(prepared_work, folder / name))
        arguments = (str(work), json.dumps(CASES), json.dumps(FEW), json.dumps(TUNED))
        command = [sys.executable, *launcher, str(folder / "worker.py"), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        said = done.stderr
    return Trained(folder / "one", folder / "two", said)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *TUNED])
def test_two_processes_equal_one(case: str, trained: Trained) -> None:
    runs = [work / "runs" / case for work in (trained.one, trained.two)]
    for alone, shared in zip(*map(lines, runs), strict=True):
        assert alone.keys() == shared.keys()
        for name, value in alone.items():
            if name != "seconds" and not name.startswith("embedding/local"):  # which rows are watched may differ
                assert shared[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    (expected, _), (found, _) = map(load_model, runs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
def test_one_of_two_processes_writes_and_speaks(trained: Trained) -> None:
    assert trained.said.count("pre-training") == len(CASES)
    assert trained.said.count("fine-tuning") == len(TUNED)
    for case in (*CASES, *TUNED):
        one, two = (work / "runs" / case for work in (trained.one, trained.two))
        assert [line["step"] for line in lines(two)] == list(range(1, STEPS + 1))
        assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
        assert len(list((two / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused(prepared_work: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    (tmp_path / "worker.py").write_text(WORKER)
    arguments = (str(work), json.dumps({"odd": ("pcl", "method.batch_size=7")}), json.dumps(FEW), "{}")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = [sys.executable, *launcher, str(tmp_path / "worker.py"), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, check=False)
    assert done.returncode != 0
    assert "a batch of 7 on 2 processes" in done.stderr


@pytest.mark.slow
def test_rows_that_come_in_pairs_are_not_split_between_processes(prepared_work: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    (tmp_path / "worker.py").write_text(WORKER)
    few = [*FEW, "objective.batch_size=2"]
    arguments = (str(work), "{}", json.dumps(few), json.dumps({"odd": ("bcp",)}))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = [sys.executable, *launcher, str(tmp_path / "worker.py"), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, check=False)
    assert done.returncode != 0
    assert "1 rows of a batch on each of 2 processes, which this way takes in pairs" in done.stderr
    assert "objective.batch_size=4" in done.stderr
