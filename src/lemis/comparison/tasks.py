"""Tasks: a cell as an executor sees it, and the order in which cells run."""

from __future__ import annotations

import graphlib
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

from lemis.errors import Interrupted, LemisError, of_disk


class Task(NamedTuple):
    """One cell, as far as an executor knows it."""

    key: str
    after: tuple[str, ...]  # keys of the tasks that it needs
    payload: Any  # what ``work`` is called with; picklable, its paths seen from every machine
    gpus: float = 0.0  # 0.25: four of them share a GPU


Work = Callable[[Any], None]  # a function of a module, picklable; leaves files; raises where it fails
Report = Callable[[str, str, str], None]  # key, state (running, done, failed, skipped, retried), message

GRACE_S = 60.0  # that a training on a cluster has for its checkpoint: one step in 3D on a CPU, and writing


@final
class Schedule:
    """Which tasks may begin, and what became of the others; every change is reported.

    As a context: tasks that run when it is left by an exception are reported as failed.
    """

    def __init__(self, tasks: Sequence[Task], report: Report) -> None:
        self._report = report
        self._waiting = {task.key: task for task in tasks}  # in the order given
        self._running: set[str] = set()
        self._done: set[str] = set()
        if len(self._waiting) < len(tasks):
            twice = [key for key, number in Counter(task.key for task in tasks).items() if number > 1]
            raise ValueError(f"two tasks with the key {twice[0]}")
        for task in tasks:
            if unknown := [key for key in task.after if key not in self._waiting]:
                raise ValueError(f"{task.key} comes after {unknown[0]}, which is not among the tasks")
        graphlib.TopologicalSorter({task.key: task.after for task in tasks}).prepare()  # raises where there is a ring

    def ready(self) -> Iterator[Task]:
        """Those that wait for nothing more, in the order given."""
        return (task for task in self._waiting.values() if self._done.issuperset(task.after))

    def begin(self, task: Task) -> None:
        """It runs from now on."""
        del self._waiting[task.key]
        self._running.add(task.key)
        self._report(task.key, "running", "")

    def settle(self, task: Task, fault: str | None) -> None:
        """It is done (``fault`` None) or failed, and then what comes after it is skipped."""
        self._running.remove(task.key)
        if fault is None:
            self._done.add(task.key)
            self._report(task.key, "done", "")
            return
        self._report(task.key, "failed", fault)
        lost = {task.key}
        while after := next((other for other in self._waiting.values() if lost.intersection(other.after)), None):
            del self._waiting[after.key]
            lost.add(after.key)
            self._report(after.key, "skipped", f"because {task.key} failed")

    def __enter__(self) -> Schedule:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for key in sorted(self._running):
                self._report(key, "failed", "interrupted; the same command goes on with it")


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does (a training that runs here writes its checkpoint first)."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python takes no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def attempt(work: Work, payload: Any) -> str | None:
    """Run a task; None, or its error on one line."""
    try:
        work(payload)
    except Interrupted as error:  # not a fault of the cell: somebody wants the whole comparison to end
        raise KeyboardInterrupt from error
    except (Exception, SystemExit) as error:
        return one_line(error)
    return None


def attempt_alone(work: Work, payload: Any) -> str | None:
    """``attempt`` in a process of the cell's own, which SIGTERM ends alone."""
    try:
        return attempt(work, payload)
    except KeyboardInterrupt:
        return "SIGTERM: stopped with a checkpoint; the same command goes on with it"


def one_line(error: BaseException) -> str:
    """The error without its traceback, which is in the cell's log."""
    if isinstance(error, OSError):
        error = of_disk(error) or error
    lines = [str(error)] if isinstance(error, LemisError) else traceback.format_exception_only(error)
    return " ".join("".join(lines).split())


def environment(threads: int, own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a process of a cell, before it imports PyTorch: its threads, and freed memory kept (docs/decisions/0002).

    What the user's ``own`` environment already decides stays.
    """
    wanted = {"OMP_NUM_THREADS": str(threads)}
    if "GLIBC_TUNABLES" not in own:
        wanted |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    return {name: value for name, value in wanted.items() if name not in own}
