"""What a module's settings are, without importing PyTorch: only the lines that a name needs are run.

A method's file holds its settings beside a network that needs PyTorch, which takes seconds to import; a mistyped key is
to be refused before. ``outline("lemis.methods.pcl").Settings`` runs the class statement ``Settings`` of that file, the
statements that it refers to, and nothing else. Modules of ours that need PyTorch are outlined in turn where a statement
refers to them; whatever else it imports is imported.
"""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, final

_HEAVY = ("torch", "lightning_fabric", "monai")
_OURS = __name__.partition(".")[0]
_DEEPEST = 5  # modules that re-export a name with a star


def outline(name: str) -> Any:
    """A module, or what stands for it: an object with the module's names as attributes, each made when it is asked for.

    Raises:
        ImportError: There is no such module.
        SyntaxError: It is no Python.
    """
    file = source(name)
    if name in sys.modules or file is None or not _needs_pytorch(name):
        return importlib.import_module(name)
    return _outlined(name, file)


def read(name: str) -> Any:
    """What stands for a module, whether it was imported or not.

    Raises:
        ImportError: There is no such module, or it is not written in Python.
    """
    file = source(name)
    if file is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _outlined(name, file)


def find(name: str, folders: Sequence[str] | None = None) -> ModuleSpec | None:
    """Where a module is, without running anything of it or of the packages around it; None where there is none.

    Args:
        name: Dotted.
        folders: To look in, ``sys.path`` by default.
    """
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    spec = PathFinder.find_spec(parts[0], folders) if folders else _spec(parts[0], None)
    for end in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _spec(".".join(parts[:end]), spec.submodule_search_locations)
    return spec


def _spec(name: str, folders: Sequence[str] | None) -> ModuleSpec | None:
    # importlib.util.find_spec would import the packages around it.
    found = (finder.find_spec(name, folders) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def lacks(name: str, wanted: tuple[str, ...]) -> list[str]:
    """Which of the wanted names a module neither defines nor imports, by its text alone.

    Raises:
        SyntaxError: It is no Python.
    """
    there = _exported(name, _DEEPEST)
    return [] if there is None else [one for one in wanted if one not in there]


def source(name: str) -> Path | None:
    """The file of a module that is written in Python; None where there is none."""
    spec = find(name)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@final
class _Outline(ModuleType):
    """Stands for a module that was not imported."""

    def __init__(self, name: str, statements: dict[str, ast.stmt], file: Path) -> None:
        super().__init__(f"outline of {name}")
        self.__file__ = str(file)
        self._statements, self._package = statements, _package(name, file)

    def __getattr__(self, name: str) -> Any:  # asked for what is not there yet
        statement = self._statements.pop(name, None)
        if statement is None:
            raise AttributeError(f"{self.__name__} has no {name}")
        if isinstance(statement, ast.ImportFrom):
            self.__dict__[name] = _member(_absolute(statement, self._package), _original(statement, name))
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self._statements:
                    getattr(self, node.id)
            code = compile(
                ast.Module([statement], []), str(self.__file__), "exec", __future__.annotations.compiler_flag, True
            )
            exec(code, self.__dict__)
        return self.__dict__[name]


@functools.cache
def _outlined(name: str, file: Path) -> _Outline:
    statements: dict[str, ast.stmt] = {}
    for statement in _tree(file).body:
        for bound in _bound(statement):
            statements[bound] = _without_annotations(statement)
    made = sys.modules[f"outline of {name}"] = _Outline(name, statements, file)  # where Python looks annotations up
    return made


def _member(module: str, name: str) -> Any:
    whole = f"{module}.{name}"
    if module.partition(".")[0] != _OURS:
        return getattr(importlib.import_module(module), name)
    return outline(whole) if find(whole) is not None else getattr(outline(module), name)


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module's first level gives a meaning to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            return []
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.If | ast.Try | ast.With):
        inner = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        return [name for child in inner for name in _bound(child)]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    parts = [node for target in targets if target is not None for node in ast.walk(target)]
    return [node.id for node in parts if isinstance(node, ast.Name)]


def _without_annotations(statement: ast.stmt) -> ast.stmt:
    # Those of a function are of tensors, often; those of a dataclass are its fields, and are kept.
    if isinstance(statement, ast.FunctionDef):
        arguments = statement.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for argument in every:
            if argument is not None:
                argument.annotation = None
        statement.returns = None
    return statement


def _original(statement: ast.ImportFrom, name: str) -> str:
    return next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    """The full name of the module that a ``from ... import`` statement names."""
    if not statement.level:
        return statement.module or ""
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)


def _imported(name: str) -> Iterator[str]:
    """Modules that a module imports as it is imported itself."""
    file = source(name)
    if file is None:
        return
    for statement in _tree(file).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            origin = _absolute(statement, _package(name, file))
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in statement.names)


@functools.cache
def _needs_pytorch(name: str) -> bool:
    return any(_is_heavy(other) for other in _imported(name) if other != name)


def _is_heavy(name: str) -> bool:
    top = name.partition(".")[0]
    return top in _HEAVY or (top == _OURS and _needs_pytorch(name))


def _exported(name: str, depth: int) -> set[str] | None:
    """Names that another module can import from this one; None where the text does not tell."""
    file = source(name)
    if file is None or depth == 0:
        return None
    names: set[str] = set()
    for statement in _tree(file).body:
        names.update(_bound(statement))
        if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names):
            more = _exported(_absolute(statement, _package(name, file)), depth - 1)
            if more is None:
                return None
            names |= more
    return None if "__getattr__" in names else names
