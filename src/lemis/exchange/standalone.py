"""A network as one Python file that needs PyTorch, and nothing of Lemis.

The class of the network and every definition that it uses are collected from their files, in the order in which Python
can run them. Names get the name of their file (``unet.block`` becomes ``unet_block``), so that no two are alike; those
of the network's own file stay. Annotations are kept as text and ask for nothing: with ``from __future__ import
annotations`` they are never run.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, final

from lemis import outline

_OURS = __name__.partition(".")[0]
_SCOPES = (
    ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


class CannotCollect(Exception):
    """A definition that cannot stand alone; says why."""


class _Key(NamedTuple):
    """A definition at the top of a file."""

    module: str
    name: str


@dataclass(frozen=True)
class _Source:
    """A file: what it defines, and what it imports."""

    defined: dict[str, ast.stmt]
    modules: dict[str, str]  # by the name here: imported modules of ours, dotted
    names: dict[str, _Key]  # by the name here: what is imported from modules of ours
    others: dict[str, tuple[str, str]]  # by the name here: the whole dotted name, and the statement


class Standalone(NamedTuple):
    """What was collected."""

    code: str
    packages: tuple[str, ...]  # that it imports beside Python's own, sorted


def collect(module: str, names: Iterable[str]) -> Standalone:
    """Definitions of a module and all that they use.

    Args:
        module: Dotted; a package of its own is collected from too, as ours is.
        names: Of its definitions, which keep their names.

    Raises:
        CannotCollect: One of them is made in a way that its lines do not tell.
    """
    return _Collector(module).collect(names)


@final
class _Collector:
    def __init__(self, module: str) -> None:
        self._root = module
        self._tops = {_OURS, module.partition(".")[0]}
        self._imports: dict[str, tuple[str, str]] = {}
        self._written: list[str] = []
        self._seen: set[_Key] = set()
        self._packages: set[str] = set()

    def collect(self, names: Iterable[str]) -> Standalone:
        called = {name: self._found(_Key(self._root, name)) for name in names}
        self._written += [f"{name} = {other}" for name, other in called.items() if name != other]
        imports = sorted({statement for _, statement in self._imports.values()}, key=_place)
        packages = sorted(self._packages - sys.stdlib_module_names)
        return Standalone("\n".join(imports) + "\n\n\n" + "\n\n\n".join(self._written) + "\n", tuple(packages))

    def _add(self, key: _Key) -> None:
        """Write a definition, after those that it uses."""
        if key in self._seen:
            return
        self._seen.add(key)
        node = self._source(key.module).defined.get(key.name)
        if node is None:
            raise CannotCollect(f"{key.name} is not defined at the top of {key.module}")
        renamed = _Renamed(lambda parts: self._resolved(key.module, parts)).visit(_without_limits(node))
        for inner in ast.walk(renamed):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                self._import_inside(key, inner)
        if isinstance(renamed, ast.FunctionDef | ast.ClassDef):
            renamed.name = self._named(key)
        else:
            self._seen |= {_Key(key.module, name) for name in _targets(node)}
        self._written.append(ast.unparse(ast.fix_missing_locations(renamed)))

    def _resolved(self, module: str, parts: tuple[str, ...]) -> tuple[str, int] | None:
        """What ``a`` or ``a.b`` of a file is called here, and how many of its parts that stands for."""
        source, first = self._source(module), parts[0]
        if first in source.modules and len(parts) > 1:
            return self._found(_Key(source.modules[first], parts[1])), 2
        if first in source.names:
            return self._found(source.names[first]), 1
        if first in source.defined:
            return self._found(_Key(module, first)), 1
        if first in source.others:
            whole, statement = source.others[first]
            before = self._imports.setdefault(first, (whole, statement))
            if before[0] != whole:
                raise CannotCollect(f"{first} is {before[0]} in one file and {whole} in another")
            self._packages.add(whole.partition(".")[0])
            return None
        if not hasattr(builtins, first):
            raise CannotCollect(f"{first} is not defined at the top of {module}")
        return None

    def _found(self, key: _Key) -> str:
        source = self._source(key.module)
        if key.name in source.names:  # imported there from elsewhere
            return self._found(source.names[key.name])
        self._add(key)
        return self._named(key)

    def _named(self, key: _Key) -> str:
        return key.name if key.module == self._root else f"{key.module.rpartition('.')[2]}_{key.name}"

    def _source(self, module: str) -> _Source:
        return _read(module, frozenset(self._tops))

    def _import_inside(self, key: _Key, node: ast.Import | ast.ImportFrom) -> None:
        found = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        tops = {name.partition(".")[0] for name in found}
        if not tops.isdisjoint(self._tops):
            raise CannotCollect(f"{key.module}.{key.name} imports {', '.join(found)} when it runs")
        self._packages |= tops


@final
class _Renamed(ast.NodeTransformer):
    """Names of the whole file as they are called in the collected one; those of arguments and locals stay."""

    def __init__(self, resolve: Callable[[tuple[str, ...]], tuple[str, int] | None]) -> None:
        self._resolve = resolve
        self._local: list[set[str]] = []

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._named(node, (node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name):
            return self._named(node, (node.value.id, node.attr))
        return self.generic_visit(node)

    def _named(self, node: ast.Name | ast.Attribute, parts: tuple[str, ...]) -> ast.AST:
        if any(parts[0] in names for names in self._local):
            return node
        found = self._resolve(parts)
        if found is None:
            return node
        name = ast.Name(found[0], node.ctx if found[1] == len(parts) else ast.Load())
        return name if found[1] == len(parts) else ast.Attribute(name, parts[1], node.ctx)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # Names of a class's body are not seen by its methods.
        own = {one.id for part in node.body for one in _stored(part)} | {
            part.name for part in node.body if isinstance(part, ast.FunctionDef)
        }
        for field in ("decorator_list", "bases", "keywords"):
            setattr(node, field, [self.visit(one) for one in getattr(node, field)])
        body: list[ast.stmt] = []
        for part in node.body:
            self._local.append(set() if isinstance(part, ast.FunctionDef) else own)
            body.append(self.visit(part))
            self._local.pop()
        node.body = body
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.args = self.visit(node.args)
        arguments = node.args
        own = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        own |= {one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None}
        for part in node.body:
            own |= {one.id for one in _stored(part)}
            own |= {one.asname or one.name for inner in ast.walk(part) for one in _imported(inner)}
            own |= {inner.name for inner in ast.walk(part) if isinstance(inner, ast.FunctionDef | ast.ClassDef)}
            own |= {inner.name for inner in ast.walk(part) if isinstance(inner, ast.ExceptHandler) and inner.name}
        self._local.append(own)
        node.body = [self.visit(part) for part in node.body]
        self._local.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._local.append({one.arg for one in node.args.args})
        node.body = self.visit(node.body)
        self._local.pop()
        return node

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> ast.AST:
        first = node.generators[0]
        outside = self.visit(first.iter)  # as Python does: before there are names of the loop
        first.iter = ast.Constant(None)
        self._local.append({one.id for loop in node.generators for one in _stored(loop.target)})
        self.generic_visit(node)
        self._local.pop()
        first.iter = outside
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension  # noqa: N815

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node  # its annotation is text

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value is not None else None
        return node


@final
class _Plain(ast.NodeTransformer):
    """``Annotated[int, Field(gt=0)]`` is ``int``."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple):
            kind: ast.AST = self.visit(node.slice.elts[0])
            return kind
        return self.generic_visit(node)


