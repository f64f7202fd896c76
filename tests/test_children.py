"""No process outlives the one that it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lemis import terminal
from lemis.errors import UsageError
from lemis.preparation import pool

PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from test_children import begun_and_waiting
from lemis import children, terminal
from lemis.preparation import pool

folder = Path(sys.argv[1])
if __name__ == "__main__":
    {run}
"""
POOL = 'pool.run(begun_and_waiting, [folder / "a", folder / "b"], 2, terminal.console(), "prepared", seconds=0)'
CELL = """
    import multiprocessing
    packed = children.pack(begun_and_waiting, folder / "a")
    process = multiprocessing.get_context("spawn").Process(target=children.unpack_and_run, args=(packed,))
    process.start()
    process.join()
"""


def begun_and_waiting(file: Path) -> None:
    """The work of a child that is not done soon; writes down who it is."""
    part = file.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(file)
    time.sleep(120)


def wait_for(there: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, f"{what}: waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, but nobody has asked after it


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("run", "names"), [(POOL, ("a", "b")), (CELL, ("a",))], ids=["prepare", "compare"])
def test_children_end_with_their_parent_however_it_ends(
    run: str, names: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(tests=str(Path(__file__).parent), run=run))
    with subprocess.Popen([sys.executable, str(file), str(tmp_path)]) as process:
        wait_for(lambda: all((tmp_path / name).exists() for name in names), "the children's beginning")
        pids = [int((tmp_path / name).read_text()) for name in names]
        assert all(map(is_alive, pids))
        process.send_signal(number)
        process.wait(timeout=60)
    wait_for(lambda: not any(map(is_alive, pids)), "the children's end")


def ended_from_outside(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 processes that prepared scans was ended") as caught:
        pool.run(ended_from_outside, [tmp_path, tmp_path], 2, terminal.console(), "prepared", seconds=0)
    assert "--jobs 1" in caught.value.next
