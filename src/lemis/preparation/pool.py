"""Work on many scans, in as many processes as save time, with a line or a bar of progress."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lemis import children, terminal
from lemis.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
PLAIN_EVERY_S = 5.0


def run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None,
    console: Console,
    done: str,
    *,
    seconds: float,
) -> list[Result]:
    """Do ``work`` on all items, in as many processes as save time for about so many seconds; results in their order."""
    jobs = max(1, min(_processes(seconds) if jobs is None else jobs, len(items)))
    results: dict[int, Result] = {}
    with _progress(console, len(items), done) as advance:
        if jobs == 1:
            # One thread here too: with another number of them, sums are added in another order, and the last bits of
            # an image would depend on the machine.
            with threadpool_limits(1):
                for i, item in enumerate(items):
                    results[i] = work(item)
                    advance(len(results))
        else:
            context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
            pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)
            try:
                waiting = {pool.submit(work, item): i for i, item in enumerate(items)}
                for future in as_completed(waiting):
                    results[waiting[future]] = future.result()
                    advance(len(results))
            except BrokenProcessPool:
                raise UsageError(
                    f"one of {jobs} processes that {done} scans was ended from outside",
                    allowed="memory for as many scans at a time, and nothing that ends the processes",
                    next="the same command with --jobs 1: out of memory, most likely; what is done is kept",
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
    return [results[i] for i in range(len(items))]


def _processes(seconds: float) -> int:
    return min(children.cores(), int(seconds))


def _begin() -> None:
    children.end_with_parent()
    threadpool_limits(1)  # the processes share the cores already
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read when OpenCV is imported; threadpoolctl does not know it


@contextmanager
def _progress(console: Console, total: int, done: str) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal, a line every few seconds elsewhere."""
    if console.is_terminal:
        with terminal.progress(console, done, "{task.fields[rate]}") as bar:
            task, start = bar.add_task(done, total=total, rate=""), time.monotonic()

            def advance(count: int) -> None:
                rate = count / max(1e-9, time.monotonic() - start)
                bar.update(task, completed=count, rate=f"{rate:.1f} scans/s")

            yield advance
        return
    start = said = time.monotonic()

    def say(count: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < PLAIN_EVERY_S and count < total:
            return
        rate, said = count / max(1e-9, now - start), now
        console.print(f"{done} {count}/{total} scans, {rate:.1f} scans/s, {(total - count) / rate:.0f} s left")

    yield say
