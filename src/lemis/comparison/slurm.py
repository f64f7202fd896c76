"""The cells of a comparison as array jobs of SLURM: ``submit.sh``, and an array for each level of dependencies."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

from lemis import files
from lemis.comparison.tasks import Task

MOST = 1000  # elements of an array: SLURM's own limit (MaxArraySize) is 1001 where nobody has raised it
CHECKPOINT_S = 120  # before the time limit, when SLURM asks a training for its checkpoint


class Array(NamedTuple):
    """Cells that may run at the same time and ask for the same."""

    name: str
    level: int
    keys: tuple[str, ...]
    gpus: int  # whole ones, as SLURM gives them out


def script(tasks: Sequence[Task], command: Sequence[str], folder: Path, *, cores_each: int = 1) -> list[Path]:
    """Write the scripts into ``folder``; ``submit.sh`` there hands everything to SLURM.

    Element i of an array runs ``command --cell KEY`` with the key on line i of the array's list. An array begins when
    all of the level before have ended, whatever became of them, so ``--cell`` refuses where what it needs is not done.

    Args:
        tasks: Each comes after what it needs, among the tasks.
        command: ``("lemis", "compare", ...)``, to be run from the present folder.
        folder: On a disk that the nodes see, as everything that the command names.
        cores_each: For an element; ``submit.sh --cpus-per-task=N`` asks for others.

    Returns:
        ``submit.sh`` first, then an ``.sbatch`` and a ``.keys`` for each array.
    """
    folder = folder.absolute()
    (folder / "logs").mkdir(parents=True, exist_ok=True)  # SLURM does not make it
    for old in (*folder.glob("level*.sbatch"), *folder.glob("level*.keys")):
        old.unlink()
    written = []
    found = arrays(tasks)
    for array in found:
        keys, job = folder / f"{array.name}.keys", folder / f"{array.name}.sbatch"
        files.write(keys, "".join(f"{key}\n" for key in array.keys))
        files.write(job, _job(array, keys, command, cores_each))
        written += [job, keys]
    submit = folder / "submit.sh"
    files.write(submit, _submit(found, command))
    submit.chmod(0o755)
    return [submit, *written]


def arrays(tasks: Sequence[Task]) -> list[Array]:
    """Tasks by level (0 needs nothing, 1 needs level 0, ...) and GPUs, at most ``MOST`` in each, in the order given."""
    levels = _levels(tasks)
    found = []
    for level in sorted(set(levels.values())):
        keys: dict[int, list[str]] = {}
        for task in tasks:
            if levels[task.key] == level:
                keys.setdefault(ceil(task.gpus), []).append(task.key)
        pieces = [(gpus, own[i : i + MOST]) for gpus, own in keys.items() for i in range(0, len(own), MOST)]
        found += [Array(f"level{level}_part{i}", level, tuple(own), gpus) for i, (gpus, own) in enumerate(pieces)]
    return found


def _levels(tasks: Sequence[Task]) -> dict[str, int]:
    needs = {task.key: task.after for task in tasks}
    levels: dict[str, int] = {}

    def level(key: str) -> int:
        if key not in levels:
            levels[key] = 1 + max(map(level, needs[key]), default=-1)
        return levels[key]

    return {task.key: level(task.key) for task in tasks}


def _job(array: Array, keys: Path, command: Sequence[str], cores_each: int) -> str:
    asked = {
        "job-name": f"lemis-{array.name}",
        "array": f"0-{len(array.keys) - 1}",
        "cpus-per-task": cores_each,
        **({"gres": f"gpu:{array.gpus}"} if array.gpus else {}),
        "output": f"logs/{array.name}-%a.txt",  # from where submit.sh stands
        "open-mode": "append",
        "signal": f"B:TERM@{CHECKPOINT_S}",
        "requeue": None,
    }
    options = [f"#SBATCH --{name}" + (f"={value}" if value is not None else "") for name, value in asked.items()]
    lines = [
        "#!/usr/bin/env bash",
        *options,
        "set -euo pipefail",
        f"cd {shlex.quote(os.getcwd())}",
        'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
        f'key=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(keys))})',
        f'exec {shlex.join(command)} --cell "$key"  # exec: SLURM\'s signal reaches the training',
    ]
    return "\n".join(lines) + "\n"


def _submit(found: Sequence[Array], command: Sequence[str]) -> str:
    cells = sum(len(array.keys) for array in found)
    lines = [
        "#!/usr/bin/env bash",
        f"# {cells} cells for SLURM. What is written after submit.sh goes to sbatch:",
        "#     ./submit.sh --partition=gpu --time=8:00:00 --mem=16G",
        "# Run it again for what failed or ran out of time: cells that are done end at once.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
    ]
    for array in found:
        before = [f"${{{other.name}%%;*}}" for other in found if other.level == array.level - 1]
        after = f'--dependency="afterany:{":".join(before)}" ' if before else ""
        lines += [
            f'{array.name}=$(sbatch --parsable {after}"$@" {array.name}.sbatch)',
            f'echo "{array.name}: job ${{{array.name}%%;*}}, {len(array.keys)} cells"',
        ]
    table = shlex.join(["cd", os.getcwd()]) + " && " + shlex.join(command)
    lines += ["cat <<'END'", "When all have ended, this writes the table:", f"  {table}", "END"]
    return "\n".join(lines) + "\n"
