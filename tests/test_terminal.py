"""Names on the terminal stand as they are: neither a style nor a control code, and no number is cut."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from lemis import cli, terminal
from lemis.datasets.index import Index, Scan
from lemis.formats.paths import is_picture
from lemis.reporting import scores_table
from lemis.verbs import check, doctor
from lemis.verbs import list as list_verb
from lemis.work_files.evaluation import COUNTS, Summary
from work_files_made import ESTIMATE, SCORES, SUMMARY

NAMES = ["sc[/bold]", "[/red]", "[LV]", "[red]", "[link=file:///etc]x", ":heart:", "{0}", "{task.x}", "100%", "\\[a]"]


def spoken(monkeypatch, *, width=80, terminal_=False, stderr=False):
    """What goes to stdout or stderr from now on."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr" if stderr else "stdout", out)
    monkeypatch.setenv("COLUMNS", str(width))
    if terminal_:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("NO_COLOR", "1")
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stderr", [False, True])
def test_a_name_is_printed_as_it_is(name, stderr, monkeypatch):
    out = spoken(monkeypatch, stderr=stderr)
    console = terminal.console(stderr=stderr)
    console.print(name)
    console.rule(name)
    table = Table(name, "value", title=name)
    table.add_row(name, "1")
    terminal.print_table(console, table)
    assert out.getvalue().count(name) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_name_beside_a_bar_is_printed_as_it_is(name, monkeypatch):
    out = spoken(monkeypatch, terminal_=True)
    with terminal.progress(terminal.console(), name, "{task.fields[rate]}") as bar:
        bar.add_task("", total=3, completed=3, rate="[fast]")
    assert name in out.getvalue()
    assert "[fast]" in out.getvalue()


def test_no_bar_where_nobody_looks_on(monkeypatch):
    out = spoken(monkeypatch)
    with terminal.progress(terminal.console(), "reading") as bar:
        assert list(bar.track([1, 2])) == [1, 2]
    assert out.getvalue() == ""


@given(st.text())
def test_nothing_in_a_name_moves_the_cursor(text):
    shown = terminal.visible(text)
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in shown)
    assert not set(shown) & set("\x7f\x9b\u202e")
    assert terminal.visible(shown) == shown


def test_a_control_character_is_shown_as_an_escape(monkeypatch):
    out = spoken(monkeypatch)
    terminal.console().print("a\x1b[31mb\rc")
    assert out.getvalue() == "a\\x1b[31mb\\rc\n"


def test_a_name_that_is_not_utf8_is_shown(monkeypatch):
    out = spoken(monkeypatch)
    terminal.console().print("caf\udce9")
    assert out.getvalue() == "caf\\udce9\n"


def wide():
    table = Table("structure", title="scores of [these]")
    for head in ("Dice", "HD95 mm"):
        table.add_column(head, justify="right")
    table.add_row("left ventricular [myocardium]", Text.assemble("0.912", ("\n0.880-0.943", "dim")), "12.3")
    return table


@pytest.mark.parametrize("width", [1, 10, 40, 200])
def test_numbers_are_whole_at_any_width(width, monkeypatch):
    out = spoken(monkeypatch, width=width, terminal_=True)
    terminal.print_table(terminal.console(), wide())
    for what in ("left", "ventricular", "[myocardium]", "0.912", "0.880-0.943", "12.3", "Dice", "HD95 mm", "[these]"):
        assert what in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_table_is_whole_where_nobody_looks_on(monkeypatch):
    out = spoken(monkeypatch)
    monkeypatch.delenv("COLUMNS")
    table = Table(*(f"column number {number}" for number in range(12)))
    table.add_row(*("0.123456789" for _ in range(12)))
    terminal.print_table(terminal.console(), table)
    assert out.getvalue().count("0.123456789") == 12
    assert len({len(line) for line in out.getvalue().splitlines()}) == 1


# --- verbs


def scan(name):
    return Scan(
        id=name, subject=name, images=(f"{name}.png",), label=f"{name}.png", shape=(9, 9, 1),
        spacing_mm=(1.0, 1.0, 1.0), slice_axis=2, label_values=(0, 1),
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_check_shows_folders_structures_and_faults_as_they_are(name, monkeypatch):
    assert is_picture(f"{name}.png")
    fault = check.Fault(severity="error", kind=name, scan=name, file=name, seen=name, repair=name)
    index = Index(root=name, layout="csv", channels=(name,), labels={name: 1}, scans=(scan(name),))
    out = spoken(monkeypatch)
    check._print(check.Report(index, (fault,), (), ()), None, terminal.console())
    assert out.getvalue().count(name) >= 7


@pytest.mark.parametrize("width", [40, 80])
def test_evaluate_shows_structures_and_numbers_whole(width, monkeypatch, tmp_path):
    estimate = {**ESTIMATE, "mean": 0.912, "low": 0.881, "high": 0.943}
    facts = {**SCORES, "dice": estimate, "hd95_mm": estimate, "nsd": estimate, **dict.fromkeys(COUNTS, 17)}
    summary = {
        **SUMMARY, "scans": 3, "subjects": 3, "not_scored": {"[why]": ["a"]}, "transductive": None,
        "subjects_labelled_in_training": None,
        "protocols": {"default": {
            **SUMMARY["protocols"]["default"], "structures": {"[/red]": facts, "[LV]": facts},
            "overall": {**facts, "missed": 0, "invented": 0},
        }},
    }  # fmt: skip
    out = spoken(monkeypatch, width=width, terminal_=True)
    scores_table.show(Summary.model_validate_json(json.dumps(summary)), tmp_path / "[/bold]")
    for what in ("[/red]", "[LV]", "[why]", "[/bold]"):
        assert what in out.getvalue()
    assert out.getvalue().count("0.912") == 6
    assert "…" not in out.getvalue()


def test_doctor_shows_a_path_as_it_is(monkeypatch):
    out = spoken(monkeypatch)
    finding = doctor.Finding(name="output", seen="/tmp/[/red]", state="fix", fix="chmod [/x]")
    doctor._print(SimpleNamespace(findings=[finding], healthy=False))
    assert "/tmp/[/red]" in out.getvalue()
    assert "-> chmod [/x]" in out.getvalue()


def test_list_names_nothing_in_half(monkeypatch):
    out = spoken(monkeypatch, width=60, terminal_=True)
    list_verb.list()
    assert "voxel_siamese" in out.getvalue()


@pytest.mark.parametrize(("verb", "said"), [("compare", "Needs lemis[ray]"), ("compare", "seeds=[0,1] labelled=[2,6]")])
def test_no_help_text_loses_its_brackets(verb, said):
    words = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "400"}).output.split()
    assert said in " ".join(words)


def test_python_runs_the_package_as_the_command():
    done = subprocess.run([sys.executable, "-m", "lemis", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lemis 0.")
    help_text = subprocess.run([sys.executable, "-m", "lemis", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: lemis [OPTIONS] COMMAND" in help_text.stdout
