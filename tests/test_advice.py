"""Whatever Lemis tells to type is a command that it takes, an option that it has, a key that it knows."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import lemis
from lemis import cli, plugins
from lemis.comparison import plans
from lemis.errors import UsageError
from lemis.prediction import settings as predicting
from lemis.preparation import keypoints
from lemis.training import pool, schedule, supervised
from lemis.training.sections import NAMES, SECTIONS

ROOT = Path(lemis.__file__).parent
LEMIS = typer.main.get_command(cli.app)
PLACEHOLDER = "SOMETHING"
OF_OTHERS = {"--no-python"}  # of torchrun
PYTHON_ONLY = {
    f"phantom/{name}.py" for name in ("dataset", "label_noise", "public_sets", "scans")
}  # advice about arguments of functions


def rendered(node: ast.expr) -> Iterator[str]:
    """The texts that an expression can give, with placeholders for what only running it tells."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else PLACEHOLDER
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        ]
        yield "".join(map(str, parts))
    elif isinstance(node, ast.IfExp):
        yield from rendered(node.body)
        yield from rendered(node.orelse)


def docstrings(tree: ast.Module) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            found.add(id(body[0].value))
    return found


def texts() -> Iterator[tuple[str, str, bool]]:
    """(where, text, whether it is a ``next=``) of every text of the package that is no docstring."""
    for file in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inside = docstrings(tree) | {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        advice = {
            id(node)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            for word in call.keywords
            if word.arg in ("next", "repair")
            for node in ast.walk(word.value)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inside:
                for text in rendered(node):
                    yield f"{file.relative_to(ROOT).as_posix()}:{node.lineno}", text, id(node) in advice


TEXTS = list(texts())
QUOTED = re.compile(r"`(lemis [^`]*)`")
# Much of the help is in docstrings, which are not among the texts.
HELP = [
    (f"{verb} {one.name}", one.help) for verb, command in LEMIS.commands.items() for one in command.params if one.help
]
# Up to where a sentence goes on after the command.
COMMANDS = [
    *((where, text) for where, text, is_next in TEXTS if is_next and text.startswith("lemis ")),
    *(
        (where, text.removeprefix("Example: ").split(". ")[0])
        for where, text, _ in TEXTS
        if text.startswith("Example: lemis ")
    ),
    *((where, command) for where, text, _ in TEXTS for command in QUOTED.findall(text)),
    *((f"help of {verb}", command) for verb, text in HELP for command in QUOTED.findall(text)),
]


def test_there_is_advice():
    assert len(COMMANDS) > 40
    assert sum(is_next for _, _, is_next in TEXTS) > 200


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_is_one_that_the_command_line_takes(where, command):
    words = shlex.split(command.replace("NAME...", "NAME"))[1:]
    if words and words[0].startswith("-"):
        assert words[0] in ("--help", "--version")
        return
    if words[0] == PLACEHOLDER:  # `lemis {section}`: each of the verbs that sections are named for
        for section in ("prepare", "pretrain", "finetune"):
            LEMIS.commands[section].make_context(section, as_typed(words[1:]))
        return
    verb = LEMIS.commands.get(words[0])
    assert verb is not None, f"there is no lemis {words[0]}"
    bare = len(words) == 1  # the name of a verb in a sentence
    if bare and not command.isspace():
        return
    context = verb.make_context(words[0], as_typed(words[1:]))
    for word in context.params.get("overrides") or []:
        assert known(word.partition("=")[0]), f"{where}: {word}"


NUMBERS = {"--fold", "--labelled", "--seed", "--jobs", "--dims", "--at-once", "--gpus", "--features"}


def as_typed(words: list[str]) -> list[str]:
    """With a number where an option takes one."""
    pairs = zip(["", *words], words, strict=False)
    return ["2" if before in NUMBERS and word == PLACEHOLDER else word for before, word in pairs]


OPTIONS = {name for verb in LEMIS.commands.values() for option in verb.params for name in option.opts}
TYPED_OPTIONS = [(where, text) for where, text, is_next in TEXTS if is_next and re.search(r"(?<!\S)--\w", text)]


@pytest.mark.parametrize(("where", "text"), TYPED_OPTIONS, ids=[where for where, _ in TYPED_OPTIONS])
def test_an_option_is_one_that_a_verb_has(where, text):
    named = {word for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", text) if PLACEHOLDER not in word}
    assert named <= OPTIONS | OF_OTHERS


# --- keys


def fields(cls) -> dict[str, object]:
    return typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}


def inner(hint):
    if dataclasses.is_dataclass(hint):
        return hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)), None)
    return None


