"""The folder is the registry: a file dropped into ``methods/`` or ``backbones/`` is found by its name.

Listing reads file names and source text only, so that ``lemis list`` does not import PyTorch.
A dotted name (``my_lab.idea``) loads a module from outside the package.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import io
import os
import shlex
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lemis import outline
from lemis.errors import UsageError, shown

_ROOT = Path(__file__).parent
_SEARCHED: list[Path] = []  # for modules of the user's
_OPTION = {
    "methods": "--method",
    "backbones": "--backbone",
    "auxiliary": "--auxiliary",
    "semi": "--semi",
    "single": "--method",
    "suggesters": "--method",
}
_NEEDED = {
    "methods": "Method",
    "backbones": "Backbone",
    "auxiliary": "Auxiliary",
    "semi": "Semi",
    "single": "segment",
    "suggesters": "suggest",
}


@dataclasses.dataclass(frozen=True)
class Trust:
    """Which modules may be imported because a file names them: those that the user named too, or every one.

    A run folder can come from anybody, and importing a module runs it.
    """

    names: frozenset[str] = frozenset()
    every: bool = False  # asked for with --trust

    def __contains__(self, name: str) -> bool:
        return self.every or name in self.names

    def also(self, *names: str | None) -> Trust:
        """With what the user named in this command."""
        return Trust(self.names | {name for name in names if name is not None}, self.every)


NO_TRUST = Trust()


def names(folder: str) -> list[str]:
    """Names of the plug-ins in ``src/lemis/<folder>``, sorted, without importing any of them."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.py") if not path.stem.startswith("_"))


def is_own(name: str) -> bool:
    """Whether a module that is named so is the user's: their names are dotted, and those of our files are not."""
    return "." in name


def load(folder: str, name: str) -> ModuleType:
    """Import one plug-in: a file name of ``folder``, or a dotted name of a module outside the package.

    Raises:
        UsageError: There is no such file or module (names the nearest one), it cannot be imported, or it is none.
    """
    module: ModuleType = _load(folder, name, importlib.import_module)
    return module


def outlined(folder: str, name: str) -> Any:
    """What ``load`` gives, as far as settings and constants go, without importing PyTorch: see ``lemis.outline``."""
    return _load(folder, name, outline.outline)


def _load(folder: str, name: str, how: Callable[[str], Any]) -> Any:
    known = names(folder)
    if name in known:
        return how(f"lemis.{folder}.{name}")
    what = f"{_OPTION.get(folder, f'--{folder}')} {shown(name, quoted=False)}"
    if not is_own(name) or name.endswith(".py") or not is_module(name):
        raise UsageError(
            f"{shown(name)} is not in {folder}",
            allowed=f"{', '.join(known)}, or the dotted name of an importable module",
            next=_next(folder, name, known),
        )
    needed = ("Settings", _NEEDED[folder]) if folder in _NEEDED else ()
    try:
        lacking = outline.lacks(name, needed)
    except SyntaxError as error:
        raise _broken(what, name, error) from None
    if lacking:
        raise _no_plugin(what, folder, lacking)
    light = how is not importlib.import_module
    module = own(name, what, _settings_only if light else how)
    lacking = [one for one in needed if not (light and one != "Settings") and not _is_there(module, one)]
    if lacking:
        raise _no_plugin(what, folder, lacking)
    return module


def _settings_only(name: str) -> Any:
    module = outline.outline(name)
    try:
        module.Settings  # noqa: B018
    except Exception:  # it is made in a way that its lines do not tell
        return importlib.import_module(name)
    return module


def search(folder: Path) -> None:
    """Look for modules in a folder too, after everything that is installed: the command line does, where it stands."""
    if folder not in _SEARCHED:
        _SEARCHED.append(folder)


def is_module(name: str) -> bool:
    """Whether there is a module of that name, without running anything of it; from here on it can be imported."""
    if outline.find(name) is not None:
        return True
    for folder in map(str, _SEARCHED):
        if outline.find(name, [folder]) is not None:
            sys.path.append(folder)  # last, so that no file there hides an installed module
            return True
    return False


def own(name: str, what: str, how: Callable[[str], Any] = importlib.import_module) -> Any:
    """Import a module of the user's.

    Args:
        name: Its dotted name.
        what: What the user typed, for messages.
        how: ``outline.outline`` where PyTorch is not to be imported.

    Raises:
        UsageError: Something in it, or in what it imports, goes wrong: says in which line.
    """
    try:
        return how(name)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(what, name, error) from error


