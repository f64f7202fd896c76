"""Order, failures and interruptions, wherever cells run; processes that die, and parents that do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.comparison import executors
from lemis.comparison.executors import Report, Task, Work, in_process, in_processes
from lemis.comparison.tasks import environment
from lemis.errors import Interrupted, TrainingStopped, UsageError

Local = Callable[[list[Task], Work, Report], None]


class Heard(list[tuple[str, str, str]]):
    """A report that keeps what it is told."""

    def __call__(self, key: str, state: str, message: str) -> None:
        self.append((key, state, message))

    def states(self, key: str) -> list[str]:
        return [state for heard, state, _ in self if heard == key]

    def message(self, key: str) -> str:
        return next(message for heard, _, message in reversed(self) if heard == key)

    def order(self, state: str) -> list[str]:
        return [key for key, heard, _ in self if heard == state]


def two_at_a_time(tasks: list[Task], work: Work, report: Report) -> None:
    in_processes(tasks, work, report, jobs=2)


everywhere = pytest.mark.parametrize("run", [in_process, two_at_a_time])


# -- what cells do: functions of a module, so that other processes find them ----------------------------------------


def act(payload: tuple[Path, str]) -> None:
    """Write a line that says who ran, or fail in the way asked for."""
    path, what = payload
    with path.open("a") as lines:
        lines.write(f"{what}\n")
    if what.startswith("raise"):
        raise ValueError("two\nlines")
    if what.startswith("usage"):
        raise UsageError("fold 9", allowed="0 to 4", next="--fold 0")
    if what.startswith("exit"):
        raise SystemExit(7)


def die(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "left":
        os._exit(5)


def see(path: Path) -> None:
    import torch

    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MALLOC_TRIM_THRESHOLD_")
    seen = [os.environ.get(name, "") for name in names]
    path.write_text(" ".join([str(os.getpid()), str(torch.get_num_threads()), *seen]))


def train(folder: Path) -> None:
    """As a training does: on SIGTERM a checkpoint, and the end. ``beat`` grows as long as it lives."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    with (folder / "beat").open("a", buffering=1) as beat:
        for _ in range(600):
            beat.write(".")
            beat.flush()
            if told.wait(0.05):
                (folder / "checkpoint").write_text("saved")
                raise Interrupted("stopped after step 3, with a checkpoint")
    raise AssertionError("nobody stopped this training")


def pretrain_for_long(work: Path) -> None:
    from lemis.verbs.pretrain import pretrain

    few = ["steps=100000", "log_every_steps=1"]
    pretrain(work, method="rotation", name="long", preset="tiny", overrides=few, device="cpu")


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.02)


# -- order ----------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Task], set[str]]:
    """Tasks that come after some of the others, listed in any order, and which of them fail."""
    number = draw(st.integers(0, 9))
    needs = [draw(st.sets(st.integers(0, i - 1))) if i else set() for i in range(number)]
    tasks = [Task(str(i), tuple(map(str, sorted(need))), str(i)) for i, need in enumerate(needs)]
    return draw(st.permutations(tasks)), draw(st.sets(st.sampled_from([str(i) for i in range(number)] or ["none"])))


@given(graphs())
def test_each_task_runs_once_after_what_it_needs_or_is_skipped(graph: tuple[list[Task], set[str]]) -> None:
    tasks, failing = graph
    heard, ran = Heard(), list[str]()

    def work(key: str) -> None:
        ran.append(key)
        if key in failing:
            raise RuntimeError(key)

    in_process(tasks, work, heard)

    def lost(key: str) -> bool:  # whether something that it needs, directly or not, fails or is lost
        return any(other in failing or lost(other) for other in by_key[key].after)

    by_key = {task.key: task for task in tasks}
    for task in tasks:
        expected = ["skipped"] if lost(task.key) else ["running", "failed" if task.key in failing else "done"]
        assert heard.states(task.key) == expected
        if not lost(task.key):
            assert all(ran.index(other) < ran.index(task.key) for other in task.after)
    assert sorted(ran) == sorted(key for key in by_key if not lost(key))
    assert ran == heard.order("running")


def test_order_is_as_given_as_soon_as_what_is_needed_is_done() -> None:
    heard = Heard()
    tasks = [Task("c", ("a",), 0), Task("b", (), 0), Task("a", (), 0), Task("d", ("b",), 0)]
    in_process(tasks, lambda _: None, heard)
    assert heard.order("running") == ["b", "a", "c", "d"]


@everywhere
def test_a_failure_takes_with_it_what_comes_after_and_nothing_else(run: Local, tmp_path: Path) -> None:
    heard, path = Heard(), tmp_path / "ran"
    tasks = [
        Task("bad", (), (path, "raise")),
        Task("told", (), (path, "usage")),
        Task("left", (), (path, "exit")),
        Task("good", (), (path, "good")),
        Task("next", ("bad", "good"), (path, "next")),
        Task("last", ("next",), (path, "last")),
        Task("fine", ("good",), (path, "fine")),
    ]
    run(tasks, act, heard)
    assert sorted(path.read_text().split()) == ["exit", "fine", "good", "raise", "usage"]
    assert heard.states("fine") == heard.states("good") == ["running", "done"]
    assert heard.states("next") == heard.states("last") == ["skipped"]
    assert heard.message("next") == heard.message("last") == "because bad failed"
    assert heard.message("bad") == "ValueError: two lines"
    assert heard.message("told") == "fold 9 allowed: 0 to 4 next: --fold 0"
    assert heard.message("left") == "SystemExit: 7"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([Task("a", (), 0), Task("a", (), 1)], "two tasks with the key a"),
        ([Task("a", ("b",), 0)], "a comes after b, which is not among the tasks"),
        ([Task("a", ("b",), 0), Task("b", ("a",), 0)], "cycle"),
    ],
)
def test_what_is_no_order_is_refused_before_anything_runs(tasks: list[Task], said: str) -> None:
    heard = Heard()
    with pytest.raises(ValueError, match=said):
        in_process(tasks, lambda _: None, heard)
    assert heard == []


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="--jobs 0"):
        in_processes([], act, Heard(), jobs=0)


