"""Lemis: label-efficient medical image segmentation.

Every command is a function of the same name, imported when it is first used: ``lemis.fit(Path("scans"),
output=Path("work"))``. ``lemis.load("work/runs/pcl")`` is the network of a finished run.

``lemis`` alone imports nothing heavy.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# As in __init__.pyi, which says it to editors and type checkers.
VERBS = (
    "check",
    "check_method",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "finetune",
    "fit",
    "import_weights",
    "list",
    "predict",
    "prepare",
    "pretrain",
    "report",
    "segment_one",
    "suggest",
)
OTHERS = {"load": "lemis.prediction.loaded"}  # what is no command, and its module


def __getattr__(name: str) -> Any:
    if name in VERBS or name in OTHERS:
        return getattr(importlib.import_module(OTHERS.get(name, f"lemis.verbs.{name}")), name)
    raise AttributeError(f"module 'lemis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *VERBS, *OTHERS])
