"""A wheel holds all that the package opens, such as presets, plans and templates, and works from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENED = """
import sys
from pathlib import Path
import lemis
from lemis import settings
from lemis.comparison import plan_files
assert Path(lemis.__file__).parents[1] == Path(sys.argv[1]), lemis.__file__
presets, plans = settings.presets(), plan_files.shipped()
assert all(settings.load_preset(name) for name in presets) and all(plan_files.read(name) for name in plans)
print(len(presets), len(plans))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is made of, by what is installed here, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "copy" / "src", ignore=leftovers)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    words = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--quiet", "-w", str(folder / "dist")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, str(folder / "copy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "lemis"
    files = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    ours = {name for name in files if "__pycache__" not in name}
    there = set(zipfile.ZipFile(wheel).namelist())
    assert ours - there == set()
    kinds = {Path(name).suffix for name in ours}
    assert {".yaml", ".csv", ".html", ".css", ".pyi"} <= kinds
    assert {name for name in there - ours if ".dist-info/" not in name} == set()


@pytest.mark.slow
def test_a_wheel_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "demo" in run("-m", "lemis", "--help")
    assert '"simclr"' in run("-m", "lemis", "list", "--json")
    printed = run("-c", OPENED, str(installed))
    assert all(int(number) > 3 for number in printed.split())