# -- interruptions, here --------------------------------------------------------------------------------------------


def stopped(error: BaseException) -> Work:
    def work(_: Any) -> None:
        raise error

    return work


def told() -> Work:
    """SIGTERM outside of training."""

    def work(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    return work


@pytest.mark.parametrize(
    "work",
    [stopped(KeyboardInterrupt()), stopped(Interrupted("stopped after step 4")), told()],
    ids=["ctrl-c", "sigterm in training", "sigterm"],
)
def test_an_interruption_ends_everything(work: Work) -> None:
    heard, before = Heard(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        in_process([Task("a", (), 0), Task("b", (), 0)], work, heard)
    assert [(key, state) for key, state, _ in heard] == [("a", "running"), ("a", "failed")]
    assert heard.message("a") == "interrupted; the same command goes on with it"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_that_stops_itself_is_one_failed_cell() -> None:
    heard = Heard()
    in_process([Task("a", (), 0), Task("b", (), 0)], stopped(TrainingStopped("the loss is not finite")), heard)
    assert heard.order("failed") == ["a", "b"]
    assert heard.message("a") == "the loss is not finite"


def test_outside_the_main_thread_cells_run_too() -> None:
    heard = Heard()
    thread = threading.Thread(target=in_process, args=([Task("a", (), 0)], lambda _: None, heard))
    thread.start()
    thread.join()
    assert heard.states("a") == ["running", "done"]


# -- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_that_dies_is_one_failed_cell() -> None:
    heard = Heard()
    tasks = [Task(how, (), how) for how in ("killed", "left", "fine")]
    in_processes([*tasks, Task("after", ("killed",), "fine")], die, heard, jobs=2)
    assert (
        heard.message("killed")
        == "its process was ended by SIGKILL: out of memory, most likely; fewer --jobs need less"
    )
    assert heard.message("left") == "its process ended with exit code 5; what it said is on the terminal"
    assert heard.states("fine") == ["running", "done"]
    assert heard.states("after") == ["skipped"]


@pytest.mark.slow
def test_processes_are_fresh_and_share_cores_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # there need be none: PyTorch only counts its threads
    monkeypatch.setattr(executors, "cores", lambda: 2)
    heard = Heard()
    in_processes([Task(str(i), (), tmp_path / str(i), gpus=0.5) for i in range(3)], see, heard, jobs=2)
    assert len(heard.order("done")) == 3, heard
    seen = [(tmp_path / str(i)).read_text().split() for i in range(3)]
    assert len({line[0] for line in seen} | {str(os.getpid())}) == 4  # every cell a process of its own
    assert {(line[1], line[2]) for line in seen} == {("1", "1")}  # threads: 2 cores, 2 at a time
    assert [line[3] for line in seen[:2]] == ["3", "5"]
    assert {line[4] for line in seen} == {str(2**31 - 1)}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert "OMP_NUM_THREADS" not in os.environ


def test_the_users_own_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072")
    assert environment(3) == {}
    assert environment(3, own={}).keys() == {
        "OMP_NUM_THREADS",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
    }


PROGRAM = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
sys.path.insert(0, {tests!r})
import test_executors as t
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        t.{run}([t.Task("a", (), folder), t.Task("b", ("a",), folder)], t.{work}, print)
    except KeyboardInterrupt:
        print("interrupted")
"""


def program(folder: Path, run: str, work: str, begun: str) -> subprocess.Popen[str]:
    """A program that runs ``work(folder)`` and has begun: the file ``begun`` of the folder is there."""
    file = folder / "program.py"
    file.write_text(PROGRAM.format(tests=str(Path(__file__).parent), run=run, work=work))
    process = subprocess.Popen(
        [sys.executable, str(file), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(folder / begun)
    return process


SAID = ["a running ", "a failed interrupted; the same command goes on with it", "interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_waits_for_checkpoints(number: signal.Signals, tmp_path: Path) -> None:
    with program(tmp_path, "two_at_a_time", "train", "beat") as process:
        process.send_signal(number)
        said, complained = process.communicate(timeout=60)
    assert (tmp_path / "checkpoint").read_text() == "saved"
    assert said.splitlines() == SAID
    assert complained == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "number"), [("in_process", signal.SIGTERM), ("two_at_a_time", signal.SIGINT)], ids=["here", "processes"]
)
def test_a_real_training_leaves_its_checkpoint(run: str, number: signal.Signals, work: Path) -> None:
    with program(work, run, "pretrain_for_long", "runs/long/metrics.jsonl") as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert said.splitlines() == SAID
    assert (work / "runs/long/resume.ckpt").exists()
    assert json.loads((work / "runs/long/status.json").read_text())["step"] > 0


@pytest.mark.slow
def test_a_killed_program_leaves_no_training_behind(tmp_path: Path) -> None:
    with program(tmp_path, "two_at_a_time", "train", "beat") as process:
        process.kill()
        process.wait()
        time.sleep(0.5)
        beats = (tmp_path / "beat").stat().st_size
        time.sleep(0.5)
        assert (tmp_path / "beat").stat().st_size == beats
    assert not (tmp_path / "checkpoint").exists()  # another writer may be at work by now
