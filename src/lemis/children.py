"""Processes that work for this one. They end when it does, however that ended: SIGTERM and kill -9 leave nobody behind.

Light to import, so that a child looks after its parent before it imports what it works with.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """From here on this process ends at once when the one that started it has ended; Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess | None) -> None:
    assert parent is not None, "a child"
    parent.join()
    os._exit(1)  # without a checkpoint: the same command may run again by now, and nothing may have two writers


def pack(work: Callable[..., object], *arguments: Any) -> bytes:
    """What ``unpack_and_run`` is told to do."""
    return pickle.dumps((work, arguments))


def unpack_and_run(packed: bytes, *more: Any) -> None:
    """The target of a child: ``work(*arguments, *more)``, whose modules are imported only now."""
    end_with_parent()
    work, arguments = pickle.loads(packed)
    work(*arguments, *more)
