"""YAML is read strictly: what nobody means is refused, and no text costs more than its length."""

import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lemis import yaml_text
from lemis.errors import UsageError

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("1:02:03.5", "1:02:03.5"),
        ("010", 10),  # 8 in YAML 1.1
        ("2026-11-29", "2026-11-29"),
        ("1e-3", 0.001),
        ("-1.5E+2", -150.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("-7", -7),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("yes", True),
        ("~", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("{1: a, on: b, null: c}", {"1": "a", "on": "b", "null": "c"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("[&x 1, *x]", [1, 1]),
    ],
)
def test_text_is_read_as_it_is_meant(text, value):
    assert yaml_text.load(text, "it") == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' for the second time"),
        ("? [a]\n: 1", "line 1: a key that is no text"),
        ("a: &x 1\n*x : 2", "line 2: a key that is no text"),
        ("[" * 3000, "more than 50 levels"),
        ("{a: " * 3000, "more than 50 levels"),
        ("- " * 3000 + "1", "more than 50 levels"),
        (LAUGHS, "those that aliases stand for counted"),
        ("a: &a [*a]", "of nothing before it"),
        (r'a: "\ud800"', "line 1: half a character"),
        (r'"\udfff": 1', "line 1: half a character"),
        ("a: *b", "the alias \\*b of nothing before it"),
        ("9" * 5000, "line 1: a number of 5000 digits"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("!!set {a, b}", "could not determine a constructor"),
        ("!!binary aGk=", "could not determine a constructor"),
        ("!!timestamp 2026-11-29", "could not determine a constructor"),
        ("!!int 12:30", "invalid literal"),
        ("!!float 12:30", "could not convert"),
        ("a: [1", "line 1"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("a: \x00", "unacceptable character|special characters"),
        ("x" * 2_000_001, "2000001 characters are too many"),
        ("[" + "1," * 100_001 + "]", "more than 100000 values"),
    ],
)
def test_what_is_not_read_is_refused_with_its_line(text, problem):
    with pytest.raises(UsageError, match=problem) as error:
        yaml_text.load(text, "mine.yaml")
    assert error.value.given.startswith("mine.yaml cannot be read: ")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "settings.yaml")
    with pytest.raises(UsageError, match="it is no file"):
        yaml_text.read(tmp_path / "settings.yaml")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "settings.yaml"
    file.touch()
    os.truncate(file, 2**40)
    with pytest.raises(UsageError, match="1099511627776 bytes are too many"):
        yaml_text.read(file)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "settings.yaml").write_text("\ufeffa: 1", encoding="utf-8")
    assert yaml_text.read(tmp_path / "settings.yaml") == {"a": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tricky = st.sampled_from(["12:30", "010", "1e3", "1e-3", "1_0", "yes", "~", "", "2026-11-29", ".inf", "0o7", "<<", "="])


@given(values | tricky | st.lists(tricky))
def test_what_is_written_is_read_again_here_and_elsewhere(value):
    for text in (yaml_text.dump(value), yaml_text.dump_in_line(value)):
        assert yaml_text.load(text, "it") == value
        assert yaml.safe_load(text) == value


def test_what_is_read_is_the_readers_own():
    yaml_text.load("a: {b: [1]}", "it")["a"]["b"].append(2)
    assert yaml_text.load("a: {b: [1]}", "it") == {"a": {"b": [1]}}