def _broken(what: str, name: str, error: BaseException) -> UsageError:
    place = f"{name}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    else:
        own_lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        outside = [frame for frame in own_lines if not Path(frame.filename).is_relative_to(_ROOT)]
        if outside:
            place = f"{outside[-1].filename}, line {outside[-1].lineno}"
    said = traceback.format_exception_only(error)[-1].strip()
    return UsageError(
        f"{what} cannot be imported: {place}: {shown(said, quoted=False)}",
        allowed="a module that Python imports",
        next=f"python -c 'import {name}' shows the whole error",
    )


def _no_plugin(what: str, folder: str, lacking: Sequence[str]) -> UsageError:
    needed = ("Settings", _NEEDED[folder])
    return UsageError(
        f"{what} is a module without {' and '.join(lacking)}",
        allowed=f"a module with {' and '.join(needed)}, as every file in src/lemis/{folder} has them",
        next="copy the nearest file of that folder and change it (docs/extending.md)",
    )


def _is_there(module: Any, name: str) -> bool:
    found = getattr(module, name, None)
    return dataclasses.is_dataclass(found) if name == "Settings" else callable(found)


def _next(folder: str, name: str, known: Sequence[str]) -> str:
    file = f"{name.removesuffix('.py')}.py"
    if os.path.isfile(file):  # of the user's, named as a path or without a folder
        option, parts = _OPTION.get(folder, f"--{folder}"), Path(file).with_suffix("").parts
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            return f"{option} {'.'.join(parts)}"
        return f"mkdir -p my_lab && mv {shlex.quote(file)} my_lab/, then {option} my_lab.{parts[-1]}"
    if is_own(name) and all(part.isidentifier() for part in name.split(".")):
        return f"look at the name, or go to the folder that holds {name.partition('.')[0]}/"
    return f"{nearest(name, known)!r}?" if nearest(name, known) else "`lemis list` shows them all"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like ``word``, or None when none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def describe(folder: str, name: str) -> dict[str, Any]:
    """What a file says of itself, read from its source: its title line and its capital-letter constants.

    Returns:
        ``name``, ``title`` (the first paragraph of the docstring on one line), and every public module-level
        constant written as a literal (``DIMS``, ``TRAINS``) in lower case.
    """
    return {"name": name, **_said(_source(folder, name))}


@functools.lru_cache(maxsize=256)  # every pair of a method and a network is asked for again and again
def _said(source: str) -> Mapping[str, Any]:
    tree = ast.parse(source)
    title = (ast.get_docstring(tree) or "").split("\n\n")[0]
    facts: dict[str, Any] = {"title": " ".join(title.split())}
    for node in tree.body:
        target, value = _assignment(node)
        if target.isupper() and not target.startswith("_") and _is_literal(value):
            facts[target.lower()] = _literal(value)
    return facts


def settings_of(folder: str, name: str, cls: str = "Settings") -> list[dict[str, Any]]:
    """The fields of a file's ``Settings`` (or of another dataclass in it), read from its source.

    Returns:
        A row per field: ``name``, ``default`` (its value, or its source text where that is not a literal) and
        ``note`` (the comment at the end of its line, or above it).
    """
    source = _source(folder, name)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    rows = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for line in node.body:
                field, default = _assignment(line)
                if field and isinstance(line, ast.AnnAssign):
                    note = comments.get(line.end_lineno or 0) or _comment_above(comments, line.lineno, source)
                    rows.append({"name": field, "default": _literal(default), "note": note})
    return rows


def _comment_above(comments: dict[int, str], line: int, source: str) -> str:
    lines = source.splitlines()
    above: list[str] = []
    while line > 1 and lines[line - 2].lstrip().startswith("#"):
        line -= 1
        above.insert(0, comments[line])
    return " ".join(above)


def _source(folder: str, name: str) -> str:
    file = _ROOT / folder / f"{name}.py"
    if is_own(name):
        file = outline.source(name) or file
    return file.read_text(encoding="utf-8")


def _assignment(node: ast.stmt) -> tuple[str, ast.expr | None]:
    # "", None where the statement is not `name = value` or `name: type = value`.
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return "", None


def _is_literal(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value)  # type: ignore[arg-type]  # None is refused like any other non-literal
    except (ValueError, TypeError):
        return False
    return True


def _literal(value: ast.expr | None) -> Any:
    if value is None:
        return None
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        factory = next((word.value for word in value.keywords if word.arg == "default_factory"), None)
        return f"{ast.unparse(factory)}()" if factory else ast.unparse(value)
    return ast.literal_eval(value) if _is_literal(value) else ast.unparse(value)
