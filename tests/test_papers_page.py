"""docs/papers.md names every published table, and every plan, row and example that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lemis import plugins
from lemis.comparison import plan_files
from lemis.measure import published

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
TABLES, GAINS = PAGE.split("\n## Where do the gains of the papers go?\n")
QUESTIONS = re.findall(r"^\| (.+\?) \| \[([\w-]+)\]\(\.\./(\S+)\) \| (.+) \|$", GAINS, re.MULTILINE)


def test_every_plan_of_a_table_is_named_once_and_exists() -> None:
    named = re.findall(r"`(paper/[\w-]+)`", TABLES)
    assert sorted(named) == sorted(name for name in plan_files.shipped() if name.startswith("paper/"))
    for path in re.findall(r"`((?:benchmarks|examples)/\S+)`", PAGE):
        assert (ROOT / path).is_file(), path


def test_every_published_table_without_a_plan_has_its_reason() -> None:
    for start in published.WITHOUT_PLAN:
        assert f"(`{start}`)" in TABLES, start


def test_methods_that_are_named_exist() -> None:
    named = re.findall(r"the method `(\w+)`", PAGE, re.IGNORECASE)
    assert set(named) == {"swin_unetr_ssl", "mae"}
    assert set(named) <= set(plugins.names("methods"))


@pytest.mark.parametrize(("question", "name", "path", "rows"), QUESTIONS, ids=[one[0] for one in QUESTIONS])
def test_a_question_has_rows_that_exist(question: str, name: str, path: str, rows: str) -> None:
    assert Path(path).stem == name, question
    given = plan_files.read(ROOT / path)["rows"]
    titles = {row if isinstance(row, str) else row.get("title", row["method"]) for row in given}
    named = re.findall(r"`([^`]+)`", rows)
    assert any(one in titles for one in named), question
    for one in named:
        assert one in titles or re.fullmatch(r"[\w.]+=\S+", one), f"{name}: {one}"


def test_there_are_questions() -> None:
    assert len(QUESTIONS) == GAINS.count("\n| ") - 2, "every row of that table is read by these tests"
