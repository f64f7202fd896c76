"""The command line: arguments to verbs, errors to exit codes. No logic; verbs are imported when they run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lemis import plugins
from lemis.cli.commands import HEAVY, app
from lemis.errors import Interrupted, LemisError, of_disk


def main() -> None:
    """Entry point of ``lemis``: runs a verb and ends the process.

    Exit codes: see ``commands.EXIT_CODES``.
    """
    if HEAVY.intersection(sys.argv[1:2]):
        keep_freed_memory()
    with contextlib.suppress(FileNotFoundError):  # the folder was deleted
        plugins.search(Path.cwd())
    again = shlex.join(["lemis", *sys.argv[1:]])
    try:
        with _told_to_end():
            try:
                app(prog_name="lemis")
            except SystemExit as ended:
                sys.stdout.flush()  # here, where a full disk behind it can still be said
                if ended.code == 130:  # what Ctrl-C becomes on its way through the parser of the command line
                    raise KeyboardInterrupt from None
                raise
    except Interrupted as error:
        _end(f"{error}; the same command goes on from there\n  next:    {again}", error.exit_code)
    except KeyboardInterrupt:
        _end(f"interrupted; what is finished is kept, and the same command goes on\n  next:    {again}", 130)
    except LemisError as error:
        _end(f"error: {error}", error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and (fault := of_disk(error, again=again)):
            _end(f"error: {fault}", fault.exit_code)
        traceback.print_exc()
        print(
            "\nThis is a fault of Lemis, not yours: please report it with the lines above.",
            file=sys.stderr,
        )
        sys.exit(1)


def _end(said: str, exit_code: int) -> NoReturn:
    print(said, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # whoever reads it is gone or full, which was said; Python would say it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends everything as Ctrl-C does; SIGUSR1 asks a training for a checkpoint, and means nothing elsewhere.

    Threads that write (TensorBoard's) leave errors of the disk to the main one, which meets them too.
    """
    before = threading.excepthook

    def unless_of_disk(unraised: threading.ExceptHookArgs) -> None:
        if not (isinstance(unraised.exc_value, OSError) and of_disk(unraised.exc_value)):
            before(unraised)

    handlers: dict[str, Any] = {"SIGTERM": signal.default_int_handler, "SIGUSR1": signal.SIG_IGN}
    there = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    were = {number: signal.signal(number, handler) for number, handler in there.items()}
    threading.excepthook = unless_of_disk
    try:
        yield
    finally:
        threading.excepthook = before
        for number, handler in were.items():
            signal.signal(number, handler)


def keep_freed_memory() -> bool:
    """Tell glibc to reuse the memory of freed tensors, not to hand it back to the system (decision 0002).

    Returns:
        Whether it was set: False where the C library is not glibc, or the user's environment already decides.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(m_mmap_threshold, 2**30)) and bool(libc.mallopt(m_trim_threshold, 2**31 - 1))
