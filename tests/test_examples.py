"""What ``examples/`` shows runs as it stands, and is short enough to be read (papers/test_superpoint.py runs one)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(*words, cwd=ROOT):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_are_those_that_are_run_here():
    assert EXAMPLES == ["own_method.py", "own_pytorch.py", "own_scans.py", "superpoint.py"]
    for name in EXAMPLES:
        assert len((ROOT / "examples" / name).read_text().splitlines()) < 75, name


@pytest.mark.slow
def test_own_scans_end_with_a_report(tmp_path):
    printed = run("examples/own_scans.py", tmp_path)
    assert "label maps: heart_001.nii.gz" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "work" / "report" / "index.html")
    assert "pcl-m4-fold0" in (tmp_path / "work" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_own_pytorch_learns_heights(tmp_path):
    printed = run("examples/own_pytorch.py", tmp_path)
    error = float(printed.splitlines()[-1].removeprefix("mean error: ").partition("%")[0])
    assert error < 14  # half of what is reached without looking


@pytest.mark.slow
def test_an_own_method_keeps_its_promises_and_trains(work):
    printed = run("-m", "lemis", "check-method", "examples.own_method")
    assert "0 failed" in printed
    run("-m", "lemis", "pretrain", work, "--method", "examples.own_method", "--preset", "tiny", "method.size_px=32")
    assert (work / "runs" / "examples.own_method" / "model.safetensors").is_file()
