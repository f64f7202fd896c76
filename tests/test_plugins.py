import subprocess
import sys

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
    spatial: "Spatial" = field(default_factory=views.Spatial)


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
        {"name": "spatial", "default": "views.Spatial()", "note": ""},
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


def test_a_dotted_name_loads_a_module_from_outside(tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "idea.py").write_text("Method = 7")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.load("methods", "my_lab.idea").Method == 7


def test_an_error_inside_a_module_from_outside_is_shown_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "broken.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        plugins.load("methods", "my_lab.broken")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="'simclear' is not in methods") as error:
        plugins.load("methods", "simclear")
    assert "pcl" in error.value.allowed
    assert error.value.next == "'simclr'?"


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
