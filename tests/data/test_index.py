"""The index file: what is saved comes back, and what is no index is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.data import index as indexing
from lemis.data.index import Index, Scan
from lemis.errors import UsageError

directions = st.tuples(*[st.tuples(*[st.floats(-1, 1)] * 3)] * 3)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
scans = st.builds(
    Scan,
    id=text,
    subject=text,
    images=st.lists(text, min_size=1, max_size=3).map(tuple),
    label=st.none() | text,
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.01, 20)] * 3),
    slice_axis=st.integers(0, 2),
    label_values=st.lists(st.integers(-5, 300), unique=True).map(sorted).map(tuple),
    axes=st.just(()) | directions,
)
indexes = st.builds(
    Index,
    root=text,
    layout=text,
    channels=st.lists(text, min_size=1, max_size=3).map(tuple),
    labels=st.dictionaries(text, st.integers(0, 300), max_size=4),
    scans=st.lists(scans, max_size=3).map(tuple),
    ignored=st.lists(st.integers(-5, 300), unique=True, max_size=3).map(tuple),
    frame=st.none() | directions,
)
SMALL = Index(
    root="/scans",
    layout="flat",
    channels=("image",),
    labels={"background": 0, "Milz": 1},
    scans=(Scan(id="a", subject="a", images=("a.nii.gz",)),),
)


@given(index=indexes)
def test_what_is_saved_comes_back(index: Index, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("index") / "index.json"
    indexing.save(index, file)
    assert indexing.load(file) == index
    assert [path.name for path in file.parent.iterdir()] == ["index.json"]


def test_the_file_has_one_line_per_scan(tmp_path: Path) -> None:
    file = indexing.save(SMALL, tmp_path / "work" / "index.json")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if '"id"' in line]
    assert len(lines) == 1
    assert json.loads(file.read_text(encoding="utf-8"))["labels"] == {"background": 0, "Milz": 1}


def test_an_index_of_before_ignores_nothing(tmp_path: Path) -> None:
    file = indexing.save(SMALL, tmp_path / "index.json")
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert facts.pop("ignored") == []
    file.write_text(json.dumps(facts))
    assert indexing.load(file) == SMALL


def test_an_index_of_before_there_were_frames(tmp_path: Path) -> None:
    file = indexing.save(SMALL, tmp_path / "index.json")
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert facts.pop("frame") is None
    assert facts["scans"][0].pop("axes") == []
    file.write_text(json.dumps({**facts, "version": 1}))
    assert indexing.load(file) == dataclasses.replace(SMALL, version=1)


def test_files_lie_under_the_root_unless_they_say_otherwise() -> None:
    assert indexing.locate(SMALL, "a.nii.gz") == Path("/scans/a.nii.gz")
    assert indexing.locate(SMALL, "/other/a.nii.gz") == Path("/other/a.nii.gz")


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1, 1, 10), 2), ((8, 1, 1), 0), ((1, 8, 1), 1), ((1, 1, 1), 2), ((1.0, 1.0, 0.995), 2), ((2, 2, 1), 1)],
)
def test_slice_axis(spacing: tuple[float, ...], axis: int) -> None:
    assert indexing.slice_axis(spacing) == axis


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist(.|\n)*lemis check"):
        indexing.load(tmp_path / "index.json")


@pytest.mark.parametrize("facts", ['{"version": 7}', "[1, 2]", "{}"])
def test_another_version(facts: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(facts)
    with pytest.raises(UsageError, match=r"version (7|None)(.|\n)*version 1"):
        indexing.load(tmp_path / "index.json")


@pytest.mark.parametrize("text", ['{"version": 1, "root"', '{"version": 1, "root": "/scans"}'])
def test_a_damaged_index(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        indexing.load(tmp_path / "index.json")
