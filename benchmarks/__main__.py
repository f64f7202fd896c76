"""``python -m benchmarks [NAME ...]``: run all benchmarks (or the named ones) and print Markdown tables."""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from importlib import import_module

import torch

from lemis.cli import keep_freed_memory

NAMES = (
    "pipeline",
    "views",
    "alignment",
    "store",
    "transport",
    "kaf",
    "methods",
    "auxiliary",
    "prediction",
    "single",
    "statistics",
    "startup",
    "memory",
    "semi",
    "flops",
    "suggesters",
    "phantoms",
    "precision",
)


def main(names: list[str]) -> None:
    """Run and print."""
    keep_freed_memory()  # as the command line does
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    machine = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{date.today()}, {machine}, torch {torch.__version__}")
    for name in names or NAMES:
        module = import_module(f"benchmarks.{name}")
        rows = module.rows()
        print(f"\n## {module.TITLE}\n\n{_markdown(rows)}", flush=True)


def _markdown(rows: list[dict[str, object]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row.get(c, "")) for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
