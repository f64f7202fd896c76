"""NumPy's archives of arrays, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lemis.formats import npz


@pytest.fixture(params=[np.savez, np.savez_compressed])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param(tmp_path / "a.npz", names=np.array(["a", "b"]), rows=np.random.default_rng(0).normal(size=(9, 40)))
    return tmp_path / "a.npz"


def test_arrays_are_read_by_name(file: Path) -> None:
    found = npz.read(file, ("rows", "names"))
    assert [*found] == ["rows", "names"]
    assert found["rows"].shape == (9, 40)
    with pytest.raises(npz.Damaged, match="more"):
        npz.read(file, ("rows", "more"))
    with pytest.raises(FileNotFoundError):
        npz.read(file.with_name("gone.npz"), ("rows",))


def test_whatever_is_wrong_with_a_file_is_said_in_one_line(file: Path) -> None:
    whole, rng, said = file.read_bytes(), np.random.default_rng(1), set()
    damaged = [whole[:length] for length in (0, 1, 60, 200, len(whole) - 1)]
    for _ in range(600):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            content[place] = rng.integers(256)
        damaged.append(bytes(content))
    for content in damaged:
        file.write_bytes(content)
        try:
            npz.read(file, ("rows", "names"))
        except npz.Damaged as fault:
            said.add(str(fault))
    assert len(said) > 3
    assert not any("\n" in one for one in said)


def test_an_archive_of_python_objects_and_a_single_array_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as out:
        np.save(out, np.zeros(3))
    np.savez(tmp_path / "objects.npz", rows=np.array([{}], dtype=object))
    for name in ("one", "objects"):
        with pytest.raises(npz.Damaged):
            npz.read(tmp_path / f"{name}.npz", ("rows",))
