"""What a verb takes, as the command line says it: read from its signature and docstring, without importing the verb.

Parameters before the ``*`` are arguments, those after it options; ``overrides`` are the ``KEY=VALUE`` at the end. The
help of each is its line in ``Args:``, where ``name`` of another parameter stands for its option and ``; by default X``
for what is taken where nothing is typed. A new parameter of a verb needs no line here, unless the command line knows
more of it than Python does: another name, a letter, a range, what stands for its value.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from lemis import outline, plugins
from lemis.errors import UsageError, shown

FLAGS = {"settings_file": "--settings", "runs": "--run"}  # others are called as in Python
LETTERS = {"output": "-o", "inputs": "-i", "method": "-m", "backbone": "-b", "number": "-n"}
METAVARS = {
    "folder": "SCANS", "scans": "SCANS", "upstream": "SCANS", "work": "WORK", "predictions": "WORK",
    "overrides": "KEY=VALUE", "settings_file": "FILE.yaml", "runs": "NAME", "references": "DIR", "batch": "DIR",
    "reference": "LABELMAP", "size": "PIXELS|native", "slices": "FIRST:LAST", "window": "LOW:HIGH", "pick": "LABEL",
    "click": "ROW,COL", "similarity": "SCAN:SLICE:ROW,COL", "keypoints": "SCAN:SLICE",
    "plan": "NAME|FILE.yaml|MODULE:FUNCTION", "cell": "KEY", "on": "ray|auto|ray://HOST:PORT", "features": "LAYER",
    "codes": "FILE.csv",
}  # fmt: skip
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "dims": (2, 3),
    "device": ("auto", "cpu", "cuda"),
    "split": ("pcl", "macl", "voxel_siamese"),
    "protocol": ("honest", "released"),
    "emit": ("slurm",),
    "similarity_form": ("cosine", "paper"),
    "to": ("torch", "onnx", "monai", "nnunet", "nnssl", "dicom-seg", "dicom-labelmap"),
    "also": ("dicom-seg", "dicom-labelmap"),
}
_LARGEST_SEED = 2**32 - 1  # settings.Seed, which is not imported for a help text
RANGES: Mapping[str, tuple[int, int | None]] = {
    "seed": (0, _LARGEST_SEED), "fold": (0, None), "labelled": (1, None), "jobs": (1, None), "at_once": (1, None),
    "gpus": (0, 1024), "features": (1, None), "number": (1, None), "channels": (1, None),
}  # fmt: skip

_TYPES: Mapping[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "Path": Path, "Trust": bool, "Sequence[str]": list[str],
}  # fmt: skip
_DEFAULT = re.compile(r"[;,] by default (.+?)(?=\.(?:\s|$))", re.DOTALL)


class Parameter(NamedTuple):
    """One of a verb's."""

    name: str
    types: tuple[str, ...]  # as written, without None
    default: Any  # ``inspect.Parameter.empty`` where it must be given
    is_argument: bool
    help: str


class Verb(NamedTuple):
    """What its file says of it."""

    parameters: tuple[Parameter, ...]
    description: str  # the docstring's paragraphs after the first, which speaks to who calls it from Python


