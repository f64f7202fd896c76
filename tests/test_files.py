"""Whole files or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemis import files


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
