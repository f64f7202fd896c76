"""The cells of a comparison on a Ray cluster, which is joined, or started on this machine."""

from __future__ import annotations

import importlib
import os
import signal
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lemis.children import cores
from lemis.comparison.tasks import (
    GRACE_S,
    Report,
    Schedule,
    Task,
    Work,
    attempt_alone,
    environment,
    one_line,
    sigterm_interrupts,
)
from lemis.errors import UsageError


def on_ray(
    tasks: Sequence[Task], work: Work, report: Report, *, address: str, retries: int = 3, cores_each: int = 1
) -> None:
    """Run tasks on a Ray cluster, as many at a time as it has cores and GPUs for. Tasks of lost workers run again.

    Results are files, so every node sees the work folder under the same path and has Lemis installed.

    Args:
        tasks: In the order wanted.
        work: As everywhere.
        report: Called in this process.
        address: ``ray`` starts a cluster on this machine, which listens to this machine only, and stops it at the
            end; ``auto`` joins the one that this machine belongs to, ``ray://host:port`` one elsewhere.
        retries: After lost workers, for each task; one that raises is not tried again.
        cores_each: For a task.

    Raises:
        UsageError: Ray is not installed, there is no such cluster, or it is too small for a task.
        ValueError: As ``in_process``.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    ray, schedule = _import_ray(), Schedule(tasks, report)
    with ray_cluster(address), sigterm_interrupts(), schedule:
        for task in tasks:
            _refuse_too_large(task, cores_each, ray.cluster_resources())
        # One call, one process, as in `in_processes`. Retries are ours: Ray's own are not told to anyone.
        remote = ray.remote(max_calls=1, max_retries=0)(_on_worker)
        surroundings = {"env_vars": environment(cores_each, own={})}
        tries, running = Counter[str](), dict[Any, Task]()

        def submit(task: Task) -> None:
            options = {"num_cpus": cores_each, "num_gpus": task.gpus, "runtime_env": surroundings, "name": task.key}
            tries[task.key] += 1
            running[remote.options(**options).remote(work, task.payload)] = task

        try:
            while True:
                while fitting := _next_that_fits(schedule, running.values(), cores_each, ray.cluster_resources()):
                    schedule.begin(fitting)
                    submit(fitting)
                if not running:
                    break
                for reference in ray.wait(list(running), timeout=1.0)[0]:
                    task = running.pop(reference)
                    try:
                        schedule.settle(task, ray.get(reference))
                    except _lost_worker(ray) as error:
                        text = f"its worker was lost ({type(error).__name__})"
                        if tries[task.key] > retries:
                            schedule.settle(task, f"{text}, {tries[task.key]} times")
                        else:
                            report(task.key, "retried", f"{text}; try {tries[task.key] + 1} of {retries + 1}")
                            submit(task)
                    except ray.exceptions.RayError as error:  # Lemis is not installed there, say
                        schedule.settle(task, one_line(error))
        finally:
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Started or joined, and left again at the end; where this process already belongs to one, that is taken.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    if address not in ("ray", "auto") and not address.startswith("ray://"):
        raise UsageError(f"--on {address}", allowed="ray, auto, or ray://HOST:PORT", next="--on ray")
    quiet = {"logging_level": "error", "log_to_driver": False}  # each cell has a log of its own
    local = {"address": "local", "num_cpus": cores(), "include_dashboard": False, "object_store_memory": 2**27}
    # Ray reports its use to its makers unless told otherwise, and Lemis sends nothing anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\b")  # what matters comes as an error
            if address == "ray":
                with _loopback_only():
                    ray.init(**quiet, **local)
            else:
                ray.init(**quiet, address=address)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise UsageError(
            f"--on {address}: no Ray cluster answers ({one_line(error)})",
            allowed="a cluster that runs (`ray start --head`), with the same versions of Python and Ray as here",
            next="RAY_AUTH_MODE=token where the cluster asks for Ray's token; --on ray for one on this machine",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback_only() -> Iterator[None]:
    """A cluster that is started listens on the loopback: whoever reaches a port of Ray runs what they like.

    Ray's servers listen everywhere unless the node's address is the loopback, which on Linux it takes only by the
    variable that says so on other systems. Where the user has set that, it stands.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")  # read from the variable as Ray was imported
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    if name in os.environ:
        yield
        return
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    os.environ[name] = "0"  # for the processes that Ray starts
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]


def _import_ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))  # Ray's own, about itself
            return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UsageError(
            "Ray is not installed", allowed="--jobs N without it", next="pip install 'lemis[ray]'"
        ) from None


def _on_worker(work: Work, payload: Any) -> str | None:
    """On a worker of the cluster. Ray cancels by SIGINT; a training writes its checkpoint on SIGTERM."""

    def pass_on(*_: int | FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, pass_on)
    return attempt_alone(work, payload)


def _lost_worker(ray: Any) -> tuple[type[Exception], ...]:
    """The process, its node, or the little that it returned is gone; the task itself has done nothing wrong."""
    names = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "OutOfMemoryError", "ObjectLostError")
    return tuple(getattr(ray.exceptions, name) for name in names)


def _next_that_fits(
    schedule: Schedule, running: Iterable[Task], cores_each: int, there: Mapping[str, float]
) -> Task | None:
    """Ray would take all at once and keep them in an order of its own; a task given out should soon begin."""
    running = list(running)
    gpus = there.get("GPU", 0.0) - sum(task.gpus for task in running)
    free = there.get("CPU", 0.0) - cores_each * len(running)
    fitting = (task for task in schedule.ready() if not running or (free >= cores_each and gpus >= task.gpus))
    return next(fitting, None)


def _refuse_too_large(task: Task, cores_each: int, there: Mapping[str, float]) -> None:
    for need, name, unit in ((task.gpus, "GPU", "GPUs"), (cores_each, "CPU", "cores")):
        if need > there.get(name, 0.0):
            raise UsageError(
                f"a cell that needs {need:g} {unit} on a cluster with {there.get(name, 0.0):g}",
                allowed="a cluster whose nodes have joined",
                next="`ray status` on the cluster shows its nodes; --device cpu needs no GPU",
            )