def leads(cls, parts: list[str]) -> bool:
    """Whether a dotted key is one of a class of settings."""
    if not parts or cls is None:
        return not parts
    first, *rest = parts
    hints = fields(cls)
    return (first == PLACEHOLDER or first in hints) and (not rest or leads(inner(hints.get(first)), rest))


CLASSES = {
    "method": [plugins.load(kind, name).Settings for kind in ("methods", "single") for name in plugins.names(kind)],
    "backbone": [plugins.load("backbones", name).Settings for name in plugins.names("backbones")],
    "auxiliary": [plugins.load("auxiliary", name).Settings for name in plugins.names("auxiliary")],
    "semi": [pool.Settings, *(plugins.load("semi", name).Settings for name in plugins.names("semi"))],
    "objective": [supervised.Settings],
    "prepare": [keypoints._Preparation],
    "upstream_prepare": [keypoints._Preparation],
    "pretrain": [schedule.Settings],
    "finetune": [schedule.Tuning],
}
TOP = [schedule.Tuning, predicting.Settings, plans.Plan, keypoints._Preparation]


def known(key: str) -> bool:
    """Whether some verb takes ``key=``."""
    first, *rest = key.split(".")
    if first == "finetune" and rest and rest[0] == "objective":
        return known(".".join(rest))
    if first == "settings" and rest:
        return known(".".join(rest))
    if first in CLASSES and rest:
        return any(leads(cls, rest) for cls in CLASSES[first])
    return any(leads(cls, [first, *rest]) for cls in TOP)


KEYS = [
    (where, key)
    for where, text, is_next in TEXTS
    if is_next and where.partition(":")[0] not in PYTHON_ONLY
    for key in re.findall(r"(?<![\w.'\"(#-])([a-z_]+(?:\.[a-z_]+)*)=(?!=)", text)
    if PLACEHOLDER not in key
]


@pytest.mark.parametrize(("where", "key"), KEYS, ids=[f"{where} {key}" for where, key in KEYS])
def test_a_key_is_one_that_some_verb_takes(where, key):
    assert known(key)


def test_a_key_that_no_verb_takes_is_seen():
    assert not known("size")
    assert not known("spatial.interpolation")
    assert not known("method.sizes_px")
    assert known("method.spatial.interpolation")
    assert set(NAMES) <= set(SECTIONS)


# --- a key of another verb


@pytest.mark.parametrize(
    ("resolve", "next"),
    [
        (
            lambda run_settings: run_settings.pretraining("pcl", None, {}, ["pretrain.learning_rate=0.03"]),
            "learning_rate=0.03",
        ),
        (lambda run_settings: run_settings.finetuning("unet2d", {}, ["finetune.steps=9"]), "steps=9"),
        (
            lambda run_settings: run_settings.finetuning("unet2d", {}, ["pretrain.steps=9"]),
            "lemis pretrain WORK steps=9",
        ),
        (
            lambda run_settings: run_settings.by_section(["learning_rate=0.03"]),
            "pretrain.learning_rate=... or finetune.learning_rate=...",
        ),
    ],
)
def test_a_key_of_another_verb_is_told_as_it_is_here(resolve, next):
    from lemis.training import run_settings

    with pytest.raises(UsageError) as error:
        resolve(run_settings)
    assert error.value.next == next
