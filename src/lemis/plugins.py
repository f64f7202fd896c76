"""The folder is the registry: a file dropped into ``methods/`` or ``backbones/`` is found by its name.

Listing reads file names and source text only, so that ``lemis list`` does not import PyTorch.
A dotted name (``my_lab.idea``) loads a module from outside the package.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lemis.errors import UsageError

_ROOT = Path(__file__).parent


def names(folder: str) -> list[str]:
    """Names of the plug-ins in ``src/lemis/<folder>``, sorted, without importing any of them."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.py") if not path.stem.startswith("_"))


def load(folder: str, name: str) -> ModuleType:
    """Import one plug-in: a file name of ``folder``, or a dotted name of a module outside the package.

    Raises:
        UsageError: There is no such file or module; names the nearest one.
    """
    known = names(folder)
    if name in known:
        return importlib.import_module(f"lemis.{folder}.{name}")
    if "." in name and all(part.isidentifier() for part in name.split(".")):
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if found:
            return importlib.import_module(name)
    raise UsageError(
        f"{name!r} is not in {folder}",
        allowed=f"{', '.join(known)}, or the dotted name of an importable module",
        next=f"{nearest(name, known)!r}?" if nearest(name, known) else "`lemis list` shows them all",
    )


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
    tree = ast.parse(_source(folder, name))
    title = (ast.get_docstring(tree) or "").split("\n\n")[0]
    facts: dict[str, Any] = {"name": name, "title": " ".join(title.split())}
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
    return (_ROOT / folder / f"{name}.py").read_text(encoding="utf-8")


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
