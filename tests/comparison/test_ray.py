"""A real Ray cluster of two workers on this machine: order and failures, a worker that is killed, an interruption."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lemis.comparison import ray_cluster
from lemis.comparison.executors import Task, on_ray
from lemis.errors import Interrupted, UsageError

needs_ray = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install lemis[ray]"),
    # Ray leaves log files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::DeprecationWarning:ray.*"),
]


class Heard(list[tuple[str, str, str]]):
    """A report that keeps what it is told."""

    def __call__(self, key: str, state: str, message: str) -> None:
        self.append((key, state, message))

    def states(self, key: str) -> list[str]:
        return [state for heard, state, _ in self if heard == key]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers, started as `--on ray` does on a machine of two cores."""
    patch = pytest.MonkeyPatch()
    patch.setattr(ray_cluster, "cores", lambda: 2)
    # Workers find the functions of this file as this process does.
    patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    with ray_cluster.ray_cluster("ray"):
        yield
    patch.undo()
    import ray

    assert not ray.is_initialized()


def act(payload: tuple[Path, str]) -> None:
    """Leave a file with this process's number; fail, or wait to be killed, where asked to, the first time."""
    folder, name = payload
    tries = len(list(folder.glob(f"{name}.try*")))
    (folder / f"{name}.try{tries}").write_text(str(os.getpid()))
    if name.startswith("bad"):
        raise ValueError("this cell is bad")
    if name.startswith("victim") and (tries == 0 or name == "victim-always"):
        time.sleep(120)
        raise AssertionError("nobody killed this worker")
    (folder / name).write_text(os.environ["OMP_NUM_THREADS"])


def train(folder: Path) -> None:
    """As a training does: on SIGTERM a checkpoint, and the end."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    (folder / "begun").touch()
    for _ in range(1200):
        time.sleep(0.05)
        if told.is_set():
            (folder / "checkpoint").write_text("saved")
            raise Interrupted("stopped after step 3, with a checkpoint")
    raise AssertionError("nobody stopped this training")


def wait_for(path: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.05)


def listening() -> set[str]:
    """Addresses, in hexadecimal as the kernel writes them, at which this process and its descendants listen."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[status.parent.name] = status.read_text().rsplit(")", 1)[1].split()[1]
    ours = {str(os.getpid())}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    sockets = set()
    for process in ours:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}


class TestRay:
    pytestmark = needs_ray

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; elsewhere Ray keeps to the loopback by itself")
    def test_nothing_listens_but_on_the_loopback(self, cluster: None) -> None:
        """Whoever reaches a port of Ray runs what they like on this machine."""
        found = listening()
        assert found
        assert {address for address in found if not address.endswith("0100007F")} == set()

    def test_a_killed_worker_is_replaced_and_every_cell_done(self, cluster: None, tmp_path: Path) -> None:
        def kill() -> None:
            wait_for(tmp_path / "victim.try0")
            os.kill(int((tmp_path / "victim.try0").read_text()), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        heard = Heard()
        tasks = [
            Task(name, after, (tmp_path, name))
            for name, after in [
                ("victim", ()),
                ("b", ()),
                ("c", ("b",)),
                ("d", ("victim",)),
                ("bad", ()),
                ("e", ("bad",)),
            ]
        ]
        on_ray(tasks, act, heard, address="ray")
        killer.join()
        assert heard.states("victim") == ["running", "retried", "done"]
        assert ("victim", "retried", "its worker was lost (WorkerCrashedError); try 2 of 4") in heard
        for name in "bcd":
            assert heard.states(name) == ["running", "done"]
            assert (tmp_path / name).read_text() == "1"  # thread: the core that it has
        assert heard.states("bad") == ["running", "failed"]  # once: an error of the work is not tried again
        assert ("bad", "failed", "ValueError: this cell is bad") in heard
        assert ("e", "skipped", "because bad failed") in heard
        processes = {path.read_text() for path in tmp_path.glob("*.try*")}
        assert len(processes) == 5 + 1  # each cell its own, the killed one two
        started = [key for key, state, _ in heard if state == "running"]
        assert started[:2] == ["victim", "b"]
        assert started.index("c") < started.index("d") or started.index("bad") < started.index("d")

    def test_a_worker_that_is_lost_again_and_again_fails(self, cluster: None, tmp_path: Path) -> None:
        def kill() -> None:
            for number in range(2):
                wait_for(tmp_path / f"victim-always.try{number}")
                os.kill(int((tmp_path / f"victim-always.try{number}").read_text()), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        heard = Heard()
        on_ray([Task("v", (), (tmp_path, "victim-always"))], act, heard, address="ray", retries=1)
        killer.join()
        assert heard.states("v") == ["running", "retried", "failed"]
        assert heard[-1][2] == "its worker was lost (WorkerCrashedError), 2 times"

    def test_an_interruption_waits_for_checkpoints(self, cluster: None, tmp_path: Path) -> None:
        def interrupt() -> None:
            end = time.monotonic() + 120
            while not (tmp_path / "begun").exists() and time.monotonic() < end:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=interrupt).start()
        heard = Heard()
        with pytest.raises(KeyboardInterrupt):
            on_ray([Task("a", (), tmp_path), Task("b", ("a",), tmp_path)], train, heard, address="ray")
        assert (tmp_path / "checkpoint").read_text() == "saved"
        assert heard[-1] == ("a", "failed", "interrupted; the same command goes on with it")
        assert heard.states("b") == []

    def test_a_cell_that_no_node_could_take_is_refused(self, cluster: None, tmp_path: Path) -> None:
        heard = Heard()
        with pytest.raises(UsageError, match="a cell that needs 8 GPUs on a cluster with"):
            on_ray([Task("a", (), (tmp_path, "a"), gpus=8)], act, heard, address="ray")
        with pytest.raises(UsageError, match="a cell that needs 3 cores on a cluster with 2"):
            on_ray([Task("a", (), (tmp_path, "a"))], act, heard, address="ray", cores_each=3)
        assert heard == []


def fake_ray(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    exceptions = SimpleNamespace(RayError=RuntimeError)
    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, exceptions=exceptions, **parts)
    )


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(UsageError, match=r"pip install 'lemis\[ray\]'"):
        on_ray([], act, Heard(), address="ray")


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch)
    with pytest.raises(UsageError, match="--on slurm"):
        on_ray([], act, Heard(), address="slurm")


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("no one")

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    fake_ray(monkeypatch, init=init)
    with pytest.raises(UsageError, match="--on auto: no Ray cluster answers"):
        on_ray([], act, Heard(), address="auto")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"  # Ray is told to report nothing to its makers
