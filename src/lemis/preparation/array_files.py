"""One array per file, memory-mapped; its header and its length tell whether it is whole."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lemis import files
from lemis.errors import UsageError


class Form(NamedTuple):
    """What an array file is to hold."""

    shape: tuple[int, ...]
    dtype: DTypeLike


def read(path: Path, form: Form) -> NDArray[Any]:
    """The array in a file, memory-mapped, read-only.

    Raises:
        UsageError: It is gone or damaged.
    """
    # The time stamp is part of the key, so that a scan prepared anew is not read from the old file.
    name = os.fspath(path)
    try:
        stamp = os.stat(name).st_mtime_ns
    except FileNotFoundError:
        raise damaged(path, "it is gone") from None
    return _mapped(name, stamp, form)


@lru_cache(maxsize=256)  # each open map holds a file descriptor; 1024 is a common limit
def _mapped(name: str, stamp: int, form: Form) -> NDArray[Any]:  # noqa: ARG001
    fault = fault_of(Path(name), form)
    if fault is not None:
        raise damaged(Path(name), fault)
    array: NDArray[Any] = np.load(name, mmap_mode="r")
    return array


def fault_of(file: Path, form: Form) -> str | None:
    """What is wrong with an array file, judged by its header and its length; None if it is whole."""
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                return f"version {version} of the format"
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            begins = stream.tell()
        length = file.stat().st_size
    except OSError as error:
        return error.strerror or "it cannot be read"
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:  # of its header
        return str(error).partition("\n")[0] or "its header cannot be read"
    if (shape, fortran, dtype) != (form.shape, False, np.dtype(form.dtype)):
        return f"shape {shape} of {dtype}, not {form.shape} of {np.dtype(form.dtype)}"
    if length != begins + math.prod(shape) * dtype.itemsize:
        return f"{length} bytes, not {begins + math.prod(shape) * dtype.itemsize}"
    return None


def damaged(file: Path, fault: str) -> UsageError:
    """The error for a damaged file of prepared scans."""
    return UsageError(
        f"{file} is damaged: {fault}",
        allowed="prepared scans as they were written",
        next=f"lemis prepare {file.parent.parent}",
    )


def write(path: Path, array: NDArray[Any]) -> None:
    """Write the whole array, or nothing."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))