def _without_limits(node: ast.stmt) -> ast.stmt:
    copy: ast.stmt = _Plain().visit(ast.parse(ast.unparse(node)).body[0])
    return copy


def _targets(node: ast.stmt) -> list[str]:
    """Names that an assignment at the top of a file gives a value."""
    places = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [one.id for place in places for one in _stored(place)]


@cache
def _read(module: str, ours: frozenset[str]) -> _Source:
    file = outline.source(module)
    if file is None:
        raise CannotCollect(f"{module} is not one Python file")
    source = _Source({}, {}, {}, {})
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            source.defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            source.defined.update(dict.fromkeys(_targets(node), node))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for one in node.names:
                _note_from(source, node, one, module, ours)
        elif isinstance(node, ast.Import):
            for one in node.names:
                if one.name.partition(".")[0] in ours and one.asname:
                    source.modules[one.asname] = one.name
                else:
                    whole = one.name if one.asname else one.name.partition(".")[0]
                    source.others[one.asname or whole] = whole, ast.unparse(ast.Import([one]))
    return source


def _note_from(source: _Source, node: ast.ImportFrom, one: ast.alias, module: str, ours: frozenset[str]) -> None:
    here, package = one.asname or one.name, node.module or ""
    if node.level:
        above = ".".join(module.split(".")[: -node.level])
        package = f"{above}.{package}" if package else above
    whole = f"{package}.{one.name}"
    if package.partition(".")[0] not in ours:
        source.others[here] = whole, ast.unparse(ast.ImportFrom(node.module, [one], 0))
    elif outline.find(whole) is not None:
        source.modules[here] = whole
    else:
        source.names[here] = _Key(package, one.name)


def _stored(node: ast.AST) -> list[ast.Name]:
    """Names that get a value in this very scope, not in a function or a comprehension inside it."""
    if isinstance(node, _SCOPES):
        return []
    if isinstance(node, ast.Name):
        return [node] if isinstance(node.ctx, ast.Store) else []
    return [one for part in ast.iter_child_nodes(node) for one in _stored(part)]


def _imported(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def _place(statement: str) -> tuple[bool, str]:
    """Python's own modules before others."""
    return statement.split()[1].partition(".")[0] not in sys.stdlib_module_names, statement