def read(module: str, name: str, python_only: Collection[str] = ()) -> Verb:
    """A verb as its source has it.

    Args:
        module: Dotted, of the file.
        name: Of the function in it.
        python_only: Parameters that the command line does not have.
    """
    file = outline.source(module)
    assert file is not None, f"{module} is a file of ours"
    head = re.search(rf'^def {name}\(.*?""".*?"""', file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert head is not None, f"{module}.{name} has a docstring"
    (function,) = ast.parse(head[0]).body  # no more of the file is parsed, as this is done for every verb at each start
    assert isinstance(function, ast.FunctionDef)
    said = _Docstring(ast.get_docstring(function) or "")
    own = function.args
    placed = [None] * (len(own.args) - len(own.defaults))
    every = [*zip(own.args, [*placed, *own.defaults], strict=True), *zip(own.kwonlyargs, own.kw_defaults, strict=True)]
    found = [
        Parameter(one.arg, _types(one), _value(default), one in own.args, said.parameters[one.arg])
        for one, default in every
        if one.arg not in python_only
    ]
    return Verb(tuple(found), said.description)


def parameters(
    verb: Verb, flags: Mapping[str, str], metavars: Mapping[str, str], optional: Collection[str], mixed: str | None
) -> Iterator[inspect.Parameter]:
    """A verb's parameters as typer takes them, by their names; ``KEY=VALUE`` are the last of the arguments.

    Args:
        verb: From ``read``.
        flags: From ``flags``; the others are arguments.
        metavars: Where a value is called otherwise than in other verbs.
        optional: Arguments that need not be typed.
        mixed: The argument whose words stand among those of ``overrides``.
    """
    settings = next((one.help for one in verb.parameters if one.name == "overrides"), "")
    for one in sorted(verb.parameters, key=lambda one: one.name == "overrides"):
        if mixed and one.name == "overrides":
            continue
        more = f"; then {settings[0].lower()}{settings[1:]}" if one.name == mixed else ""
        text, shown = _help(one, flags, more)
        default = None if one.name in optional or one.default == () else one.default
        if default is not None and (one.name in CHOICES or one.name in RANGES):
            default = str(default)
        kind = _kind(one, is_mixed=one.name == mixed)
        info: Any
        if one.name in flags:
            names = (flags[one.name], *([LETTERS[one.name]] if one.name in LETTERS else []))
            info = typer.Option(*names, help=text, show_default=shown, callback=_checked(one, names))
        else:
            info = typer.Argument(help=text, show_default=shown)
        info.metavar = metavars.get(one.name, METAVARS.get(one.name)) or _values_of(one.name)
        if default is None:
            kind = kind | None
        yield keyword(one.name, Annotated[kind, info], default)


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A parameter of the function that typer calls."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def flags(verb: Verb, options: Collection[str] = ()) -> dict[str, str]:
    """The options of a verb, ``--keep-predictions`` for ``keep_predictions``.

    Args:
        verb: From ``read``.
        options: Arguments of the verb that are options here.
    """
    own = [one.name for one in verb.parameters if not one.is_argument or one.name in options]
    return {name: FLAGS.get(name, "--" + name.replace("_", "-")) for name in own if name != "overrides"}


def as_typed(text: str, flags: Mapping[str, str]) -> str:
    """Text of a docstring for a terminal: parameters by their options, code in single ticks, one line a paragraph."""
    shown = re.sub(r"``(\w+)``", lambda found: f"`{flags.get(found[1], found[1])}`", text).replace("``", "`")
    return "\n\n".join(" ".join(part.split()) for part in shown.split("\n\n"))


def _help(one: Parameter, flags: Mapping[str, str], more: str) -> tuple[str, Any]:
    """What is said of a parameter, and its default: in words where Python has none."""
    if one.name not in flags:
        return as_typed(one.help.removesuffix(".") + more.removesuffix(".") + ".", flags), False
    words = _DEFAULT.search(one.help)
    if words is None or one.default not in (None, ()):
        return as_typed(one.help, flags), one.default is not None
    return as_typed(_DEFAULT.sub("", one.help), flags), as_typed(words[1], flags).replace("`", "")


def _kind(one: Parameter, *, is_mixed: bool) -> Any:
    """The type that typer converts to."""
    if one.name in CHOICES or one.name in RANGES:
        return str  # and no type that refuses by itself, without a next step: see ``_checked``
    return list[str] if is_mixed else _TYPES[one.types[0]]


def _values_of(name: str) -> str | None:
    """What may be typed, for the help: the values of a closed list, or the numbers of a range."""
    if name in CHOICES:
        return "|".join(map(str, CHOICES[name]))
    if name in RANGES:
        least, most = RANGES[name]
        return f"NUMBER, {least} or more" if most is None else f"NUMBER, {least} to {most}"
    return None


def _checked(one: Parameter, names: Sequence[str]) -> Callable[[Any], Any] | None:
    """What makes of a typed value that of a closed list or a range, or refuses it with the command that is right."""
    if one.name in CHOICES:
        choices = {str(choice): choice for choice in CHOICES[one.name]}
        usual = str(one.default) if str(one.default) in choices else next(iter(choices))

        def chosen(typed: str | None) -> Any:
            if typed is None or typed in choices:
                return choices.get(typed or "")
            instead = plugins.nearest(typed.lower(), choices) or usual
            raise _refused(names, typed, ", ".join(choices), instead)

        return chosen
    if one.name in RANGES:
        least, most = RANGES[one.name]

        def within(typed: str | None) -> int | None:
            if typed is None:
                return None
            try:
                number = int(typed)
            except ValueError:
                number = least - 1
            if least <= number <= (number if most is None else most):
                return number
            allowed = f"a whole number, {least} or more" if most is None else f"a whole number, {least} to {most}"
            raise _refused(names, typed, allowed, str(least if most is None or number < least else most))

        return within
    return None


def _refused(names: Sequence[str], typed: str, allowed: str, instead: str) -> UsageError:
    """The error for a value that an option does not take; what to type next is the same command with one that it does.

    Args:
        names: Of the option.
        typed: The value.
        allowed: What would have been fine.
        instead: A value that is taken.
    """
    words = sys.argv[1:]
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names and value == typed and equals:
            words[place] = f"{name}={instead}"
        elif word in names and words[place + 1 : place + 2] == [typed]:
            words[place + 1] = instead
        else:
            continue
        return UsageError(f"{word.partition('=')[0]} {shown(typed, quoted=False)}", allowed=allowed,
                          next=shlex.join(["lemis", *words]))  # fmt: skip
    return UsageError(f"{names[0]} {shown(typed, quoted=False)}", allowed=allowed, next=f"{names[0]} {instead}")


def _types(argument: ast.arg) -> tuple[str, ...]:
    assert argument.annotation is not None, f"{argument.arg} has a type"
    parts = ast.unparse(argument.annotation).split(" | ")
    return tuple(part for part in parts if part != "None")


def _value(default: ast.expr | None) -> Any:
    """Of what a signature writes: a literal, a path, or ``NO_TRUST``."""
    if default is None:
        return inspect.Parameter.empty
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "Path":
        return Path(*map(ast.literal_eval, default.args))
    return False if ast.unparse(default) == "NO_TRUST" else ast.literal_eval(default)


class _Docstring:
    """In Google's style, as far as verbs need it."""

    def __init__(self, text: str) -> None:
        before, _, after = text.partition("\nArgs:\n")
        self.description = re.split(r"\n(?:Returns|Raises):\n", before)[0].partition("\n\n")[2].strip()
        section = re.split(r"\n(?=\S)", after)[0]
        entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, re.MULTILINE | re.DOTALL)
        self.parameters = {name: " ".join(said.split()) for name, said in entries}
