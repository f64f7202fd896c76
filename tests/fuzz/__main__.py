"""``make fuzz``: many mutated inputs, a table of what came of them, and every failing input kept to look at."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from fuzz.harness import GOOD, Case, Outcome, try_case
from fuzz.streams import STREAMS

VERDICTS = ("clean", "accepted", "traceback", "crash", "hang", "memory", "nonsense", "refused")


def main() -> int:
    """Returns the number of failures, 1 at most."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("-n", type=int, default=2000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=sorted(STREAMS), help="one module of inputs")
    parser.add_argument("--keep", type=Path, default=Path("scratch/fuzz"), help="where failing inputs go")
    given = parser.parse_args()
    shutil.rmtree(given.keep, ignore_errors=True)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(given.jobs) as pool:
        chosen = {given.only: 1.0} if given.only else {name: stream.weight for name, stream in STREAMS.items()}
        for case, outcome in pool.map(lambda case: _tried(case, given.keep), _cases(chosen, given.n, given.seed)):
            counts[case.kind][outcome.verdict] += 1
            if outcome.verdict not in GOOD:
                print(f"{outcome.verdict}: {case.kind}: {case.name}: {_last(outcome)}", flush=True)
    print(f"\n{'kind':<28}{'inputs':>8}" + "".join(f"{verdict:>11}" for verdict in VERDICTS))
    for kind, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        print(f"{kind:<28}{row.total():>8}" + "".join(f"{row[verdict]:>11}" for verdict in VERDICTS))
    return int(any(row.total() - row["clean"] - row["accepted"] for row in counts.values()))


def _cases(shares: dict[str, float], number: int, seed: int) -> Iterator[Case]:
    for name, share in shares.items():
        rng = random.Random(f"{seed} {name}")
        yield from islice(STREAMS[name].cases(rng), round(number * share / sum(shares.values())))


def _tried(case: Case, keep: Path) -> tuple[Case, Outcome]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        outcome = try_case(case, folder)
        if outcome.verdict not in GOOD:
            kept = keep / "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{case.kind}-{case.name}")[:120]
            shutil.copytree(folder, kept / "input", symlinks=True, dirs_exist_ok=True, ignore=_special)
            (kept / "said.txt").write_text(f"lemis {' '.join(case.argv)}\nexit {outcome.exit_code}\n{outcome.said}")
    return case, outcome


def _special(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(folder) / name).is_fifo()}


def _last(outcome: Outcome) -> str:
    lines = [line for line in outcome.said.splitlines() if line.strip() and "fault of Lemis" not in line]
    return lines[0 if outcome.verdict == "nonsense" else -1][:200] if lines else f"exit {outcome.exit_code}"


if __name__ == "__main__":
    sys.exit(main())
