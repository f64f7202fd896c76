"""Whole files or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis import files
from lemis.errors import UsageError


def test_text_is_utf8_and_bytes_stay(tmp_path: Path) -> None:
    files.write(tmp_path / "text", "Größe\n")
    files.write(tmp_path / "bytes", b"\r\n\x00")
    assert (tmp_path / "text").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\r\n\x00"


def test_an_error_leaves_the_file_of_before_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    files.write(file, "before")

    def broken() -> None:
        with files.replacing(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_being_written_is_hidden_and_known_by_its_end(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        assert temporary.name.startswith(".")
        assert list(tmp_path.glob(f"*{files.PART}")) == [temporary]


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    files.write(file, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(file, "new \ud800")
    assert file.read_text(encoding="utf-8") == "old"
    files.write(file, "new")
    assert file.read_text(encoding="utf-8") == "new"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, st.booleans())
def test_what_json_wrote_is_read(value: Any, ascii: bool) -> None:
    # A text of half characters is no text; hypothesis does not draw one.
    assert files.parse_json(json.dumps(value, ensure_ascii=ascii), where="x.json", next="write it again") == value


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert files.read_json(tmp_path / "x.json", next="write it again") == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON: .* line 1, column 2"),
        (b"[1] [2]", "is not JSON: Extra data"),
        ('{"name": "Größe"}'.encode("latin-1"), "is not UTF-8: the byte 0xf6 in line 1"),
        ("[1]".encode("utf-16"), "is not UTF-8: the byte 0xff"),
        (b"\x00\x01", "is not JSON"),
        (b"[" * 3000 + b"]" * 3000, "is nested more than 64 levels deep"),
        (b"[" * 900 + b"]" * 900, "is nested more than 64 levels deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "is nested more than 64 levels deep"),
        (b"[" + b"9" * 5000 + b"]", "holds a number of 5000 digits"),
        (b'{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        (b'["\\ud800"]', "names half a character"),
        (b'["\\udce9"]', "names half a character"),
    ],
)
def test_damaged_json_is_refused_naming_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"x\.json {words}") as caught:
        files.read_json(file, next="write it again")
    assert caught.value.next == "write it again"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json does not exist"):
        files.read_json(tmp_path / "none.json", next="write it")
    with pytest.raises(UsageError, match="is no file"):
        files.read_json(tmp_path, next="write it")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is no file"):
        files.read_json(tmp_path / "pipe", next="write it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[]")
    file.chmod(0)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        files.read_json(file, next="ask for it")


def test_a_text_beyond_all_bounds_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_TEXT_BYTES", 2**20)
    (tmp_path / "x.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(UsageError, match="more than 1 MB"):
        files.read_json(tmp_path / "x.json", next="give another file")
