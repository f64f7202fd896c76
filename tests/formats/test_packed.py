"""Packed bytes: read to their end, damaged or endless ones refused, and never more memory than they take."""

from __future__ import annotations

import gzip
import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import DataFault
from lemis.formats import packed

CONTENT = np.random.default_rng(0).integers(0, 40, 300_000).astype(np.uint8).tobytes()
DAMAGE = (OSError, EOFError, zlib.error)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@given(start=st.integers(0, 1000), size=st.integers(0, len(CONTENT) - 1000))
@examples(20)
def test_any_part_of_a_packed_file(start: int, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.mktemp("gz") / "a.gz", gzip.compress(CONTENT, 1))
    found, after = packed.read_gzip(file, start, size)
    assert found.tobytes() == CONTENT[start : start + size]
    assert after == len(CONTENT) - start - size
    packed.verify_gzip(file, 0, size)


def test_members_of_a_gzip_file_follow_each_other(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gz", gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]))
    assert packed.read_gzip(file, 500, 2000)[0].tobytes() == CONTENT[500:2500]


@given(bit=st.integers(0, 8 * 5000 - 1))
@examples(60)
def test_a_flipped_bit_is_seen_though_all_that_is_wanted_was_read(
    bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(gzip.compress(CONTENT[:8000], mtime=0))
    bit = 80 + bit % (8 * (len(whole) - 10))  # behind the header, whose time and system nothing depends on
    whole[bit // 8] ^= 1 << bit % 8
    file = write(tmp_path_factory.mktemp("gz") / "a.gz", bytes(whole))
    for look in (packed.read_gzip, packed.verify_gzip):
        with pytest.raises(DAMAGE):
            look(file, 0, 8000)


@pytest.mark.parametrize("kept", [20, 5000, -8, -1])
def test_a_stream_that_ends_too_early(kept: int, tmp_path: Path) -> None:
    file = write(tmp_path / "a.gz", gzip.compress(CONTENT)[:kept])
    for look in (packed.read_gzip, packed.verify_gzip):
        with pytest.raises(DAMAGE):
            look(file, 0, 4000)
    file = write(tmp_path / "a.z", zlib.compress(CONTENT)[:kept])
    with pytest.raises(DAMAGE):
        packed.read_zlib(file, 0, 4000)


def test_a_stream_that_holds_less_than_is_claimed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gz", gzip.compress(CONTENT))
    for look in (packed.read_gzip, packed.verify_gzip):
        with pytest.raises(EOFError, match="unpacks to 300000 bytes, its header claims 300001"):
            look(file, 0, len(CONTENT) + 1)
    file = write(tmp_path / "a.z", zlib.compress(CONTENT))
    assert packed.read_zlib(file, 0, len(CONTENT)).tobytes() == CONTENT
    assert packed.read_zlib(file, 0, 1000).tobytes() == CONTENT[:1000]
    with pytest.raises(EOFError, match="unpacks to 300000 bytes"):
        packed.read_zlib(file, 0, len(CONTENT) + 1)


def test_the_check_sum_of_a_zlib_stream(tmp_path: Path) -> None:
    whole = bytearray(b"header" + zlib.compress(CONTENT))
    whole[-1] ^= 1
    with pytest.raises(zlib.error, match="incorrect data check"):
        packed.read_zlib(write(tmp_path / "a.z", bytes(whole)), 6, 1000)


def test_a_stream_that_never_ends_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MOST_AFTER", 1 << 20)
    bomb = bytes(8 << 20)
    with pytest.raises(OSError, match="unpacks to more than"):
        packed.read_gzip(write(tmp_path / "a.gz", gzip.compress(bomb)), 0, 1000)
    with pytest.raises(OSError, match="unpacks to more than"):
        packed.read_zlib(write(tmp_path / "a.z", zlib.compress(bomb)), 0, 1000)


def test_claims_that_a_file_cannot_hold(tmp_path: Path) -> None:
    packed.refuse_claim(tmp_path / "a.nii", 100, 100, "what it claims")
    packed.refuse_claim(tmp_path / "a.nii.gz", 103_200, 100, "what it claims", ratio=packed.DEFLATE_RATIO)
    with pytest.raises(DataFault, match=r"a\.nii cannot be read: it claims 5 x 5 voxels, 101 bytes, and holds 100"):
        packed.refuse_claim(tmp_path / "a.nii", 101, 100, "5 x 5 voxels")
    with pytest.raises(DataFault, match="which unpack to 103200 at most"):
        packed.refuse_claim(tmp_path / "a.nii.gz", 103_201, 100, "", ratio=packed.DEFLATE_RATIO)


def test_what_does_not_end_is_refused_at_the_door(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(DataFault, match=r"pipe\.nii is a named pipe"):
        packed.refuse_special(tmp_path / "pipe.nii")
    with pytest.raises(DataFault, match="is a device"):
        packed.refuse_special(Path("/dev/null"))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        with pytest.raises(DataFault, match="is a socket"):
            packed.refuse_special(tmp_path / "s")
    packed.refuse_special(tmp_path)
