"""``import lemis`` offers every command, and costs next to nothing."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lemis

COST = """
import json, sys
import lemis
heavy = sorted({"torch", "numpy", "rich", "typer", "pydantic"} & sys.modules.keys())
print(json.dumps({"heavy": heavy, "shown": dir(lemis)}))
"""


def test_importing_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert {*lemis.VERBS, *lemis.OTHERS} <= set(found["shown"])


def test_every_command_is_there():
    files = {path.stem for path in (Path(lemis.__file__).parent / "verbs").glob("[!_]*.py")}
    assert set(lemis.VERBS) == files
    for verb in lemis.VERBS:
        assert getattr(lemis, verb) is getattr(importlib.import_module(f"lemis.verbs.{verb}"), verb)
    for name, module in lemis.OTHERS.items():
        assert getattr(lemis, name) is getattr(importlib.import_module(module), name)


def test_no_folder_has_the_name_of_a_command():
    # Once imported, it would stand where the command was.
    folders = {path.name.removesuffix(".py") for path in Path(lemis.__file__).parent.iterdir()}
    assert folders.isdisjoint({*lemis.VERBS, *lemis.OTHERS})


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="'lemis' has no attribute 'train'"):
        _ = lemis.train
    with pytest.raises(ImportError):
        from lemis import train  # noqa: F401


def test_type_checkers_are_told_the_same():
    stub = ast.parse(Path(lemis.__file__).with_suffix(".pyi").read_text())
    imported = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert [(node.module, node.names[0].name, node.names[0].asname) for node in imported] == [
        *((module, name, name) for name, module in lemis.OTHERS.items()),
        *((f"lemis.verbs.{verb}", verb, verb) for verb in lemis.VERBS),
    ]
