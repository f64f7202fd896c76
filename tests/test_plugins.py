import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis import plugins
from lemis.errors import UsageError

SOURCE = '''"""IDEA: a made-up method. A. Author.
MICCAI 2021, https://example.org.

The rest of the docstring.
"""

from dataclasses import dataclass, field

DIMS = (2, 3)
TRAINS: tuple[str, ...] = ("encoder",)
RECIPE = dict(angle=3)  # not a literal: listed nowhere
_PRIVATE = 1
lower = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Not a field."""

    temperature: float = 0.1  # tau [P]
    # the width of a head;
    # the paper does not say
    width: int = 2 * 64
    needed: str
    spatial: "Spatial" = field(default_factory=Spatial)


@dataclass(frozen=True)
class Other:
    side: int = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "idea.py").write_text(SOURCE)
    (tmp_path / "methods" / "__init__.py").write_text("")
    (tmp_path / "methods" / "_shared.py").write_text("")
    monkeypatch.setattr(plugins, "_ROOT", tmp_path)
    return tmp_path


def test_our_names_have_no_dot_and_the_users_have_one():
    ours = [name for of in ("methods", "backbones", "auxiliary", "semi", "single", "suggesters")
            for name in plugins.names(of)]  # fmt: skip
    assert not any(map(plugins.is_own, ours))
    assert plugins.is_own("my_lab.idea")


def test_the_folder_is_the_list(folder):
    (folder / "methods" / "another.py").write_text("")
    assert plugins.names("methods") == ["another", "idea"]


def test_describe_reads_the_title_and_the_constants_from_the_source(folder):
    assert plugins.describe("methods", "idea") == {
        "name": "idea",
        "title": "IDEA: a made-up method. A. Author. MICCAI 2021, https://example.org.",
        "dims": (2, 3),
        "trains": ("encoder",),
    }


def test_settings_are_read_from_the_source(folder):
    assert plugins.settings_of("methods", "idea") == [
        {"name": "temperature", "default": 0.1, "note": "tau [P]"},
        {"name": "width", "default": "2 * 64", "note": "the width of a head; the paper does not say"},
        {"name": "needed", "default": None, "note": ""},
        {"name": "spatial", "default": "Spatial()", "note": ""},
    ]
    assert plugins.settings_of("methods", "idea", "Other") == [{"name": "side", "default": 3, "note": ""}]
    assert plugins.settings_of("methods", "_shared") == []


@pytest.mark.parametrize("kind", ["methods", "backbones"])
def test_every_plug_in_describes_itself(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        facts = plugins.describe(kind, name)
        assert facts["title"], f"{name} needs a docstring"
        assert set(facts["dims"]) <= {2, 3}, f"{name} needs DIMS"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """An empty folder where the command line stands, and a package name in it that no other test has used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_SEARCHED", [tmp_path])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    (tmp_path / "my_lab").mkdir()
    yield tmp_path / "my_lab"
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("my_lab", "other_lab"):
            del sys.modules[name]


OWN = """
import torch
from lemis.sampling.spatial import Spatial
from lemis.methods.simclr import Method as _Method
from dataclasses import dataclass, field

@dataclass(frozen=True, kw_only=True)
class Settings:
    tau: float = 0.1
    spatial: Spatial = field(default_factory=Spatial)

class Method(_Method):
    pass
"""


def test_a_dotted_name_loads_a_module_of_the_folder_where_the_command_stands(lab):
    (lab / "idea.py").write_text(OWN)
    module = plugins.load("methods", "my_lab.idea")
    assert module.Settings().tau == 0.1
    assert sys.path[-1] == str(lab.parent), "a file there hides no installed module"


def test_the_folder_is_on_the_path_only_once_a_module_of_it_is_named(lab):
    before = [*sys.path]
    plugins.load("methods", "simclr")
    with pytest.raises(UsageError):
        plugins.load("methods", "my_lab.missing")
    assert sys.path == before


@pytest.mark.parametrize(
    ("how", "source", "told"),
    [
        (
            plugins.load,
            "import not_installed_anywhere\n" + OWN,
            "idea.py, line 1: ModuleNotFoundError: No module named",
        ),
        (plugins.load, OWN + "1 / 0\n", "idea.py, line 14: ZeroDivisionError: division by zero"),
        (plugins.load, OWN + "raise SystemExit(3)\n", "SystemExit: 3"),
        (plugins.load, "from lemis.parts import no_such\n" + OWN, "idea.py, line 1: ImportError: cannot import name"),
        *(
            (how, OWN + line, told)
            for how in (plugins.load, plugins.outlined)
            for line, told in [
                ("def broken(:\n", "idea.py, line 14: SyntaxError: invalid syntax"),
                ("  x = 1\n", "idea.py, line 14: IndentationError"),
                ("\0", "null bytes"),
            ]
        ),
    ],
)
def test_an_error_inside_a_module_of_the_user_is_told_as_theirs(lab, how, source, told):
    (lab / "idea.py").write_text(source)
    with pytest.raises(UsageError, match=r"^--method my_lab\.idea cannot be imported: ") as error:
        how("methods", "my_lab.idea")
    assert told in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("how", [plugins.load, plugins.outlined])
@pytest.mark.parametrize(
    ("folder", "source", "lacking"),
    [
        ("methods", "x = 1", "Settings and Method"),
        ("methods", OWN.replace("class Method", "class Idea"), "Method"),
        ("methods", "from os.path import *", "Settings( and Method)?"),
        ("backbones", OWN, "Backbone"),
        ("auxiliary", "Settings = Auxiliary = int", "Settings"),
        ("semi", "Settings = int", "Semi"),
        ("single", "Settings = 1\ndef segment(): pass", "Settings"),
    ],
)
def test_a_module_that_is_no_plug_in_says_what_it_lacks(lab, folder, source, lacking, how):
    (lab / "idea.py").write_text(source)
    with pytest.raises(UsageError, match=f"my_lab.idea is a module without {lacking}\n"):
        how(folder, "my_lab.idea")


def test_the_settings_of_a_module_of_the_user_are_read_without_pytorch(lab):
    (lab / "idea.py").write_text(OWN)
    (lab / "other.py").write_text("from lemis.methods.simclr import Method, Settings\n")
    code = (
        "import sys; from pathlib import Path; from lemis import plugins, settings\n"
        "plugins.search(Path.cwd())\n"
        "for name in ('my_lab.idea', 'my_lab.other'): settings.resolve(plugins.outlined('methods', name).Settings)\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(plugins.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_that_only_running_the_module_tells_are_found_by_running_it(lab):
    (lab / "idea.py").write_text(OWN.replace("tau: float = 0.1", "tau: float = made") + "\n", encoding="utf-8")
    (lab / "idea.py").write_text("globals()['made'] = 0.5\n" + (lab / "idea.py").read_text())
    assert plugins.outlined("methods", "my_lab.idea").Settings().tau == 0.5


@pytest.mark.parametrize("name", ["torch.nn", "xml.dom", "email.mime.text", "scipy.stats", "antigravity.x", "this.y"])
def test_no_module_is_run_to_find_that_it_is_no_plug_in(name):
    code = (
        "import sys; from lemis import plugins\n"
        f"try: plugins.load('methods', {name!r})\n"
        "except plugins.UsageError as error: print(error.given)\n"
        "sys.exit(bool({'torch', 'xml', 'antigravity', 'this'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


@pytest.mark.parametrize(
    ("typed", "file", "next"),
    [
        ("idea", "idea.py", "mkdir -p my_lab && mv idea.py my_lab/, then --method my_lab.idea"),
        ("idea.py", "idea.py", "mkdir -p my_lab && mv idea.py my_lab/, then --method my_lab.idea"),
        ("my_lab/idea.py", "my_lab/idea.py", "--method my_lab.idea"),
        ("my_lab/idea", "my_lab/idea.py", "--method my_lab.idea"),
        ("my_lab/nets/idea.py", "my_lab/nets/idea.py", "--method my_lab.nets.idea"),
    ],
)
def test_a_file_is_told_how_to_be_named(lab, typed, file, next):
    (lab.parent / file).parent.mkdir(exist_ok=True, parents=True)
    (lab.parent / file).write_text(OWN)
    with pytest.raises(UsageError, match="is not in methods") as error:
        plugins.load("methods", typed)
    assert error.value.next == next


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="'simclear' is not in methods") as error:
        plugins.load("methods", "simclear")
    assert "pcl" in error.value.allowed
    assert error.value.next == "'simclr'?"


def test_a_module_that_is_not_found_here_may_be_in_another_folder():
    with pytest.raises(UsageError, match=r"'nowhere_lab\.idea' is not in methods") as error:
        plugins.load("methods", "nowhere_lab.idea")
    assert error.value.next == "look at the name, or go to the folder that holds nowhere_lab/"


@pytest.mark.parametrize(
    "name", ["", "zzz", ".", "..", ".idea", "no.such.module", "os..path", "os.path.", "../x", "a b.c"]
)
def test_a_name_that_nothing_has_is_refused(name):
    with pytest.raises(UsageError, match="is not in methods"):
        plugins.load("methods", name)


@given(st.text(max_size=8))
def test_nearest_is_a_known_word_or_none(word):
    known = ["epochs", "learning_rate"]
    assert plugins.nearest(word, known) in (*known, None)
    assert all(plugins.nearest(name, known) == name for name in known)
    assert plugins.nearest("eppochs", known) == "epochs"


def test_reading_the_folders_does_not_import_torch():
    code = (
        "import sys; from lemis import plugins\n"
        "for kind in ('methods', 'backbones'):\n"
        "    for name in plugins.names(kind): plugins.describe(kind, name), plugins.settings_of(kind, name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
