"""What paths say: formats, parts of files, and stamps that change with the files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lemis.errors import DataFault, UsageError
from lemis.formats import volume
from lemis.formats.paths import FORMATS, stamp, suffix_of


def test_unknown_formats_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        volume.read(tmp_path / "nothing.nii.gz")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match=r"a\.txt: files of this format are not read(.|\n)*\.nii\.gz"):
        volume.read(tmp_path / "a.txt")
    assert suffix_of(tmp_path / "a.txt") == ""


def test_files_without_a_suffix_are_found_by_their_content(tmp_path: Path, write_series) -> None:
    for number, file in enumerate(write_series(tmp_path, np.arange(120, dtype=np.int16).reshape(6, 4, 5))):
        file.rename(tmp_path / f"IM{number}")
    (tmp_path / "README").write_text("no slice")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert volume.read(tmp_path).array.shape == (6, 4, 5)


def test_a_stamp_changes_with_the_files_that_a_path_stands_for(tmp_path: Path) -> None:
    names = ("ct.mhd", "ct.raw", "other.raw", "series/1.dcm", "series/2.dcm", "film.nii.gz")
    (tmp_path / "series").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"0" * number)
    stamps = {path: stamp(tmp_path / path) for path in ("ct.mhd", "series", "film.nii.gz#frame=3")}
    assert stamps == {path: stamp(tmp_path / path) for path in stamps}
    assert stamp(tmp_path / "film.nii.gz") == stamps["film.nii.gz#frame=3"]
    for name, changed in (("ct.raw", "ct.mhd"), ("series/2.dcm", "series"), ("film.nii.gz", "film.nii.gz#frame=3")):
        (tmp_path / name).write_bytes(b"other")
        now = {path: stamp(tmp_path / path) for path in stamps}
        assert [path for path in stamps if now[path] != stamps[path]] == [changed]
        stamps = now
    (tmp_path / "other.raw").write_bytes(b"other")
    assert stamps["ct.mhd"] == stamp(tmp_path / "ct.mhd")
    for absent in ("no.nii", "no.mhd"):
        with pytest.raises(FileNotFoundError):
            stamp(tmp_path / absent)


def test_a_file_of_the_same_size_and_time_has_another_stamp(tmp_path: Path) -> None:
    """As an archive unpacks it over the other: the time of its content is set."""
    file = tmp_path / "scan.nii"
    file.write_bytes(b"0" * 400)
    before, state = stamp(file), file.stat()
    while file.stat().st_ctime_ns == state.st_ctime_ns:  # as coarse as the disk's clock
        file.write_bytes(b"1" * 400)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert stamp(file) != before


def test_a_moved_file_can_have_the_same_stamp(tmp_path: Path) -> None:
    file, moved = tmp_path / "a" / "lesion.png", tmp_path / "b" / "lesion.png"
    for folder in (file.parent, moved.parent):
        folder.mkdir()
    file.write_bytes(b"0")
    before, state = stamp(file, moved_is_other=False), file.stat()
    file.rename(moved)
    while moved.stat().st_ctime_ns == state.st_ctime_ns:  # as coarse as the disk's clock
        os.utime(moved, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert stamp(moved, moved_is_other=False) == before


def test_what_is_no_file_is_refused_at_the_door(tmp_path: Path) -> None:
    for suffix in FORMATS:
        os.mkfifo(tmp_path / f"a{suffix}")
        with pytest.raises(DataFault, match="is a named pipe"):
            volume.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("name", "what"), [("a.hdr", r"\.hdr and \.img"), ("a.img.gz", "pairs"), ("a.mnc", "MINC")])
def test_formats_that_are_not_read_are_named(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"0")
    with pytest.raises(UsageError, match=rf"{what}(.|\n)*are not read(.|\n)*convert it"):
        volume.read(tmp_path / name)
