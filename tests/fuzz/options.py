"""Options of the command line with values that make no sense."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from fuzz.harness import Case

WEIGHT = 0.2

_VALUES = (
    "-1",
    "0",
    "1e20",
    "nan",
    "99999999999999999999",
    "",
    "x",
    "os.path",
    "torch.nn",
    "../..",
    "[/red]",
    "\u00e9",
)
_OPTIONS = {
    "fit": ("--seed", "--fold", "--labelled", "--method", "--backbone", "--auxiliary", "--preset", "--settings"),
    "check": ("--layout", "--jobs"),
    "compare": ("--plan", "--name", "--jobs", "--gpus", "--cell"),
    "predict": ("--inputs", "--scans"),
    "segment-one": ("--size", "--slices", "--window", "--pick", "--click", "--seed", "--method"),
}


def cases(rng: random.Random) -> Iterator[Case]:
    """Every option with every value, in a random order, again and again. The folder of scans is not there."""
    every = [(verb, option, value) for verb, options in _OPTIONS.items() for option in options for value in _VALUES]
    while True:
        for verb, option, value in rng.sample(every, len(every)):
            output = () if verb == "predict" else ("-o", "out")
            yield Case("option", f"{verb} {option} {value!r}", _empty, (verb, "scans", *output, option, value))


def _empty(_folder: Path) -> None:
    pass
