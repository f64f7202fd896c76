"""The modules of inputs: every file of this folder that has ``cases``, with the share of inputs that it gets."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fuzz.harness import Case


class Stream(NamedTuple):
    """One module of inputs."""

    cases: Callable[[random.Random], Iterator[Case]]
    weight: float  # WEIGHT of the module; 1 where it names none


def _streams() -> dict[str, Stream]:
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem not in ("__init__", "__main__", "harness", "streams") and not file.stem.startswith("test_"):
            module = importlib.import_module(f"fuzz.{file.stem}")
            found[file.stem] = Stream(module.cases, getattr(module, "WEIGHT", 1.0))
    return found


STREAMS = _streams()
