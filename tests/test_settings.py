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
from lemis.preparation.keypoints import preparation
from lemis.preparation.settings import Settings as Preparation
from lemis.training import run_settings


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


# --- values that nobody means


@dataclass(frozen=True, kw_only=True)
class Wide:
    rate: float = 1.0
    number: int = 1
    size_px: int | tuple[int, int] = 1
    switch: bool = False
    either: bool | int = 1
    pair: tuple[float, float] | None = None
    name: str | int = "a"
    seed: settings.Seed = 0
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("typed", "given", "allowed"),
    [
        ("rate=.inf", "rate=inf", "finite"),
        ("rate=inf", "rate=inf", "finite"),
        ("rate=-.inf", "rate=-inf", "finite"),
        ("rate=nan", "rate=nan", "finite"),
        ("rate=1e39", "rate=1e\\+39", "float32"),
        ("rate=1e-39", "rate=1e-39", "float32"),
        ("rate=1e400", "rate=inf", "finite"),
        ("pair=[0, .nan]", "pair=nan", "finite"),
        ("number=true", "number=True", "not true or false"),
        ("number=yes", "number=True", "not true or false"),
        ("pair=[1, true]", "pair=\\[1, True\\]", "not true or false"),
        ("name=off", "name=False", "not true or false"),
        ("number=12:30", "number='12:30'", "valid integer"),
        ("number=1e20", "number=1e\\+20", "maximum size"),
        ("number=1.5", "number=1.5", "fractional part"),
        ("number=99999999999", "number=99999999999", "up to 2147483647"),
        ("size_px=16385", "size_px=16385", "at most 16384 pixels"),
        ("size_px=[1, 20000]", "size_px=20000", "at most 16384 pixels"),
        ("seed=-1", "seed=-1", "greater than or equal to 0"),
        ("seed=4294967296", "seed=4294967296", "less than 4294967296"),
        ("inner.window=true", "inner.window=True", "not true or false"),
    ],
)
def test_a_value_that_nobody_means_is_refused(typed, given, allowed):
    with pytest.raises(UsageError, match=f"(?s)^at\\.{given}\n.*{allowed}"):
        settings.resolve(Wide, settings.parse_overrides([typed]), prefix="at.")


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("switch=true", "switch", True),
        ("switch=no", "switch", False),
        ("either=true", "either", True),
        ("number=010", "number", 10),
        ("rate=0", "rate", 0.0),
        ("seed=4294967295", "seed", 4294967295),
        ("size_px=16384", "size_px", 16384),
    ],
)
def test_a_value_that_somebody_means_is_taken(typed, key, value):
    assert getattr(settings.resolve(Wide, settings.parse_overrides([typed])), key) == value


@pytest.mark.parametrize(
    "pair",
    [
        f"rate={'9' * 5000}",
        f"rate=[{'[' * 3000}",
        f"rate={{a: {'x' * 100_000}}}",
        f"{'a.' * 3000}b=1",
        f"{'a' * 100_000}=1",
        f"rate={'x' * 100_000}",
        "rate=[&a [1,1,1,1], *a, *a, &b [*a,*a,*a]," + "*b," * 60_000 + "]",
        "rate=!!python/object/apply:os.system [true]",
    ],
)
def test_however_long_it_is_a_refusal_is_short(pair):
    with pytest.raises(UsageError) as error:
        settings.resolve(Wide, settings.parse_overrides([pair]))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("range_", [[99, 1], [5, 5], ["a", 1], [1], True])
@pytest.mark.parametrize("key", ["clip_percentiles", "clip_values"])
def test_a_range_that_holds_nothing_is_refused(key, range_):
    with pytest.raises(UsageError, match=key):
        preparation({key: range_})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing_mm", float("inf")), ("spacing_mm", 1e-9), ("spacing_mm", 1e9), ("spacing_mm", 0),
        ("spacing_mm", True), ("field_of_view_mm", 1e9), ("slice_spacing_mm", 1e-9),
        ("whole_px", [1e9, 4, 4]), ("whole_px", [20_000, 4, 4]),
    ],
)  # fmt: skip
def test_what_no_scan_can_be_prepared_to_is_refused(key, value):
    with pytest.raises(UsageError, match=key):
        settings.resolve(Preparation, {key: value})


@pytest.mark.parametrize(
    "tree",
    [
        {"prepare": "x"}, {"pretrain": 5}, {"finetune": [1]}, {"methods": 5}, {"methods": {"pcl": 5}}, {"volumes": "x"},
        {"volumes": {"prepare": "x"}}, {"method": ["pcl"]}, {"method": {"tau": 1}}, {"1": 2}, {"": 2}, {"x" * 9999: 2},
        {"methods": {"x" * 9999: {}}}, {"schedules": {"pcl": [1]}}, {"backbones": {"unet2d": None}},
    ],
)  # fmt: skip
def test_sections_of_another_shape_are_refused(tree, tmp_path):
    file = tmp_path / "mine.yaml"
    settings.write_yaml(tree, file)
    with pytest.raises(UsageError) as error:
        run_settings.base(None, file)
    assert len(str(error.value)) < 3000
