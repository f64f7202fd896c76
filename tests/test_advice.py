"""Whatever Lemis tells to type is a command that it takes, an option that it has, a key that it knows."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterator
from functools import cache
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
OF_OTHERS = {"--no-python", "--raw"}  # of torchrun, of gdcmconv
PYTHON_ONLY = {
    f"phantom/{name}.py" for name in ("dataset", "label_noise", "public_sets", "scans")
}  # advice about arguments of functions


def rendered(node: ast.Constant | ast.JoinedStr) -> str:
    """The text, with placeholders for what only running it tells."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in parts)


def strings(node: ast.AST, is_next: bool = False) -> Iterator[tuple[ast.Constant | ast.JoinedStr, bool]]:
    """Every text below a node that is no docstring, and whether it is a ``next=`` or a ``repair=``."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node, is_next
        return
    is_next = is_next or (isinstance(node, ast.keyword) and node.arg in ("next", "repair"))
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        children.remove(node.body[0])
    for child in children:
        yield from strings(child, is_next)


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def texts() -> list[tuple[str, str, bool]]:
    """(where, text, whether it is a ``next=``) of every text of the package that is no docstring."""
    return [
        (f"{file.relative_to(ROOT).as_posix()}:{node.lineno}", rendered(node), is_next)
        for file in sorted(ROOT.rglob("*.py"))
        for node, is_next in strings(ast.parse(file.read_text(encoding="utf-8")))
    ]


QUOTED = re.compile(r"`(lemis [^`]*)`")
# Much of the help is in docstrings, which are not among the texts.
HELP = [
    (f"{verb} {one.name}", one.help) for verb, command in LEMIS.commands.items() for one in command.params if one.help
]


@cache
def commands() -> list[tuple[str, str]]:
    """(where, command), up to where a sentence goes on after it."""
    return [
        *((where, text) for where, text, is_next in texts() if is_next and text.startswith("lemis ")),
        *(
            (where, text.removeprefix("Example: ").split(". ")[0])
            for where, text, _ in texts()
            if text.startswith("Example: lemis ")
        ),
        *((where, command) for where, text, _ in texts() for command in QUOTED.findall(text)),
        *((f"help of {verb}", command) for verb, text in HELP for command in QUOTED.findall(text)),
    ]


def test_there_is_advice():
    assert len(commands()) > 40
    assert sum(is_next for _, _, is_next in texts()) > 200


def test_every_command_is_one_that_the_command_line_takes():
    assert {where: (command, why) for where, command in commands() if (why := fault(command)) is not None} == {}


def fault(command: str) -> str | None:
    """What the command line says against it."""
    words = shlex.split(command.replace("NAME...", "NAME"))[1:]
    if words and words[0].startswith("-"):
        return None if words[0] in ("--help", "--version") else f"there is no lemis {words[0]}"
    if len(words) == 1 and words[0] in LEMIS.commands and not command.isspace():  # the name of a verb in a sentence
        return None
    # `lemis {section}`: each of the verbs that sections are named for
    verbs = ("prepare", "pretrain", "finetune") if words[0] == PLACEHOLDER else words[:1]
    for name in verbs:
        if name not in LEMIS.commands:
            return f"there is no lemis {name}"
        try:
            context = LEMIS.commands[name].make_context(name, as_typed(words[1:]))
        except Exception as error:  # of Typer's, which come and go with its versions
            return str(error) or type(error).__name__
        unknown = [word for word in context.params.get("overrides") or [] if not known(word.partition("=")[0])]
        if unknown:
            return f"nobody takes {unknown}"
    return None


@pytest.mark.parametrize("command", ["lemis nothing", "lemis -x", "lemis fit --no-such", "lemis fit scans size=3"])
def test_a_command_that_is_not_taken_is_seen(command):
    assert fault(command) is not None


# What stands for a text that only running it tells, after an option that takes no text.
NUMBERS = dict.fromkeys(
    ("--fold", "--labelled", "--seed", "--jobs", "--dims", "--at-once", "--gpus", "--features"), "2"
)
TYPED = NUMBERS | {"--to": "torch"}


def as_typed(words: list[str]) -> list[str]:
    """With a number or a choice where an option takes one."""
    pairs = zip(["", *words], words, strict=False)
    return [TYPED.get(before, word) if word == PLACEHOLDER else word for before, word in pairs]


OPTIONS = {name for verb in LEMIS.commands.values() for option in verb.params for name in option.opts}


def test_every_option_is_one_that_a_verb_has():
    unknown = {
        where: named - OPTIONS - OF_OTHERS
        for where, text, is_next in texts()
        if is_next
        and (named := {word for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", text) if PLACEHOLDER not in word})
        and not named <= OPTIONS | OF_OTHERS
    }
    assert unknown == {}


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


NETWORKS = [plugins.describe("backbones", name) for name in plugins.names("backbones")]


def known(key: str) -> bool:
    """Whether some verb takes ``key=``."""
    first, *rest = key.split(".")
    if first == "finetune" and rest and rest[0] == "objective":
        return known(".".join(rest))
    if first == "settings" and rest:
        return known(".".join(rest))
    if first == "backbone" and any(rest == [one] for network in NETWORKS for one in network.get("reads", ())):
        return True
    if first in CLASSES and rest:
        return any(leads(cls, rest) for cls in CLASSES[first])
    return any(leads(cls, [first, *rest]) for cls in TOP)


def test_every_key_is_one_that_some_verb_takes():
    keys = [
        (where, key)
        for where, text, is_next in texts()
        if is_next and where.partition(":")[0] not in PYTHON_ONLY
        for key in re.findall(r"(?<![\w.'\"(#-])([a-z_]+(?:\.[a-z_]+)*)=(?!=)", text)
        if PLACEHOLDER not in key
    ]
    assert len(keys) > 20
    assert [(where, key) for where, key in keys if not known(key)] == []


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
