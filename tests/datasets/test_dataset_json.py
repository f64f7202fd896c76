"""A dataset.json of any shape is read where it says something that can be used, else refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemis.datasets import dataset_json
from lemis.errors import UsageError

GOOD = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
NOTHING = [None, {}, ""]


def read(folder: Path, facts: Any) -> dataset_json.Declared:
    (folder / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return dataset_json.read(folder / "dataset.json")


def test_nnunet_and_decathlon_say_the_same(tmp_path: Path) -> None:
    one = read(tmp_path, GOOD)
    assert one.channel_names == ("CT",)
    assert one.labels == {"background": 0, "liver": 1}
    assert one.file_ending == ".nii.gz"
    older = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "file_ending": "nii.gz"}
    assert read(tmp_path, older) == one


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_nothing_is_as_good_as_absent(key: str, nothing: Any, tmp_path: Path) -> None:
    assert read(tmp_path, {**GOOD, key: nothing}) == read(tmp_path, {k: v for k, v in GOOD.items() if k != key})


def test_no_file_and_an_empty_object_say_nothing(tmp_path: Path) -> None:
    assert dataset_json.read(tmp_path / "dataset.json") == read(tmp_path, {}) == dataset_json.Declared()


def test_channels_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(number): f"mr{number}" for number in (10, 2, *range(2), *range(3, 10))}
    assert read(tmp_path, {"channel_names": names}).channel_names == tuple(f"mr{number}" for number in range(11))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("channel_names", ["CT", "PET"], r'is \["CT", "PET"\](.|\n)*write "channel_names": \{"0": "CT", "1": "PET"\}'),
        ("channel_names", "CT", r'is "CT"(.|\n)*write "channel_names": \{"0": "CT"\}'),
        ("channel_names", [1, 2], r"is \[1, 2\](.|\n)*write"),
        ("channel_names", 5, "is 5"),
        ("channel_names", True, "is true"),
        ("channel_names", {"CT": 0, "PET": 1}, r'turn it round: "channel_names": \{"0": "CT", "1": "PET"\}'),
        ("channel_names", {"0": "T1", "2": "T2"}, r"numbered 0, 2(.|\n)*number the channels 0, 1"),
        ("channel_names", {"00": "T1"}, "number the channels 0"),
        ("channel_names", {"0": 1}, r'calls "0" 1, which is no text'),
        ("channel_names", {"0": ""}, r'calls "0" "", which is empty'),
        ("channel_names", {"0": "C\nT"}, "control character"),
        ("channel_names", {"0": {"name": "CT"}}, "is no text"),
        ("modality", ["CT"], r'"channel_names" is \["CT"\]'),
        ("labels", ["background", "a"], r'names without values(.|\n)*"labels": \{"background": 0, "a": 1\}'),
        ("labels", [], r"is \[\]"),
        ("labels", [1, 2], r"is \[1, 2\]"),
        ("labels", "x", 'is "x"'),
        ("labels", 5, "is 5"),
        ("labels", True, "is true"),
        ("labels", {"background": "0"}, r'"background": "0", in quotes(.|\n)*without quotes: "background": 0'),
        ("labels", {"a": "x"}, r'"a": "x", which is no whole number'),
        ("labels", {"a": True}, '"a": true, which is no whole number'),
        ("labels", {"a": 1.5}, '"a": 1.5, which is no whole number'),
        ("labels", {"a": None}, '"a": null'),
        ("labels", {"a": {"b": 1}}, 'declares the label "a"'),
        ("labels", {"a": 2**40}, r"which no label map can hold(.|\n)*2147483647"),
        ("labels", {"9" * 18: "a"}, "which no label map can hold"),
        ("labels", {"9" * 5000: "a"}, "no whole number"),
        ("labels", {"background": 1, "a": 2}, r'"background": 1(.|\n)*give "background" the value 0'),
        ("labels", {"a": 1, "b": 1}, "gives the value 1 2 times"),
        ("labels", {"1": "a", "2": "a"}, 'gives the name "a" 2 times'),
        ("labels", {"": 1}, "the name is empty"),
        ("labels", {"a\x1b[31m": 1}, "control character"),
        ("labels", {"whole": [1, 2]}, r'"whole": \[1, 2\]; regions'),
        ("labels", {"ignore": 3}, '"ignore": 3; regions .* ignore label'),
        ("file_ending", [".nii.gz"], r'is \["\.nii\.gz"\]'),
        ("file_ending", 5, "is 5"),
        ("file_ending", False, "is false"),
        ("file_ending", ".nii\n", 'is ".nii'),
    ],
)
def test_what_cannot_be_used_is_shown_with_what_to_write(key: str, value: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, {**{k: v for k, v in GOOD.items() if key != "modality" or k != "channel_names"}, key: value})
    assert str(tmp_path / "dataset.json") in caught.value.given
    assert '"labels": {"background": 0' in caught.value.allowed


@pytest.mark.parametrize("value", [[], 5, "x", None, True, 1.5])
def test_no_object(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.json holds "):
        read(tmp_path, value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{", b"[" * 3000, b'{"labels": {"a": ' + b"9" * 5000 + b"}}"])
def test_no_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"dataset\.json(.|\n)*correct dataset\.json, or remove it"):
        dataset_json.read(tmp_path / "dataset.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("0"), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "modality", "name"]), values))
def test_whatever_it_holds_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> None:
    try:
        read_facts = read(tmp_path_factory.mktemp("facts"), facts)
    except UsageError:
        return
    assert all(type(value) is int for value in read_facts.labels.values())
    assert len(set(read_facts.labels.values())) == len(read_facts.labels)
    assert all(isinstance(name, str) and name for name in (*read_facts.channel_names, *read_facts.labels))
