"""What the documents tell a reader to type is taken by the command line, and what they link to is there."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from lemis import cli
from lemis.comparison import plan_files
from lemis.comparison.plans import load_plan
from lemis.verbs.check_method import check_method
from test_advice import OPTIONS, known

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# The change log and the decisions speak of commands as they were then.
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]
LEMIS = typer.main.get_command(cli.app)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|^((?: {4}\S.*\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\s*(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?lemis +(\S.*)")  # OMP_NUM_THREADS=1 lemis ...
QUOTED = re.compile(r"`(lemis [^`]*)`")
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
OURS = {"plan.yaml", "my_lab.plans:few"}  # plans that stand for the reader's own
OWN_KEYS = {"method.bands"}  # settings of the modules that docs/extending.md writes


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def in_blocks(page: Path) -> Iterator[list[str]]:
    """The words after ``lemis`` of every line that is a whole command."""
    for language, *block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language not in ("", "sh"):
            continue
        for line in "".join(block).replace("\\\n", " ").splitlines():
            if found := COMMAND.match(line):
                yield shlex.split(found[1], comments=True)


def in_text(page: Path) -> Iterator[list[str]]:
    """The same of those inside sentences, which may be cut short: ``lemis predict --dry-run``."""
    for command in QUOTED.findall(page.read_text(encoding="utf-8")):
        yield shlex.split(" ".join(command.split()))[1:]


WHOLE = [(name_of(page), words) for page in TODAY for words in in_blocks(page)]
MENTIONED = [(name_of(page), words) for page in TODAY for words in in_text(page)]


def ids(found: list[tuple[str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(words)}" for page, words in found]


def test_there_are_commands() -> None:
    assert len(WHOLE) > 50
    assert {"README.md", "docs/getting-started.md", "docs/compare.md", "docs/data.md"} <= {page for page, _ in WHOLE}


@pytest.mark.parametrize(("page", "words"), WHOLE, ids=ids(WHOLE))
def test_a_command_is_one_that_the_command_line_takes(page: str, words: list[str]) -> None:
    verb = LEMIS.commands.get(words[0])  # type: ignore[attr-defined]
    assert verb is not None, f"{page}: there is no lemis {words[0]}"
    context = verb.make_context(words[0], words[1:])
    theirs = any(word.startswith("my_lab.") for word in words)
    for word in (*(context.params.get("overrides") or ()), *(context.params.get("runs") or ())):
        key = word.partition("=")[0]
        assert "=" not in word or known(key) or (theirs and key in OWN_KEYS), f"{page}: {word}"
    plan = str(context.params.get("plan", plan_files.DEFAULT))
    if plan not in OURS:
        load_plan(ROOT / plan if plan.endswith(".yaml") else plan)


@pytest.mark.parametrize(("page", "words"), MENTIONED, ids=ids(MENTIONED))
def test_a_command_in_a_sentence_has_a_verb_and_options_that_are_there(page: str, words: list[str]) -> None:
    assert words[0] in {*LEMIS.commands, "VERB"}, page  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= {*OPTIONS, "--help"}, page


OWN_FILES = dict(
    re.findall(
        r"`my_lab/(\w+)\.py`:\n\n```python\n(.*?)^```",
        (ROOT / "docs/extending.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
QUICK = ("net", "one", "choice")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OWN_FILES]
)
def test_a_file_of_the_page_on_extending_passes_its_checks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / f"{name}.py").write_text(OWN_FILES[name], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert check_method(f"my_lab.{name}").failed == ()
    finally:
        for module in [module for module in sys.modules if module.partition(".")[0] == "my_lab"]:
            del sys.modules[module]
    assert " 0 failed" in capsys.readouterr().out


def test_the_page_on_extending_has_a_file_of_each_kind() -> None:
    assert set(OWN_FILES) == {"idea", "net", "loss", "way", "one", "choice"}


def anchors(page: Path) -> set[str]:
    """Of the headings, made of their words as GitHub does."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [(name_of(page), link) for page in PAGES for link in LINK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page}: {link}" for page, link in LINKS])
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists(), f"{page}: {link}"
    assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_no_two_test_modules_have_one_name() -> None:
    """pytest would collect one of them and stop at the other."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_each_decision_has_a_number_of_its_own() -> None:
    pages = sorted(page for page in PAGES if page.parent.name == "decisions")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]} "), page.name


HOUSE = (ROOT / "docs/house.md").read_text(encoding="utf-8")
PLAN, FLOORS, *_ = re.findall(r"^```\n(.*?)^```", HOUSE, re.MULTILINE | re.DOTALL)


NAMING = ["docs/house.md", *(name_of(page) for page in PAGES if page.parent.name == "decisions")]


@pytest.mark.parametrize("page", NAMING)
def test_a_module_that_is_named_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    there = [
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "tests", "docs", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for name in re.findall(r"[\w/]+\.py\b", text):
        assert any(f"/{path}".endswith(f"/{name}") for path in there), f"{page}: {name}"


def test_the_house_names_every_room() -> None:
    package = PLAN.partition("src/lemis/\n")[2].partition("\ntests/")[0]
    rooms = {path.name for path in (ROOT / "src/lemis").iterdir() if not path.name.startswith("_")}
    named = set(re.findall(r"^  (\w+(?:/|\.py))", package, re.MULTILINE)) | {"plans/"}  # on the line of presets
    assert {name.rstrip("/") for name in named} == rooms
    assert all((ROOT / "src/lemis" / name).is_dir() == name.endswith("/") for name in named)


def test_the_floors_of_the_house_are_those_that_are_enforced() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    enforced = next(one["layers"] for one in tools["importlinter"]["contracts"] if one["name"] == "floors")

    def modules(floor: str) -> list[str]:
        return [name.strip() for name in floor.split("   ")[0].split("|") if "(" not in name]  # "(name)": where it is

    assert [modules(floor) for floor in FLOORS.splitlines()] == [modules(floor) for floor in enforced[1:]]  # __main__
