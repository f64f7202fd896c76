"""(l) How long a command takes to be refused, and to say its first line: a process each, as it is typed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lemis import phantom

TITLE = "(l) From the shell: refusals, and the first line of a command that goes on"
ROUNDS = 5
REFUSED = (
    ("fit", "nowhere"),
    ("fit", "scans", "--method", "simclear"),
    ("fit", "scans", "pretrain.epoch=3"),
    ("fit", "scans", "prepare.spacing_mm=inf"),
    ("compare", "scans", "--plan", "defalt"),
    ("segment-one", "nowhere.png", "-o", "mask.png", "clusters=0"),
    ("pretrain", "nowhere"),
    ("predict", "nowhere"),
    ("evaluate", "nowhere"),
    ("report", "nowhere"),
)
GOES_ON = (("check", "scans"), ("fit", "scans", "-o", "work", "--preset", "tiny", "--method", "scratch", "--fold", "0"))


def rows() -> list[dict[str, object]]:
    """One row a command; medians over rounds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        phantom.write_dataset(folder / "scans", kind="heart", subjects=4, labelled=4, shape=(48, 48, 4))
        measured = [(words, "refused", [_whole(words, folder) for _ in range(ROUNDS)]) for words in REFUSED]
        measured += [(words, "first line", [_first_line(words, folder) for _ in range(ROUNDS)]) for words in GOES_ON]
    return [
        {
            "command": " ".join(("lemis", *words)), "until": until,
            "core-seconds": f"{statistics.median(core for core, _ in times):.2f}",
            "seconds": f"{statistics.median(wall for _, wall in times):.2f}",
        }
        for words, until, times in measured
    ]  # fmt: skip


def _whole(words: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Core-seconds and seconds of the whole process, which must end with a refusal."""
    begin, core = time.perf_counter(), _core_seconds()
    done = subprocess.run([sys.executable, "-m", "lemis", *words], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr.decode()
    return _core_seconds() - core, time.perf_counter() - begin


def _first_line(words: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Core-seconds and seconds until the first line on stderr or stdout; the process is ended then."""
    begin, core = time.perf_counter(), _core_seconds()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "lemis", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        wall = time.perf_counter() - begin
        process.kill()
    return _core_seconds() - core, wall


def _core_seconds() -> float:
    # Of the processes that this one has waited for.
    times = os.times()
    return times.children_user + times.children_system
