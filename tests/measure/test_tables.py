"""Tables: what goes in comes out, escaped for where it goes."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis import files, records
from lemis.measure import tables

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))
ROWS = [{"method": "sal", "dice": 0.91234, "n": 3}, {"method": "50% & _x|y", "dice": math.nan, "n": 4}]


def test_markdown():
    assert tables.markdown(ROWS) == (
        "| method | dice | n |\n| --- | ---: | ---: |\n| sal | 0.912 | 3 |\n| 50% & \\_x\\|y | - | 4 |\n"
    )


def test_csv_keeps_full_precision_and_leaves_missing_fields_empty():
    assert tables.comma_separated(ROWS) == "method,dice,n\nsal,0.91234,3\n50% & _x|y,,4\n"


def test_latex_is_escaped():
    text = tables.latex(ROWS, ["method", "dice"], digits=2)
    assert r"\begin{tabular}{lr}" in text
    assert r"50\% \& \_x|y & - \\" in text
    assert "sal & 0.91" in text


def test_columns_can_be_chosen_and_may_be_missing():
    assert tables.markdown([{"a": 1}], ["b", "a"]) == "| b | a |\n| ---: | ---: |\n| - | 1 |\n"


def test_what_was_stored_is_set_as_numbers_are():
    rows = [{"a": "x", "b": tables.Written("0.9 (0.1)", bold=True)}, {"a": "[y]", "b": tables.Written("-")}]
    assert tables.markdown(rows) == "| a | b |\n| --- | ---: |\n| x | **0.9 (0.1)** |\n| [y] | - |\n"
    text = tables.latex(rows)
    assert r"\begin{tabular}{lr}" in text
    assert r"x & \textbf{0.9 (0.1)} \\" in text
    assert "\n{}[y] & - " in text  # a bracket after a line's end would be read as a distance


def test_markdown_shows_what_stands_there():
    assert tables.escape_markdown("a_b") == "a_b"
    assert tables.escape_markdown("<b> & _x_ *y* [z](u) &lt;") == r"\<b> & \_x\_ \*y\* [z\](u) \&lt;"


@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": st.floats(allow_nan=False)}), min_size=1))
def test_csv_reads_back(rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("table") / "t.csv"
    files.write(file, tables.comma_separated(rows))
    wanted = [(row["a"], row["b"]) for row in rows]
    found = records.read_table(file, ("a", "b"), next="write it again")
    assert [(row["a"], float(row["b"])) for row in found] == wanted


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "=1+2", "+1+2", "-2+3", "@SUM(A1)", "\tx", "'=1", "-x"])
def test_no_cell_of_a_csv_is_a_formula(text: str):
    written = tables.comma_separated([{"a": text, "b": -1.5}])
    (_, (cell, number)) = csv.reader(io.StringIO(written, newline=""))
    assert (cell, number) == (f"'{text}", "-1.5")


@pytest.mark.parametrize("text", ["a", "", "-1.5", "+3", "p01", "'a'", "a=1"])
def test_other_cells_stay_as_they_are(text: str):
    assert records.guarded(text) == text == records.unguarded(text)
