"""Only the lines that a name needs are run, and no package is run to find a module."""

import sys

import pytest

from lemis import outline


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a package ``outlined_lab`` and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outlined_lab").mkdir()
    (tmp_path / "outlined_lab" / "__init__.py").write_text("raise RuntimeError('the package was run')\n")

    def write(name, text):
        (tmp_path / "outlined_lab" / f"{name}.py").write_text(text)
        return f"outlined_lab.{name}"

    return write


def test_only_what_a_name_needs_is_run(module):
    name = module(
        "one",
        "import no_such_module\nstep = 2\ndef twice(x: no_such_module.T): return step * x\nsix = twice(3)\n1 / 0\n",
    )
    made = outline.read(name)
    assert made.six == 6
    assert not hasattr(made, "seven")
    with pytest.raises(ModuleNotFoundError):
        made.no_such_module  # noqa: B018
    assert name not in sys.modules


def test_a_module_is_found_without_running_the_package_around_it(module):
    assert outline.source(module("two", "")).name == "two.py"
    assert outline.find("outlined_lab.none") is None
    assert outline.find("outlined_lab.two.three") is None
    assert outline.find("a b") is None
    assert "outlined_lab" not in sys.modules


def test_names_that_come_by_a_star_are_there(module):
    module("base", "from .deep import *\nclass Settings: pass\n")
    module("deep", "Method = 1\n")
    name = module("three", "from outlined_lab.base import *\n")
    assert outline.lacks(name, ("Settings", "Method", "Views")) == ["Views"]


def test_what_a_module_makes_of_itself_is_not_denied(module):
    assert outline.lacks(module("four", "def __getattr__(name): return 1\n"), ("Settings",)) == []
    assert outline.lacks(module("five", "from outlined_lab.not_there import *\n"), ("Settings",)) == []


def test_names_in_blocks_count(module):
    name = module(
        "six",
        "try:\n    import json\nexcept OSError:\n    json = 0\nif True:\n    A = B = 1\nC: int = 2\nD, E = 1, 2\n",
    )
    assert outline.lacks(name, ("json", "A", "B", "C", "D", "E", "F")) == ["F"]


def test_a_module_without_a_source_is_imported():
    assert outline.outline("math").pi > 3
    with pytest.raises(ModuleNotFoundError):
        outline.read("no_such_module")
