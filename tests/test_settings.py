from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from lemis import settings
from lemis.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    window: Annotated[int, Field(gt=0)] = 4
    kind: Literal["mean", "max"] = "mean"


@dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: Annotated[int, Field(gt=0)] = 300
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    field_mm: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    clip: tuple[float, float] | None = None
    folder: Path | None = None
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def test_later_layers_win_key_by_key():
    resolved = settings.resolve(
        Settings,
        {"epochs": 10, "learning_rate": 0.5, "inner": {"window": 6, "kind": "max"}},
        {"epochs": 20, "inner": {"window": 8}},
    )
    assert resolved == Settings(epochs=20, learning_rate=0.5, inner=Inner(window=8, kind="max"))


def test_nothing_given_gives_the_defaults():
    assert settings.resolve(Settings) == Settings()


@pytest.mark.parametrize(
    ("layer", "given", "allowed"),
    [
        ({"epochs": 0}, "epochs=0", "greater than 0"),
        ({"epochs": "many"}, "epochs='many'", "valid integer"),
        ({"inner": {"window": -1}}, "inner.window=-1", "greater than 0"),
        ({"inner": {"kind": "median"}}, "inner.kind='median'", "'mean' or 'max'"),
        ({"maybe": {"window": -1}}, "maybe.window=-1", "greater than 0"),
        ({"inner": 3}, "inner=3", "dictionary"),
        ({"clip": [1, "x"]}, r"clip=\[1, 'x'\]", "valid number"),
        ({"field_mm": "all"}, "field_mm='all'", "valid number.*; or .*'auto'"),
        ({"field_mm": -2}, "field_mm=-2", "greater than 0"),
    ],
)
def test_a_bad_value_is_named_as_it_was_typed(layer, given, allowed):
    with pytest.raises(UsageError, match=f"(?s)^{given}\n.*{allowed}"):
        settings.resolve(Settings, layer)


def test_a_prefix_is_part_of_the_key():
    with pytest.raises(UsageError, match=r"^method\.epochs=0\n"):
        settings.resolve(Settings, {"epochs": 0}, prefix="method.")


@pytest.mark.parametrize(
    ("layer", "unknown", "next"),
    [
        ({"epoch": 3}, "unknown setting method.epoch\n", "method.epochs=..."),
        ({"inner": {"windows": 3}}, "unknown setting method.inner.windows\n", "method.inner.window=..."),
        ({"maybe": {"windows": 3}}, "unknown setting method.maybe.windows\n", "method.maybe.window=..."),
        ({"qqqq": 3}, "unknown setting method.qqqq\n", "`lemis list --json` shows every setting"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(layer, unknown, next):
    with pytest.raises(UsageError, match=unknown) as error:
        settings.resolve(Settings, layer, prefix="method.")
    assert error.value.next == next


def test_overrides_are_nested_and_typed():
    pairs = [
        "epochs=300",
        "method.window=4",
        "method.kind=max",
        "lr=1e-3",
        "clip=[1, 99]",
        "x=null",
        "y=true",
        "s=a=b",
    ]
    assert settings.parse_overrides(pairs) == {
        "epochs": 300,
        "method": {"window": 4, "kind": "max"},
        "lr": 1e-3,
        "clip": [1, 99],
        "x": None,
        "y": True,
        "s": "a=b",
    }


def test_the_last_of_two_equal_overrides_wins():
    assert settings.parse_overrides(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("pair", ["epochs", "=3", "--epochs", ""])
def test_an_override_without_key_or_value_is_refused(pair):
    with pytest.raises(UsageError, match="settings are written key=value"):
        settings.parse_overrides([pair])


@pytest.mark.parametrize("pair", ["clip=[1, 2", "a={", "a='x", "a=: b: c"])
def test_an_override_that_yaml_cannot_read_is_refused(pair):
    with pytest.raises(UsageError, match="a value that YAML reads"):
        settings.parse_overrides([pair])


numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=1e-30, max_value=1e30)


@given(
    epochs=st.integers(1, 10**9),
    rate=numbers,
    window=st.integers(1, 99),
    clip=st.none() | st.tuples(numbers, numbers),
)
def test_settings_survive_plain_types_yaml_and_the_command_line(epochs, rate, window, clip):
    given_ = Settings(epochs=epochs, learning_rate=rate, clip=clip, inner=Inner(window=window), maybe=Inner())
    tree = settings.plain(given_)
    assert settings.resolve(Settings, tree) == given_
    assert settings.resolve(Settings, yaml.safe_load(yaml.safe_dump(tree))) == given_
    typed = [f"epochs={epochs}", f"learning_rate={rate!r}", f"inner.window={window}", "maybe.window=4"]
    typed += [f"clip=[{clip[0]!r}, {clip[1]!r}]"] if clip else []
    assert settings.resolve(Settings, settings.parse_overrides(typed)) == given_


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(trees, trees)
def test_merging_keeps_every_key_and_the_higher_value(a, b):
    merged = settings.merge(a, b)
    assert set(merged) == set(a) | set(b)
    for key, value in merged.items():
        if key not in b:
            assert value == a[key]
        elif isinstance(a.get(key), dict) and isinstance(b[key], dict):
            assert value == settings.merge(a[key], b[key])
        else:
            assert value == b[key]


def test_merging_leaves_its_arguments_alone():
    low, high = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert settings.merge(low, high) == {"a": {"b": 1, "c": 2}}
    assert (low, high) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_stored_settings_keep_their_order_and_leave_no_other_file(tmp_path):
    path = tmp_path / "settings.yaml"
    settings.write_yaml(Settings(folder=Path("scans"), clip=(1, 99)), path)
    assert list(settings.read_yaml(path)) == [
        "epochs",
        "learning_rate",
        "field_mm",
        "clip",
        "folder",
        "inner",
        "maybe",
    ]
    assert settings.resolve(Settings, settings.read_yaml(path)) == Settings(folder=Path("scans"), clip=(1, 99))
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.yaml"]


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert settings.read_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "holds a list"),
        (b"text", "holds a str"),
        (b"a: [1", "cannot be read"),
        (b"\xff\xfe\x00\xd8", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, message):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        settings.read_yaml(path)


def test_presets_are_found_by_name_and_by_path(tmp_path):
    for name in settings.presets():
        assert settings.load_preset(name), f"{name} is empty"
    (tmp_path / "mine.yaml").write_text("epochs: 3")
    assert settings.load_preset(str(tmp_path / "mine.yaml")) == {"epochs": 3}


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="preset 'smal'") as error:
        settings.load_preset("smal")
    assert error.value.next == "--preset small"
