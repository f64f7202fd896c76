"""Runs the command line on mutated inputs: each in a process of its own, forked from one with warm imports.

A module of this folder makes the inputs of one kind: ``cases(rng)`` is an endless stream of ``Case``. What may come
of one: it is refused in words (*clean*), or read (*accepted*). Anything else is a fault of ours, and so is a refusal
(*refused*) of an input that is good.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_S = 20.0  # on a machine that does nothing else; LEMIS_FUZZ_PATIENCE_S on slower ones
MOST_MB = 900.0
_LIMIT_BYTES = 12 * 2**30  # of addresses: what asks for more gets a MemoryError, and the machine lives
_WARM = [
    "lemis.cli", "lemis.verbs.check", "lemis.verbs.fit", "lemis.verbs.compare", "lemis.verbs.report",
    "lemis.verbs.segment_one", "nibabel", "SimpleITK", "PIL.Image",
]  # fmt: skip
GOOD = ("accepted", "clean")


def _nothing(_folder: Path, _said: str) -> str | None:
    return None


@dataclass(frozen=True)
class Case:
    """One input and the command that reads it."""

    kind: str  # "nifti", "dataset.json": a row of the table
    name: str  # what was changed
    build: Callable[[Path], Any]  # writes the input into an empty folder
    argv: tuple[str, ...]  # words after ``lemis``; they run inside that folder
    nonsense: Callable[[Path, str], str | None] = _nothing  # (folder, output) -> what was accepted and must not be
    good: bool = False  # nothing is wrong with it, so it must be read


class Outcome(NamedTuple):
    """What came of it."""

    verdict: str  # accepted, clean, traceback, crash, hang, memory, nonsense, refused
    exit_code: int | None  # None where it had to be ended; negative where a signal ended it
    peak_mb: float
    said: str  # stdout and stderr


def try_case(case: Case, folder: Path) -> Outcome:
    """Build a case in ``folder``, which is empty, and run its command there."""
    case.build(folder)
    outcome = run(case.argv, folder)
    if outcome.exit_code == 0 and outcome.verdict == "accepted":
        reason = case.nonsense(folder, outcome.said)
        if reason is not None:
            return outcome._replace(verdict="nonsense", said=f"{reason}\n{outcome.said}")
    if case.good and outcome.verdict == "clean":
        return outcome._replace(verdict="refused")
    return outcome


def run(argv: Sequence[str], folder: Path) -> Outcome:
    """``lemis argv`` in ``folder``, and what came of it (never ``nonsense`` or ``refused``: only a case knows)."""
    with tempfile.TemporaryDirectory() as place:
        said, peak = Path(place) / "said", Path(place) / "peak"
        process = _forks().Process(target=_command, args=(tuple(argv), folder, said, peak))
        process.start()
        process.join(float(os.environ.get("LEMIS_FUZZ_PATIENCE_S", PATIENCE_S)))
        hung = process.is_alive()
        if hung:
            _end(process)
        text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
        peak_mb = float(peak.read_text()) if peak.exists() else 0.0
        code = None if hung else process.exitcode
        process.close()
    return Outcome(_verdict(code, text, peak_mb), code, peak_mb, text)


def _verdict(code: int | None, said: str, peak_mb: float) -> str:
    if code is None:
        return "hang"
    if code < 0:
        return "crash"
    if code not in (0, 2, 3) or re.search(r"^Traceback \(most recent|This is a fault of Lemis", said, re.MULTILINE):
        return "traceback"
    if peak_mb > MOST_MB:
        return "memory"
    return "accepted" if code == 0 else "clean"


@cache
def _forks() -> Any:
    # A server that is forked: it never computes, so no thread of a library is lost on the way into a child.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WARM)
    return context


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _command(argv: tuple[str, ...], folder: Path, said: Path, peak: Path) -> None:
    from lemis.cli import main

    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    with said.open("wb") as out, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
    sys.argv = ["lemis", *argv]
    os.environ |= {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        peak.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
