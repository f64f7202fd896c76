"""Tables as spreadsheet programs save them are read alike, or refused naming the line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.errors import UsageError
from lemis.formats import spreadsheet

ROWS = [["image", "Label", "subject"], ["a.nii.gz", "", "Müller, A."], ["b.nii.gz", 'x "y".nii', "1,5;2"]]
READ = [
    {"image": "a.nii.gz", "label": "", "subject": "Müller, A."},
    {"image": "b.nii.gz", "label": 'x "y".nii', "subject": "1,5;2"},
]


def written(rows: list[list[str]], separator: str = ",", end: str = "\r\n") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=end).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_way_to_save_a_table_reads_alike(separator: str, encoding: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(written(ROWS, separator, end).encode(encoding))
    table = spreadsheet.read(file)
    assert table.columns == ("image", "label", "subject")
    assert [cells for _, cells in table.rows] == READ
    assert spreadsheet.columns_of(file) == table.columns


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map(str.strip)


@given(st.lists(st.tuples(cells, cells), max_size=5), st.sampled_from(",;\t"))
def test_what_was_stored_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], separator: str
) -> None:
    file = tmp_path_factory.mktemp("table") / "t.csv"
    file.write_bytes(written([["id", "subject"], *map(list, rows)], separator).encode())
    assert [tuple(cells.values()) for _, cells in spreadsheet.read(file).rows] == [row for row in rows if any(row)]


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,note\na,"two\nlines"\n,\nb\n')
    table = spreadsheet.read(tmp_path / "t.csv")
    assert [(line, cells["id"], cells["note"]) for line, cells in table.rows] == [(2, "a", "two\nlines"), (5, "b", "")]


def test_columns_without_a_name_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;subject;;\na;b;;\n")
    table = spreadsheet.read(tmp_path / "t.csv")
    assert table.columns == ("id", "subject")
    assert [cells for _, cells in table.rows] == [{"id": "a", "subject": "b"}]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_line_that_tells_excel_the_separator(separator: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(f"sep={separator}\r\n{written(ROWS, separator)}".encode())
    table = spreadsheet.read(tmp_path / "t.csv")
    assert [(line, cells) for line, cells in table.rows] == list(zip([3, 4], READ, strict=True))
    assert spreadsheet.columns_of(tmp_path / "t.csv") == table.columns == ("image", "label", "subject")


@pytest.mark.parametrize(("numbers", "dropped"), [("012", True), ("417", True), ("111", False), ("ab1", False)])
def test_the_index_that_pandas_writes_is_no_column(numbers: str, dropped: bool, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",image\n" + "".join(f"{number},p{number}.nii\n" for number in numbers))
    if dropped:
        rows = spreadsheet.read(tmp_path / "t.csv").rows
        assert [cells for _, cells in rows] == [{"image": f"p{number}.nii"} for number in numbers]
    else:
        with pytest.raises(UsageError, match="a value without a column"):
            spreadsheet.read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id\nMüller\n".encode("latin-1"), r"is not UTF-8: the byte 0xfc in line 2(.|\n)*CSV UTF-8"),
        ("id\nMüller\n".encode("utf-16-le"), r"is not UTF-8|NUL byte"),
        (b"\xff\xfei\x00d", "damaged UTF-16"),
        (b"id\na\x00b\n", "NUL byte in line 2"),
        (b"id,id\na,b\n", "2 columns 'id'"),
        (b"id,subject\na,b,c\n", r"line 2: a value without a column: a,b,c(.|\n)*columns id, subject"),
        (b"id,\na,b\n", "line 2: a value without a column"),
        (b'id,subject\na,"b\nc,d\n', r"line 2: unexpected end of data(.|\n)*quote"),
        (b"id\n" + b"x" * 200_000 + b"\n", "line 2: field larger than field limit"),
        (b"x" * 200_000 + b"\na\n", "line 1: field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UsageError, match=rf"t\.csv(.|\n)*({words})"):
        spreadsheet.read(tmp_path / "t.csv")
    spreadsheet.columns_of(tmp_path / "t.csv")


def test_an_empty_table_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("")
    assert spreadsheet.read(tmp_path / "t.csv").columns == ()
    assert spreadsheet.columns_of(tmp_path / "none.csv") == ()
    assert spreadsheet.columns_of(tmp_path) == ()


@given(st.binary(max_size=60))
def test_whatever_it_holds_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("table") / "t.csv"
    file.write_bytes(content)
    columns = spreadsheet.columns_of(file)
    try:
        table = spreadsheet.read(file)
    except UsageError:
        return
    assert table.columns == columns
    assert all(set(cells) == set(columns) and any(cells.values()) for _, cells in table.rows)
