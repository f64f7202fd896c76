"""Where the cells of a comparison run: in this process, in several, or on a Ray cluster. (SLURM: ``slurm.py``.)

A cell leaves files and returns nothing, so an executor only keeps the order: as given, and after what a cell needs. One
that fails takes those after it with it and no other. Ctrl-C and SIGTERM end alike, with KeyboardInterrupt: trainings in
other processes are told to write their checkpoint and are waited for, and the same tasks go on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from lemis import children
from lemis.children import cores
from lemis.comparison.ray_cluster import on_ray as on_ray
from lemis.comparison.tasks import GRACE_S, Schedule, attempt, attempt_alone, environment, sigterm_interrupts
from lemis.comparison.tasks import Report as Report
from lemis.comparison.tasks import Task as Task
from lemis.comparison.tasks import Work as Work
from lemis.errors import UsageError


def in_process(tasks: Sequence[Task], work: Work, report: Report) -> None:
    """Run tasks one after the other, in this process.

    Raises:
        ValueError: Two tasks with one key, a need that is no task, or a ring of needs.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    schedule = Schedule(tasks, report)
    with sigterm_interrupts(), schedule:
        while task := next(schedule.ready(), None):
            schedule.begin(task)
            schedule.settle(task, attempt(work, task.payload))


def in_processes(tasks: Sequence[Task], work: Work, report: Report, *, jobs: int) -> None:
    """Run ``jobs`` tasks at a time, each in a fresh process: its peak memory is its own; if it dies, one cell fails.

    The processes share the machine's cores, and its GPUs in turn.

    Raises:
        UsageError: ``jobs`` is not positive.
        ValueError: As ``in_process``.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a second one does not wait for checkpoints.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}", allowed="1 or more processes", next="--jobs 2")
    schedule, running = Schedule(tasks, report), dict[Any, _Child]()  # by the pipe that the answer comes through
    devices = _devices() if any(task.gpus for task in tasks) else []
    with sigterm_interrupts(), schedule:
        try:
            while True:
                while len(running) < jobs and (task := next(schedule.ready(), None)):
                    slot = min(set(range(jobs)) - {child.slot for child in running.values()})
                    place = {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if task.gpus and devices else {}
                    schedule.begin(task)
                    child = _start(task, work, slot, environment(max(1, cores() // jobs)) | place)
                    running[child.answer] = child
                if not running:
                    break
                for answer in connection.wait(list(running)):
                    child = running.pop(answer)
                    schedule.settle(child.task, _answer(child))
        finally:
            _end([child.process for child in running.values()])


class _Child(NamedTuple):
    task: Task
    process: SpawnProcess
    answer: connection.Connection
    slot: int  # 0 to jobs - 1; the smallest that was free


def _start(task: Task, work: Work, slot: int, surroundings: Mapping[str, str]) -> _Child:
    fresh = multiprocessing.get_context("spawn")
    receive, send = fresh.Pipe(duplex=False)
    packed = children.pack(_in_child, work, task.payload)
    process = fresh.Process(target=children.unpack_and_run, args=(packed, send), name=f"lemis {task.key}")
    before = dict(os.environ)
    os.environ.update(surroundings)  # a started process takes the environment that it finds
    try:
        process.start()
    finally:
        for name in surroundings.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        send.close()  # so that the child's death is the end of the pipe
    return _Child(task, process, receive, slot)


def _in_child(work: Work, payload: Any, answer: connection.Connection) -> None:
    answer.send(attempt_alone(work, payload))


def _answer(child: _Child) -> str | None:
    """What the child said of its task, or how it died."""
    try:
        fault: str | None = child.answer.recv()
        child.process.join(timeout=GRACE_S)  # a thread of somebody's may not want to end
        child.process.kill()
        child.process.join()
    except EOFError:
        child.process.join()
        fault = _death(child.process.exitcode)
    child.process.close()
    child.answer.close()
    return fault


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code}; what it said is on the terminal"
    hint = ": out of memory, most likely; fewer --jobs need less" if -code == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{hint}"


def _end(processes: Sequence[SpawnProcess]) -> None:
    """SIGTERM, and wait; who interrupts the wait ends them at once."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def _devices() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch  # here, because only cells on GPUs need it

    return [str(number) for number in range(torch.cuda.device_count())]
