"""The index file: what is saved comes back, and what is no index is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lemis.datasets import index as indexing
from lemis.datasets.index import Index, Scan
from lemis.errors import UsageError
from lemis.formats import names
from lemis.formats.directions import as_axes

directions = st.integers(0, 2**32 - 1).map(lambda seed: as_axes(Rotation.random(random_state=seed).as_matrix()))


def texts(exclude: str = "") -> st.SearchStrategy[str]:
    """Of characters that may be in one; what is left to filter is rare, as Hypothesis gives up where much is."""
    return st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=exclude), min_size=1, max_size=12)


text = texts().filter(lambda text: not names.unfit_text(text))
ids = texts('/\\:*?"<>|').filter(lambda text: not names.unfit_id(text))
scans = st.builds(
    Scan,
    id=ids,
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
    scans=st.lists(scans, max_size=3, unique_by=lambda scan: scan.id).map(tuple),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"version": 1, "root"', "is not JSON"),
        (b'{"version": 1, "root": "/scans"}', r"index\.json: layout is nothing"),
        (b"\xff{}", "is not UTF-8"),
        (b"[" * 3000, "nested"),
    ],
)
def test_a_damaged_index(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(UsageError, match=rf"{words}(.|\n)*lemis check"):
        indexing.load(tmp_path / "index.json")


def edited(folder: Path, **facts: object) -> Path:
    """An index of one scan, some of whose facts somebody has changed."""
    file = indexing.save(SMALL, folder / "index.json")
    index = json.loads(file.read_text())
    index["scans"][0] |= facts
    file.write_text(json.dumps(index))
    return file


NO_IDS = [
    "../../x", "/tmp/x", "a/b", "a\\b", "..", ".", ".a", "a.", " a", "a ", "", " ", "a\n", "a\x00", "\x1b[31m",
    "a\u202eb", "caf\udce9", "a" * 300, "ä" * 101, "meta", "Keypoints", "x.label", "x.keypoints", "a:b", "a*", "a?",
    'a"', "<a>", "a|b",
]  # fmt: skip


@pytest.mark.parametrize("id", NO_IDS, ids=ascii)
def test_an_id_that_cannot_be_a_file_name_is_refused(id: str, tmp_path: Path) -> None:
    assert names.unfit_id(id)
    with pytest.raises(UsageError, match=r"ids that cannot be used|half a character"):
        indexing.load(edited(tmp_path, id=id))


@given(st.text(max_size=300))
def test_what_passes_as_an_id_stays_in_its_folder(id: str) -> None:
    if not names.unfit_id(id):
        assert (Path("/out") / f"{id}.nii.gz").resolve().parent == Path("/out")
        assert len(f".{id}.keypoints.npz.1234567.part".encode()) <= 255
        assert names.readable(id) == id


def test_one_id_twice_is_refused(tmp_path: Path) -> None:
    (scan,) = SMALL.scans
    file = indexing.save(dataclasses.replace(SMALL, scans=(scan, scan)), tmp_path / "index.json")
    with pytest.raises(UsageError, match="ids that occur twice: a"):
        indexing.load(file)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"subject": ""}, r"subjects that cannot be used:  \(is empty\)"),
        ({"subject": "a\x1bb"}, r"subjects that cannot be used: a\\x1bb"),
        ({"images": ["a\n.nii.gz"]}, r"paths that cannot be used: a\\n"),
        ({"label": ""}, "paths that cannot be used"),
        ({"shape": [0, 0, 0]}, r"shape\.0 is 0(.|\n)*greater than 0"),
        ({"shape": [4, 4]}, "one number per axis"),
        ({"shape": "x"}, "shape"),
        ({"spacing_mm": [float("nan")] * 3}, r"spacing_mm\.0 is nan(.|\n)*a finite number"),
        ({"spacing_mm": [1.0, -1.0, 1.0]}, r"spacing_mm\.1 is -1\.0(.|\n)*greater than 0"),
        ({"slice_axis": 7}, r"slice_axis is 7(.|\n)*less than or equal to 2"),
        ({"images": []}, r"images is \[\](.|\n)*at least 1 item"),
        ({"label_values": ["x"]}, "label_values.0"),
    ],
)
def test_an_index_of_nonsense_is_refused(facts: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        indexing.load(edited(tmp_path, **facts))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J"])
def test_a_structure_whose_name_cannot_be_shown_is_refused(name: str, tmp_path: Path) -> None:
    file = indexing.save(dataclasses.replace(SMALL, labels={"background": 0, name: 1}), tmp_path / "index.json")
    with pytest.raises(UsageError, match=r"the structure .* (is empty|holds a control character)"):
        indexing.load(file)


@pytest.mark.parametrize("axes", [
    [[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 0, 0], [0, 0, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[float("nan")] * 3] * 3, [[1, 0, 0], [0, 1, 0], [0, 0, float("inf")]], [[0, 0, 0]] * 3,
    [[1e300] * 3] * 3,
])  # fmt: skip
@pytest.mark.parametrize("where", ["frame", "axes"])
def test_directions_that_are_none_are_refused(axes: list[list[float]], where: str, tmp_path: Path) -> None:
    facts = json.loads(indexing.save(SMALL, tmp_path / "index.json").read_text(encoding="utf-8"))
    (facts if where == "frame" else facts["scans"][0])[where] = axes
    (tmp_path / "index.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"index\.json: (frame|scans\.0\.axes).* is "):
        indexing.load(tmp_path / "index.json")


def test_directions_without_a_grid_are_refused(tmp_path: Path) -> None:
    scan = dataclasses.replace(SMALL.scans[0], axes=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    with pytest.raises(ValidationError, match="a scan with axes has a shape and a spacing too"):
        indexing.save(dataclasses.replace(SMALL, scans=(scan,)), tmp_path / "index.json")
    facts = json.loads(indexing.save(SMALL, tmp_path / "index.json").read_text(encoding="utf-8"))
    facts["scans"][0] |= {"axes": scan.axes, "shape": [], "spacing_mm": []}
    (tmp_path / "index.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"scans\.0 is (.|\n)*a scan with axes has a shape and a spacing too"):
        indexing.load(tmp_path / "index.json")
