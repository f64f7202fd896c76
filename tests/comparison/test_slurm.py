"""The scripts for SLURM are run for real, by an ``sbatch`` that runs an array's elements in order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lemis.comparison import slurm
from lemis.comparison.executors import Task
from lemis.comparison.slurm import Array, arrays, script

SBATCH = """#!/usr/bin/env bash
# Runs the elements of an array one after the other, and answers with a job number as `sbatch --parsable` does.
set -euo pipefail
job=$(( $(cat jobs 2>/dev/null || echo 100) + 1 ))
echo "$job" > jobs
echo "$@" >> submitted
file="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-//p' "$file")
cpus=$(sed -n 's/^#SBATCH --cpus-per-task=//p' "$file")
for i in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$i SLURM_CPUS_PER_TASK=$cpus bash "$file" >> "logs/all.txt" 2>&1 || true
done
echo "$job;cluster"
"""
# In the place of `lemis compare`: leaves a line; the cell "b 2" fails.
LEMIS = """#!/usr/bin/env bash
printf '%s|' "$PWD" "$OMP_NUM_THREADS" "$@" >> "$CELLS"
echo >> "$CELLS"
[[ "${@: -1}" != "b 2" ]]
"""
TASKS = [
    Task("a1", (), None),
    Task("c", ("b 2", "a1"), None),
    Task("b 2", ("a1",), None, gpus=0.5),
    Task("a2", (), None),
]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_every_cell_is_run_once_after_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "where it's called"
    here.mkdir()
    monkeypatch.chdir(here)
    program(tmp_path / "bin/sbatch", SBATCH)
    program(tmp_path / "bin/lemis", LEMIS)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CELLS", str(tmp_path / "cells"))
    folder = Path("comparisons/my plan/slurm")
    files = script(TASKS, ["lemis", "compare", "my scans", "--plan", "p.yaml"], folder, cores_each=4)
    assert {file.name for file in (here / folder).iterdir()} - {"logs"} == {file.name for file in files}

    said = subprocess.run(
        [str(files[0]), "--partition=gpu", "--time=8:00:00"], check=True, capture_output=True, text=True, cwd="/"
    ).stdout

    ran = [line.split("|")[:-1] for line in (tmp_path / "cells").read_text().splitlines()]
    assert [line[-1] for line in ran] == ["a1", "a2", "b 2", "c"]  # c too: SLURM does not know what failed
    for line in ran:
        assert line[:-1] == [str(here), "4", "compare", "my scans", "--plan", "p.yaml", "--cell"]
    assert (here / folder / "submitted").read_text().splitlines() == [
        "--parsable --partition=gpu --time=8:00:00 level0_part0.sbatch",
        "--parsable --dependency=afterany:101 --partition=gpu --time=8:00:00 level1_part0.sbatch",
        "--parsable --dependency=afterany:102 --partition=gpu --time=8:00:00 level2_part0.sbatch",
    ]
    assert (here / folder / "logs/all.txt").read_text() == ""
    assert "level0_part0: job 101, 2 cells" in said
    assert said.rstrip().endswith("&& lemis compare 'my scans' --plan p.yaml")
    asked = {name: (here / folder / f"{name}.sbatch").read_text() for name in ("level0_part0", "level1_part0")}
    assert "#SBATCH --gres=gpu:1\n" in asked["level1_part0"]
    assert "--gres" not in asked["level0_part0"]
    assert all("#SBATCH --signal=B:TERM@120\n" in text for text in asked.values())


def test_arrays_are_no_longer_than_slurm_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm, "MOST", 2)
    tasks = [Task(f"a{i}", (), None) for i in range(3)] + [Task("gpu", (), None, gpus=2), Task("b", ("a0",), None)]
    assert arrays(tasks) == [
        Array("level0_part0", 0, ("a0", "a1"), 0),
        Array("level0_part1", 0, ("a2",), 0),
        Array("level0_part2", 0, ("gpu",), 2),
        Array("level1_part0", 1, ("b",), 0),
    ]
    submit = script(tasks, ["lemis"], tmp_path)[0].read_text()
    three = "${level0_part0%%;*}:${level0_part1%%;*}:${level0_part2%%;*}"
    assert f'--dependency="afterany:{three}"' in submit


def test_scripts_of_before_are_gone(tmp_path: Path) -> None:
    script(TASKS, ["lemis"], tmp_path)
    script(TASKS[:1], ["lemis"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "submit.sh", "level0_part0.sbatch", "level0_part0.keys", "logs",
    }  # fmt: skip


def test_no_cells_submit_nothing(tmp_path: Path) -> None:
    [submit] = script([], ["lemis", "compare"], tmp_path)
    said = subprocess.run([str(submit)], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0] == "When all have ended, this writes the table:"
