"""A training that is killed again and again ends with the same bits as one that is not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lemis.runs.run import load_model

FIT = (
    "--preset", "tiny", "--method", "sal", "--fold", "0", "--device", "cpu", "pretrain.steps=60", "finetune.steps=60",
    "pretrain.checkpoint_minutes=0.0005", "finetune.checkpoint_minutes=0.0005",
)  # fmt: skip
LEMIS = (sys.executable, "-c", "from lemis.cli import main; main()")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LEMIS, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> bool:
    """True as soon as ``there`` holds, False where the process ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if there():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("waited too long")


def last_step(run: Path) -> int:
    log = run / "metrics.jsonl"
    whole = (
        [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if log.exists()
        else []
    )
    return int(json.loads(whole[-1])["step"]) if whole else 0


@pytest.mark.slow
def test_killed_at_random_moments_fit_ends_with_the_same_bits(phantom_scans: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start("fit", str(phantom_scans), "-o", str(whole), *FIT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said

    moments = random.Random(0)
    runs = [cut / "runs" / "sal", cut / "runs" / "sal-m2-fold0"]
    for run in runs:
        for aim in (5, 25, 45):  # kill some steps beyond each, at any point of a step or of a write
            process = start("fit", str(phantom_scans), "-o", str(cut), *FIT)
            step = aim + moments.randrange(10)
            assert wait_for(lambda run=run, step=step: last_step(run) >= step, process)  # type: ignore[misc]
            time.sleep(moments.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    process = start("fit", str(phantom_scans), "-o", str(cut), *FIT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "pre-training sal on" not in said  # that was finished before

    for run in runs:
        other = whole / "runs" / run.name
        assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert steps == list(range(1, 61))
        assert {path.name for path in run.iterdir()} == {path.name for path in other.iterdir()}
        assert (run / "environment.json").exists()
    assert list(cut.rglob("*.part")) == []


@pytest.mark.slow
def test_sigusr1_saves_and_sigterm_saves_and_stops(work: Path, fresh_work: Callable[[str], Path]) -> None:
    command = ("--method", "pcl", "--preset", "tiny", "--device", "cpu", "steps=150")
    run = work / "runs" / "pcl"
    process = start("pretrain", str(work), *command)
    assert wait_for(lambda: last_step(run) >= 3, process)
    process.send_signal(signal.SIGUSR1)
    assert wait_for((run / "resume.ckpt").exists, process)
    saved = torch.load(run / "resume.ckpt", weights_only=True)["step"]
    assert wait_for(lambda: last_step(run) > saved, process)  # it goes on
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "next:    lemis pretrain" in said
    assert "Traceback" not in said
    stopped = torch.load(run / "resume.ckpt", weights_only=True)["step"]
    assert saved < stopped == last_step(run) < 150
    assert f"stopped after step {stopped}, with a checkpoint" in said

    process = start("pretrain", str(work), *command)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert f"pcl: step {stopped + 1}/150" in said
    other = fresh_work("uninterrupted")
    process = start("pretrain", str(other), *command)
    process.communicate(timeout=60)
    weights, _ = load_model(run)
    expected, _ = load_model(other / "runs" / "pcl")
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
