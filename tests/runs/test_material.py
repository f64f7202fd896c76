"""What a training depends on: found again by content, and every change said in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.errors import UsageError
from lemis.preparation.store import open_store
from lemis.runs import material
from lemis.runs.material import Seen, TrainedOn

FACTS = {"prepared": {"spacing_mm": 2.0}, "channels": ["MR"], "labels": {"background": 0, "LV": 1}}
A, B = Seen("p1", "image a", "label a", "1"), Seen("p2", "image b", None, "2")
NOW = TrainedOn(facts=FACTS, scans={"a": A, "b": B}, start="weights", code={"lab.idea": "code"})


def with_scans(**scans: Seen) -> TrainedOn:
    return dataclasses.replace(NOW, scans=scans)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, ["what it was trained on is not recorded"]),
        (NOW, []),
        (with_scans(a=A._replace(label="another"), b=B), ["label changed: a"]),
        (with_scans(a=A._replace(label=None), b=B), ["label changed: a"]),
        (with_scans(a=A, b=B._replace(image="another")), ["image changed: b"]),
        (with_scans(a=A, b=B._replace(subject="p3")), ["subject changed: b"]),
        (with_scans(a=A), ["new: b"]),
        (with_scans(a=A, b=B, c=B), ["gone: c"]),
        (with_scans(a=A, c=B), ["new: b", "gone: c"]),
        (with_scans(a=A._replace(fingerprint="prepared again, with the same result"), b=B), []),
        (dataclasses.replace(NOW, held_out={"c": A}), []),  # the weights do not depend on it
        (
            dataclasses.replace(NOW, facts={**FACTS, "prepared": {"spacing_mm": 1.5}}),
            ["prepared with spacing_mm 2.0 instead of 1.5"],
        ),
        (dataclasses.replace(NOW, facts={**FACTS, "channels": ["CT"]}), ["channels ['MR'] instead of ['CT']"]),
        (dataclasses.replace(NOW, start="others"), ["the weights that it starts from changed"]),
        (dataclasses.replace(NOW, code={"lab.idea": "before"}), ["the module lab.idea changed"]),
    ],
)
def test_every_change_is_said(before: TrainedOn | None, said: list[str]) -> None:
    assert material.changes(before, NOW) == said


def test_of_many_changes_five_are_named() -> None:
    many = {f"s{i}": B for i in range(8)}
    assert material.scan_changes({}, many) == ["new: s0, s1, s2, s3, s4 and 3 more"]


names = st.text(min_size=1, max_size=8)
scans = st.dictionaries(names, st.builds(Seen, names, names, st.none() | names, names), max_size=4)


@given(before=scans, now=scans)
def test_nothing_is_said_exactly_where_the_content_is_the_same(before: dict[str, Seen], now: dict[str, Seen]) -> None:
    content = [{id: one[:3] for id, one in some.items()} for some in (before, now)]
    assert (material.scan_changes(before, now) == []) == (content[0] == content[1])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert material.read(tmp_path) is None
    material.write(tmp_path, NOW)
    assert material.read(tmp_path) == NOW


@pytest.mark.parametrize("content", ["", "[]", '{"facts": {}}', '{"facts": {}, "scans": {"a": {"subject": 3}}}'])
def test_a_damaged_record_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / material.FILE).write_text(content)
    with pytest.raises(UsageError, match=r"trained_on\.json") as caught:
        material.read(tmp_path)
    assert caught.value.next.startswith(f"delete {tmp_path}")


def test_scans_are_known_by_content_and_read_only_where_they_were_prepared_anew(prepared_work: Path) -> None:
    store = open_store(prepared_work / "prepared")
    found = material.seen(store, range(len(store.scans)), labels=True)
    assert [one.label is not None for one in found.values()] == [facts.labelled for facts in store.scans]
    assert len({one.image for one in found.values()}) == len(store.scans)
    assert all(one.label is None for one in material.seen(store, range(len(store.scans)), labels=False).values())
    first = store.scans[0].id
    known = {first: found[first]._replace(image="not read again"), "other": A}
    assert material.seen(store, [0, 1], labels=True, known=known)[first].image == "not read again"
    elsewhere = {first: known[first]._replace(fingerprint="of another preparation")}
    assert material.seen(store, [0], labels=True, known=elsewhere)[first] == found[first]
    without = {first: known[first]._replace(label=None)}  # of a pre-training, which looks at no label
    assert material.seen(store, [0], labels=True, known=without)[first] == found[first]
