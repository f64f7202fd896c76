"""NumPy's archives of arrays (``.npz``), read whole, whatever is wrong with them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemis.errors import UsageError

# What NumPy and zipfile raise of damaged files; found by changing bytes at random.
_OF_DAMAGE = (
    OSError, EOFError, KeyError, ValueError, TypeError, SyntaxError, MemoryError, RuntimeError, NotImplementedError,
    zlib.error, TokenError, zipfile.BadZipFile,
)  # fmt: skip


class Damaged(Exception):
    """Why a file cannot be used, in a line."""


def damaged(path: Path, fault: Exception, next: str) -> UsageError:
    """The error for an archive that is read back where it was written."""
    return UsageError(
        f"{path} is damaged: {str(fault).partition(chr(10))[0]}", allowed="the file as it was written", next=next
    )


def read(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these names; nothing is unpickled.

    Raises:
        FileNotFoundError: There is no such file.
        Damaged: It cannot be read, or lacks one of them.
    """
    try:
        # Opened here: NumPy does not close a file that is not in its format.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in names}
    except FileNotFoundError:
        raise
    except _OF_DAMAGE as error:
        raise Damaged(str(error).partition("\n")[0]) from None
